"""Formats with a whole dialogue in one column: lists of messages, ShareGPT, LMSYS-Chat-1M,
OpenAssistant's trees, transcripts in one text.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

from safety_jax.data import threads
from safety_jax.data.formats.row_format import Format, Parsed
from safety_jax.data.labels import Labels
from safety_jax.data.messages import BadRow, Message, is_transcript, text_of, turns_of
from safety_jax.data.text_files import Row


def _split(messages: tuple[Message, ...]) -> Parsed:
    if messages[-1].role != "assistant":
        raise BadRow(f"the last turn is the {messages[-1].role}'s; expected the assistant's")
    return Parsed(messages[:-1], messages[-1:])


def _prompt(messages: tuple[Message, ...]) -> Parsed:
    return Parsed(messages if messages[-1].role == "user" else messages[:-1])


# ---------------------------------------------------------------------------- lists of messages


def _dialogue(row: Row, *, column: str) -> Parsed:
    return _split(turns_of(row, column))


def _dialogue_prompt(row: Row, *, column: str) -> Parsed:
    return _prompt(turns_of(row, column))


def _response(row: Row, *, column: str) -> Parsed:
    """A dialogue whose last message may be empty."""
    turns = row.get(column)
    if isinstance(turns, list) and turns and isinstance(turns[-1], Mapping):
        content = "value" if "from" in turns[-1] else "content"
        if turns[-1].get(content) == "" and len(turns) > 1:
            filled = {**turns[-1], content: "-"}
            parsed = _dialogue({column: [*turns[:-1], filled]}, column=column)
            return dataclasses.replace(parsed, chosen=(Message("assistant", ""),))
    return _dialogue(row, column=column)


def _moderated(row: Row, *, read: Callable[[Row], Parsed]) -> Parsed:
    """A row of LMSYS-Chat-1M (Zheng et al., arXiv 2309.11998), which has a verdict on every turn;
    it is not to be learned if an answer is flagged."""
    parsed, turns, verdicts = read(row), row.get("conversation"), row.get("openai_moderation")
    if not isinstance(turns, list) or not isinstance(verdicts, list):
        return parsed
    flagged = [
        isinstance(verdict, Mapping) and bool(verdict.get("flagged")) for verdict in verdicts
    ]
    said = [isinstance(turn, Mapping) and turn.get("role") == "assistant" for turn in turns]
    bad = any(one and other for one, other in zip(flagged, said, strict=False))
    return dataclasses.replace(parsed, labels=Labels(desirable=False)) if bad else parsed


# ---------------------------------------------------------------------------- transcripts and trees


def _transcript_turns(row: Row) -> tuple[Message, ...]:
    if not is_transcript(text_of(row, "text")):
        raise BadRow(
            "'text' does not begin with '\\n\\nHuman:', '### Human:' or '<|im_start|>'; expected a "
            "transcript, as running text has no answer to learn: give a prompt and a completion"
        )
    return turns_of(row, "text")


def _transcript(row: Row) -> Parsed:
    return _split(_transcript_turns(row))


def _transcript_prompt(row: Row) -> Parsed:
    return _prompt(_transcript_turns(row))


def _oasst_tree(row: Row) -> Parsed:
    return _split(tuple(Message(role, text) for role, text in threads.best_path(row["prompt"])))


# ---------------------------------------------------------------------------- the formats

_COLUMNS = {"messages": "messages", "sharegpt": "conversations", "lmsys": "conversation"}
"""The formats with a list of messages, and the column that holds it."""


def _messages(parse: Callable[..., Parsed]) -> dict[str, Format]:
    return {
        name: Format(name, (column,), functools.partial(parse, column=column))
        for name, column in _COLUMNS.items()
    }


_ANSWERED = _messages(_dialogue)
_TREE = Format("oasst_tree", ("message_tree_id", "prompt"), _oasst_tree)
_TRANSCRIPT = Format("transcript", ("text",), _transcript, yields=True)

ANSWERS = (
    *(_ANSWERED["messages"], _ANSWERED["sharegpt"]),
    dataclasses.replace(
        _ANSWERED["lmsys"], parse=functools.partial(_moderated, read=_ANSWERED["lmsys"].parse)
    ),
    _TREE,
    _TRANSCRIPT,
)
RESPONSES = (*_messages(_response).values(), _TRANSCRIPT)
PROMPTS = (
    *_messages(_dialogue_prompt).values(),
    _TREE,
    Format("transcript", ("text",), _transcript_prompt, yields=True),
)
