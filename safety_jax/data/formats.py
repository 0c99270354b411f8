"""Row formats: the columns that tell each, and how its rows are read.

`FORMATS`, `PROMPTS` and `RESPONSES` at the end are the whole of it: one entry a format. Columns
that a format does not name are ignored, except `SYSTEM`, which any format may have, and those by
which a row says that it is not to be learned, see labels.py.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

from safety_jax.data import attachments, threads
from safety_jax.data.labels import Labels, categories_of, flag_of
from safety_jax.data.messages import (
    BadRow,
    Message,
    UnwantedRow,
    is_blank,
    is_transcript,
    listed,
    prompt_of,
    refuse_texts,
    text_of,
    turns_of,
)
from safety_jax.data.text_files import Row

SYSTEM = ("system", "system_prompt", "system_message")


@dataclasses.dataclass(frozen=True, slots=True)
class Parsed:
    """A row of any format; what it lacks is empty."""

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...] = ()
    rejected: tuple[Message, ...] = ()
    context: str = ""
    labels: Labels = Labels()


@dataclasses.dataclass(frozen=True)
class Format:
    """A row format: its name, the columns that it needs, and how a row is read.

    Attributes:
        optional: further columns that it reads where they are there.
        beside: where not None, the only columns that may stand beside those needed; for formats
            whose column names are too common to be taken as a sign alone.
        yields: it is not meant where another format fits, too.
    """

    name: str
    columns: tuple[str, ...]
    parse: Callable[[Row], Parsed]
    optional: tuple[str, ...] = ()
    beside: tuple[str, ...] | None = None
    yields: bool = False

    def fits(self, row: Row) -> bool:
        extra = set(row) - set(self.columns)
        return set(self.columns) <= set(row) and (self.beside is None or extra <= set(self.beside))


def _may_be_empty(row: Mapping[str, Any], column: str) -> str:
    """Text that may be empty: what a model answered, which is judged and not learned."""
    if not isinstance(value := row.get(column), str):
        return text_of(row, column)
    return value


_Reader = Callable[[Mapping[str, Any], str], str]


# ---------------------------------------------------------------------------- one answer


def _instruction(
    row: Row, *, instruction: str, context: str, answer: str | None, read: _Reader = text_of
) -> Parsed:
    about = row.get(context)
    return Parsed(
        prompt=(Message("user", text_of(row, instruction)),),
        chosen=(Message("assistant", read(row, answer)),) if answer else (),
        context="" if about is None or is_blank(about) else text_of(row, context),
    )


def _instruction_prompt(row: Row) -> Parsed:
    """What Alpaca's rows ask, and Dolly's, whose context is called so."""
    about = "input" if "input" in row else "context"
    return _instruction(row, instruction="instruction", context=about, answer=None)


def _completion(
    row: Row, *, prompt: str = "prompt", answer: str | None, read: _Reader = text_of
) -> Parsed:
    asked = prompt_of(row, prompt)
    if answer is None:
        return Parsed(asked)
    if isinstance(listed(row.get(answer), answer), list):  # TRL's conversational form
        refuse_texts(row, answer)
        turns = turns_of(row, answer)
        if turns[-1].role != "assistant":
            raise BadRow(f"{answer!r} ends with the {turns[-1].role}; expected the assistant")
        return Parsed(asked, turns)
    return Parsed(asked, (Message("assistant", read(row, answer)),))


def _dialogue(row: Row, *, column: str) -> Parsed:
    return _split(turns_of(row, column))


def _split(messages: tuple[Message, ...]) -> Parsed:
    if messages[-1].role != "assistant":
        raise BadRow(f"the last turn is the {messages[-1].role}'s; expected the assistant's")
    return Parsed(messages[:-1], messages[-1:])


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


def _dialogue_prompt(row: Row, *, column: str) -> Parsed:
    return _prompt(turns_of(row, column))


def _prompt(messages: tuple[Message, ...]) -> Parsed:
    return Parsed(messages if messages[-1].role == "user" else messages[:-1])


def _moderated(row: Row, *, read: Callable[[Row], Parsed]) -> Parsed:
    """A row of LMSYS-Chat-1M (Zheng et al., arXiv 2309.11998): a verdict for every turn."""
    parsed, turns, verdicts = read(row), row.get("conversation"), row.get("openai_moderation")
    if not isinstance(turns, list) or not isinstance(verdicts, list):
        return parsed
    flagged = [
        isinstance(verdict, Mapping) and bool(verdict.get("flagged")) for verdict in verdicts
    ]
    said = [isinstance(turn, Mapping) and turn.get("role") == "assistant" for turn in turns]
    bad = any(one and other for one, other in zip(flagged, said, strict=False))
    return dataclasses.replace(parsed, labels=Labels(desirable=False)) if bad else parsed


def _wild_jailbreak(row: Row, *, answer: str | None, read: _Reader = text_of) -> Parsed:
    """A row of WildJailbreak (Jiang et al., arXiv 2406.18510): the adversarial form of the request
    where there is one."""
    asked = "adversarial" if row.get("adversarial") else "vanilla"
    return _completion(row, prompt=asked, answer=answer, read=read)


def _transcript_turns(row: Row) -> tuple[Message, ...]:
    if not is_transcript(text_of(row, "text")):
        raise BadRow(
            "'text' does not begin with '\\n\\nHuman:', '### Human:' or '<|im_start|>'; expected a "
            "transcript, as running text has no answer to learn: give a prompt and a completion"
        )
    return turns_of(row, "text")


def _whole_transcript(row: Row) -> Parsed:
    return _split(_transcript_turns(row))


def _transcript_prompt(row: Row) -> Parsed:
    return _prompt(_transcript_turns(row))


def _oasst_tree(row: Row) -> Parsed:
    return _split(tuple(Message(role, text) for role, text in threads.best_path(row["prompt"])))


# ---------------------------------------------------------------------------- two answers


def _preference(row: Row, *, prompt: str = "prompt") -> Parsed:
    for column in ("chosen", "rejected"):
        refuse_texts(row, column)
    chosen, rejected = turns_of(row, "chosen"), turns_of(row, "rejected")
    if chosen[0].role != "assistant":
        found = _implicit_preference(row)
        _check_same_prompt(row, prompt, found.prompt)
        return found
    return Parsed(prompt_of(row, prompt), chosen, rejected, labels=_labels(row))


def _check_same_prompt(row: Row, column: str, shared: tuple[Message, ...]) -> None:
    """Raises a BadRow where a row has its prompt twice, and the two are not the same.

    Two dialogues hold their prompt. Beside it, UltraFeedback repeats its first question as a text,
    others the last one, or all of it as one text.
    """
    if row.get(column) in (None, "", []):
        return
    said = {" ".join(message.content.split()) for message in shared}
    asked = [" ".join(message.content.split()) for message in prompt_of(row, column)]
    if isinstance(listed(row[column], column), list):
        known = said.issuperset(asked)
    else:
        known = any(one in other or other in one for one in asked for other in said)
    if not known:
        raise BadRow(
            f"{column!r} says what chosen and rejected, which are whole dialogues, do not begin "
            f"with; remove it from them or from the row, or add without={column} to the source"
        )


def _implicit_preference(row: Row) -> Parsed:
    """Two dialogues that begin alike; what they share up to a user message is the prompt."""
    chosen, rejected = turns_of(row, "chosen"), turns_of(row, "rejected")
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    while shared and chosen[shared - 1].role != "user":
        shared -= 1
    if not shared:
        raise BadRow(
            "chosen and rejected share no prompt; expected two dialogues that begin with the same "
            "question, or two answers beside a prompt"
        )
    return Parsed(chosen[:shared], chosen[shared:], rejected[shared:], labels=_labels(row))


def _labels(row: Row) -> Labels:
    """The optional columns `chosen_unsafe`, `rejected_unsafe` and `category`."""
    unsafe = None
    if row.get("chosen_unsafe") is not None or row.get("rejected_unsafe") is not None:
        unsafe = (flag_of(row, "chosen_unsafe"), flag_of(row, "rejected_unsafe"))
    safer = None if unsafe is None or unsafe[0] == unsafe[1] else unsafe[1]
    return Labels(unsafe, safer, categories_of(row, "category"))


def _safe_rlhf(row: Row) -> Parsed:
    """A row of PKU-SafeRLHF (Dai et al., arXiv 2310.12773); the better answer is the chosen one."""
    better, safer = (_answer_number(row, f"{what}_response_id") for what in ("better", "safer"))
    answers = [(Message("assistant", text_of(row, f"response_{i}")),) for i in (0, 1)]
    unsafe = [not flag_of(row, f"is_response_{i}_safe") for i in (0, 1)]
    categories: set[str] = set()
    for i in (0, 1):
        categories.update(categories_of(row, f"response_{i}_harm_category"))
    worse = 1 - better
    labels = Labels(
        unsafe=(unsafe[better], unsafe[worse]),
        chosen_is_safer=better == safer,
        categories=tuple(sorted(categories)),
    )
    return Parsed(prompt_of(row, "prompt"), answers[better], answers[worse], labels=labels)


def _answer_number(row: Row, column: str) -> int:
    value = row.get(column)
    if isinstance(value, str) and value in ("0", "1"):  # a CSV file has no numbers
        return int(value)
    if isinstance(value, bool | list | dict) or value not in (0, 1):
        raise BadRow(f"{column!r} is {value!r:.80}; expected 0 or 1")
    return int(value)


def _openai_preference(row: Row) -> Parsed:
    """OpenAI's file format for preference fine-tuning."""
    asked = row["input"]
    if not isinstance(asked, Mapping) or not isinstance(asked.get("messages"), list):
        raise BadRow("'input' holds no messages; expected {'messages': [...]}")
    attachments.refuse(asked)
    answers = (turns_of(row, "preferred_output"), turns_of(row, "non_preferred_output"))
    return Parsed(turns_of(asked, "messages"), *answers)


def _help_steer(row: Row) -> Parsed:
    """A row of HelpSteer3 (Wang et al., arXiv 2505.11475): -3 much prefers the first answer, 3 the
    second."""
    value = row.get("overall_preference")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRow(f"'overall_preference' is {value!r:.80}; expected a number from -3 to 3")
    if not value:
        raise UnwantedRow("neither answer is preferred")
    one, other = ((Message("assistant", text_of(row, f"response{i}")),) for i in (1, 2))
    chosen, rejected = (one, other) if value < 0 else (other, one)
    return Parsed(prompt_of(row, "context"), chosen, rejected)


# ---------------------------------------------------------------------------- the tables

_of = functools.partial
_CONVERSATION = Format(
    "lmsys",
    ("conversation",),
    _of(_moderated, read=_of(_dialogue, column="conversation")),
)
_TRANSCRIPT = Format("transcript", ("text",), _whole_transcript, yields=True)
FORMATS = (
    Format(
        "alpaca",
        ("instruction", "output"),
        _of(_instruction, instruction="instruction", context="input", answer="output"),
        optional=("input",),
    ),
    Format(
        "alpaca_lists",
        ("instructions", "outputs"),
        _of(_instruction, instruction="instructions", context="inputs", answer="outputs"),
        optional=("inputs",),
    ),
    Format(
        "dolly",
        ("instruction", "response"),
        _of(_instruction, instruction="instruction", context="context", answer="response"),
        optional=("context",),
    ),
    Format("messages", ("messages",), _of(_dialogue, column="messages")),
    Format("sharegpt", ("conversations",), _of(_dialogue, column="conversations")),
    _CONVERSATION,
    Format("completion", ("prompt", "completion"), _of(_completion, answer="completion")),
    Format("response", ("prompt", "response"), _of(_completion, answer="response")),
    Format("label", ("prompt", "label"), _of(_completion, answer="label"), beside=("id",)),
    Format(
        "open_orca",
        ("question", "response"),
        _of(_completion, prompt="question", answer="response"),
    ),
    Format(
        "toxic_chat",
        ("user_input", "model_output"),
        _of(_completion, prompt="user_input", answer="model_output"),
    ),
    Format(
        "wild_jailbreak",
        ("vanilla", "adversarial", "completion"),
        _of(_wild_jailbreak, answer="completion"),
    ),
    Format("preference", ("prompt", "chosen", "rejected"), _preference),
    Format("ultra_feedback", ("prompt", "chosen", "rejected", "messages"), _preference),
    Format("orca_dpo", ("question", "chosen", "rejected"), _of(_preference, prompt="question")),
    Format(
        "safe_rlhf",
        (
            "prompt",
            *("response_0", "response_1", "is_response_0_safe", "is_response_1_safe"),
            *("better_response_id", "safer_response_id"),
        ),
        _safe_rlhf,
    ),
    Format(
        "openai_preference",
        ("input", "preferred_output", "non_preferred_output"),
        _openai_preference,
    ),
    Format("help_steer", ("context", "response1", "response2", "overall_preference"), _help_steer),
    Format("implicit_preference", ("chosen", "rejected"), _implicit_preference),
    Format("oasst_tree", ("message_tree_id", "prompt"), _oasst_tree),
    _TRANSCRIPT,
)
PROMPTS = (
    Format(
        "instruction",
        ("instruction",),
        _instruction_prompt,
        optional=("input", "context"),
    ),
    Format(
        "instructions",
        ("instructions",),
        _of(_instruction, instruction="instructions", context="inputs", answer=None),
        optional=("inputs",),
    ),
    Format("prompt", ("prompt",), _of(_completion, answer=None)),
    Format("prompt_and_messages", ("prompt", "messages"), _of(_completion, answer=None)),
    Format("question", ("question",), _of(_completion, prompt="question", answer=None)),
    Format("user_input", ("user_input",), _of(_completion, prompt="user_input", answer=None)),
    Format("messages", ("messages",), _of(_dialogue_prompt, column="messages")),
    Format("sharegpt", ("conversations",), _of(_dialogue_prompt, column="conversations")),
    Format("lmsys", ("conversation",), _of(_dialogue_prompt, column="conversation")),
    Format("wild_jailbreak", ("vanilla", "adversarial"), _of(_wild_jailbreak, answer=None)),
    Format("adversarial", ("adversarial",), _of(_wild_jailbreak, answer=None)),
    Format(
        "openai_preference",
        ("input", "preferred_output", "non_preferred_output"),
        _openai_preference,
    ),
    Format("help_steer", ("context", "response1"), _of(_completion, prompt="context", answer=None)),
    Format("oasst_tree", ("message_tree_id", "prompt"), _oasst_tree),
    Format("implicit_preference", ("chosen", "rejected"), _implicit_preference, yields=True),
    Format("transcript", ("text",), _transcript_prompt, yields=True),
)
_ANSWERS = (
    *("alpaca", "alpaca_lists", "dolly", "completion", "response"),
    *("open_orca", "toxic_chat", "wild_jailbreak"),
)
# What a model answered, to be judged: as in FORMATS, but an answer may be empty.
RESPONSES = (
    *(
        dataclasses.replace(known, parse=_of(known.parse, read=_may_be_empty))  # type: ignore[call-arg]
        for known in FORMATS
        if known.name in _ANSWERS
    ),
    Format("messages", ("messages",), _of(_response, column="messages")),
    Format("sharegpt", ("conversations",), _of(_response, column="conversations")),
    Format("lmsys", ("conversation",), _of(_response, column="conversation")),
    _TRANSCRIPT,
)
