"""Reads the turns of a dialogue from rows: lists of messages, bare texts, transcripts."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from safety_jax.data import thoughts, values


@dataclasses.dataclass(frozen=True, slots=True)
class Message:
    """One turn.

    Attributes:
        role: system, user or assistant.
        content: its text; a thought stands in front of an answer, as in `thoughts.py`.
        learned: False if the row says not to learn this answer (`"weight": 0`).
        cut: the answer was cut off (`"finish_reason": "length"`), so that its end is not learned.
    """

    role: str
    content: str
    learned: bool = True
    cut: bool = False


def same_words(turns: Sequence[Message], others: Sequence[Message]) -> bool:
    """Whether two dialogues say the same, whatever is learned of them."""
    return [(one.role, one.content) for one in turns] == [(one.role, one.content) for one in others]


class BadRow(Exception):
    """Says what is wrong with a row; the reader adds the row's place."""


class UnwantedRow(BadRow):
    """Says why a usable row is left out and counted: it says that it is not to be learned, or has
    no form that its source asks for."""


def text_of(row: Mapping[str, Any], column: str) -> str:
    """The text of a column; a BadRow if it has none."""
    if column not in row:
        raise BadRow(f"{column!r} is missing")
    value = row[column]
    if value is None:
        raise BadRow(f"{column!r} is null; expected text")
    if not isinstance(value, str):
        raise BadRow(f"{column!r} is {type(value).__name__}; expected text")
    if not value.strip():
        raise BadRow(f"{column!r} is empty")
    return value


def refuse_texts(row: Mapping[str, Any], column: str) -> None:
    """Raises a BadRow for an answer that is a list of texts: several answers, or one in a list.
    Read as a dialogue, some of them would be the user's."""
    value = row.get(column)
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        raise BadRow(f"{column!r} is a list of {len(value)} texts; expected one text, or messages")


def is_blank(value: Any) -> bool:
    return isinstance(value, str) and not value.strip()


# Alpaca, and data made like it, spell out that an instruction has no input: `<noinput>`, `No
# input.`, `{\\noinput}`. pandas writes `nan` for an empty cell. `None` and `N/A` do not count,
# because they may be inputs.
_NO_INPUT = re.compile(r"[\W_]*no[\W_]*input[\W_]*\d*[\W_]*")
_NO_INPUT_CHARACTERS = 20


def says_no_input(text: str) -> bool:
    """Whether a whole text only says that there is none."""
    short = len(text) <= _NO_INPUT_CHARACTERS
    return short and (text == "nan" or _NO_INPUT.fullmatch(text.lower()) is not None)


def turns_of(row: Mapping[str, Any], column: str) -> tuple[Message, ...]:
    """A list of messages, one message, a transcript, or the bare text of one answer."""
    value = listed(row.get(column), column)
    if not isinstance(value, list):
        text = text_of(row, column)
        return transcript(text) if is_transcript(text) else (Message("assistant", text),)
    if not value:
        raise BadRow(f"{column!r} is empty")
    named = [_message(item, i, f"{column}[{i}]") for i, item in enumerate(value)]
    found = [message for message in named if message is not None]
    if not found:
        raise BadRow(f"{column!r} holds an empty system message and nothing else")
    return _one_system(found)


def prompt_of(row: Mapping[str, Any], column: str) -> tuple[Message, ...]:
    """As `turns_of`, but a bare text is the user's, not the assistant's."""
    if isinstance(listed(row.get(column), column), list):
        return turns_of(row, column)
    text = text_of(row, column)
    return transcript(text) if is_transcript(text) else (Message("user", text),)


# ---------------------------------------------------------------------------- lists of messages

# The beginning of a list of messages that is spelled as text, as in a cell of a CSV file.
_SPELLED = re.compile(r"""\s*\[\s*\{\s*(['"])(?:role|from|content|value)\1\s*:""")


def listed(value: Any, column: str) -> Any:
    """Turns a list of messages that is spelled as JSON, or a single message, into a list; returns
    any other value as it is.

    Raises:
        BadRow: the value spells a list of messages, but not as JSON, for example as Python does.
    """
    if isinstance(value, Mapping) and ("role" in value or "from" in value):
        return [value]
    if not isinstance(value, str) or not _spells_messages(value):
        return value
    try:
        found, is_plain = values.JsonParser().parse(value)
        return found if is_plain else values.plain(found)
    except ValueError as error:  # broken JSON, or values that no row can hold
        raise BadRow(
            f"{column!r} spells a list of messages, but not as JSON ({error}); write it with "
            "json.dumps, or the rows as JSON lines or Parquet"
        ) from error


_ROLES = {
    "system": "system",
    "developer": "system",  # OpenAI's later name
    "user": "user",
    "human": "user",
    "prompter": "user",  # OpenAssistant
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",  # Gemini
}
# A role as a message spells it, behind whatever else it says.
_NAMED = re.compile(rf"""(['"])(?:role|from)\1\s*:\s*(['"])(?:{"|".join(_ROLES)})\2""")


def _spells_messages(text: str) -> bool:
    if _SPELLED.match(text):
        return True
    whole = text.lstrip()[:1] == "[" and text.rstrip()[-1:] == "]"
    return whole and _NAMED.search(text) is not None


_TOOLS = ("tool", "function", "function_call", "tool_call", "observation", "ipython")
# Fields that say whether a message is learned: OpenAI's and Mistral's, and axolotl's.
_LEARNED = ("weight", "train", "training", "trainable")
_TEXTS = ("text", "input_text", "output_text", None)  # OpenAI's two interfaces
_THOUGHT = ("reasoning_content", "reasoning", "thinking")


def _message(item: Any, number: int, name: str) -> Message | None:
    """The message of an item; None for a system message without text."""
    if isinstance(item, str):  # LIMA: questions and answers in turn
        return Message(("user", "assistant")[number % 2], text_of({name: item}, name))
    if not isinstance(item, Mapping):
        raise BadRow(f"{name} is {type(item).__name__}; expected role and content")
    try:
        who = text_of(item, "from" if "from" in item else "role").lower()
        _refuse_tools(item, who)
        if who not in _ROLES:
            raise BadRow(f"unknown role {who!r}; expected one of {', '.join(_ROLES)}")
        return _said(item, _ROLES[who])
    except BadRow as bad:
        raise BadRow(f"{name}: {bad}") from bad


def _refuse_tools(item: Mapping[str, Any], who: str) -> None:
    # A column of texts spells that there are none.
    none: tuple[Any, ...] = (None, "", [], {}, "[]", "{}", "null")
    calls = next(
        (key for key in ("tool_calls", "function_call") if item.get(key) not in none), None
    )
    if calls or who in _TOOLS:
        what = f"has {calls}" if calls else f"is the {who}'s"
        raise BadRow(f"{what}; no template here writes tool calls or their results")


def _said(item: Mapping[str, Any], role: str) -> Message | None:
    usual = "value" if "from" in item else "content"
    column = next((key for key in (usual, "content", "value", "text") if key in item), usual)
    text = _joined(item.get(column), column)
    if not text and isinstance(item.get("refusal"), str):
        text = item["refusal"]  # OpenAI's own refusals
    # Parquet holds null where a row has no such text.
    blank = not text.strip() if text is not None else column in item and item[column] is None
    if role == "system" and blank:
        return None
    text = text_of(item if text is None else {column: text}, column)
    if role != "assistant":
        return Message(role, text)
    thought = next((item[key] for key in _THOUGHT if item.get(key)), "")
    if not isinstance(thought, str):
        raise BadRow(
            f"its thought is {type(thought).__name__}; expected text in {', '.join(_THOUGHT)}"
        )
    if thought.strip():
        text = _with_thought(thought, text)
    return Message(role, text, _is_learned(item))


def _with_thought(thought: str, text: str) -> str:
    """An answer behind its thought, which the text may hold already, or an empty one."""
    own = thoughts.split(text, unwrap=False)
    if not own.thought.strip():
        return thoughts.before(thought, own.answer if own.answer else text)
    if own.thought.split() != thought.split():
        raise BadRow(
            "holds a thought, and a field of it holds another one; expected one of them alone"
        )
    return text


def _joined(value: Any, column: str) -> str | None:
    """The text of a list of parts, as in `[{"type": "text", "text": "Hello"}]`."""
    if not isinstance(value, list):
        return value if isinstance(value, str) else None
    found = []
    for part in value:
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        if isinstance(part, Mapping) and kind in _TEXTS:
            part = part.get("text")
        if not isinstance(part, str):
            raise BadRow(f"{column!r} has a part of the type {kind!r:.40}; expected text alone")
        found.append(part)
    return "".join(found)


def _is_learned(item: Mapping[str, Any]) -> bool:
    for key in _LEARNED:
        value = item.get(key)
        if value is None:
            continue
        if isinstance(value, list | dict) or value not in (0, 1):  # and so False and True
            raise BadRow(f"{key!r} is {value!r:.40}; expected 0 or 1")
        return bool(value)
    return True


def _one_system(found: list[Message]) -> tuple[Message, ...]:
    """Joins a system and a developer message at the beginning, because templates have one only."""
    if [message.role for message in found[:2]] == ["system", "system"]:
        both = Message("system", f"{found[0].content}\n\n{found[1].content}")
        return (both, *found[2:])
    return tuple(found)


# ---------------------------------------------------------------------------- transcripts

# The beginning of a transcript, and the labels of its turns: Anthropic's (Bai et al., arXiv
# 2204.05862), Guanaco's form of OpenAssistant's, and ChatML in one text.
_STYLES = {
    "\n\nHuman:": re.compile(r"\n\n(Human|Assistant):"),
    "### Human:": re.compile(r"### (Human|Assistant):"),
    "<|im_start|>": re.compile(r"(?:<\|im_end\|>\s*)?<\|im_start\|>(system|user|assistant)\n"),
}
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}


def is_transcript(text: str) -> bool:
    """Whether a text holds a whole dialogue."""
    text = _with_newlines(text)
    return text.startswith(tuple(_STYLES)) or _is_stripped(text)


def _with_newlines(text: str) -> str:
    """The text with lines that end as they do around the labels above, not as in Windows."""
    return text.replace("\r\n", "\n")


def _is_stripped(text: str) -> bool:
    """Whether a text is a transcript in Anthropic's style without both blank lines in front."""
    return text.lstrip().startswith("Human:") and "\n\nAssistant:" in text


def transcript(text: str) -> tuple[Message, ...]:
    """`\\n\\nHuman: … \\n\\nAssistant: …` -> messages.

    A final `Assistant:` without text asks for an answer and is not a message.
    """
    text = _with_newlines(text)
    text = f"\n\n{text.lstrip()}" if _is_stripped(text) else text
    style = next(style for start, style in _STYLES.items() if text.startswith(start))
    parts = style.split(text.removesuffix("\n").removesuffix("<|im_end|>"))[1:]
    if not parts:
        raise BadRow("the transcript has no turn; expected text with labels such as 'Human:'")
    who = [_SPEAKERS.get(speaker, speaker) for speaker in parts[::2]]
    contents = [content.strip() for content in parts[1::2]]
    if who[-1] == "assistant" and not contents[-1]:
        who, contents = who[:-1], contents[:-1]
    if who[0] == "system" and not contents[0] and len(who) > 1:
        who, contents = who[1:], contents[1:]
    if not all(contents):
        raise BadRow(f"turn {contents.index('')} of the transcript is empty")
    return tuple(Message(role, content) for role, content in zip(who, contents, strict=True))
