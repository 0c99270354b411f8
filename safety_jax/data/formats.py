"""Row formats: the columns that tell each, and how its rows are read.

`FORMATS`, `PROMPTS` and `RESPONSES` at the end are the whole of it: one entry a format. Columns
that a format does not name are ignored, except `system`, which any format may have.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

from safety_jax.data.readers import Row


@dataclasses.dataclass(frozen=True, slots=True)
class Message:
    """One turn. `role` is system, user or assistant."""

    role: str
    content: str


@dataclasses.dataclass(frozen=True, slots=True)
class Labels:
    """What is known of a preference beyond the preference; None where the row does not say.

    Attributes:
        unsafe: whether the chosen and the rejected answer are unsafe.
        chosen_is_safer: the chosen answer is also the safer one.
        categories: kinds of harm, sorted.
        value: of a single answer: its rating, or 1 for unsafe and 0 for safe.
        desirable: of a single answer: whether it is one to learn.
    """

    unsafe: tuple[bool, bool] | None = None
    chosen_is_safer: bool | None = None
    categories: tuple[str, ...] = ()
    value: float | None = None
    desirable: bool | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Parsed:
    """A row of any format; what it lacks is empty."""

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...] = ()
    rejected: tuple[Message, ...] = ()
    context: str = ""
    labels: Labels = Labels()


class BadRow(Exception):
    """What is wrong with a row; the reader adds where it is."""


@dataclasses.dataclass(frozen=True)
class Format:
    """A row format: its name, the columns that it needs, and how a row is read.

    Attributes:
        beside: where not None, the only columns that may stand beside those needed; for formats
            whose column names are too common to be taken as a sign alone.
    """

    name: str
    columns: tuple[str, ...]
    parse: Callable[[Row], Parsed]
    beside: tuple[str, ...] | None = None

    def fits(self, row: Row) -> bool:
        extra = set(row) - set(self.columns)
        return set(self.columns) <= set(row) and (self.beside is None or extra <= set(self.beside))


def text_of(row: Mapping[str, Any], column: str) -> str:
    if column not in row:
        raise BadRow(f"{column!r} is missing")
    value = row[column]
    if not isinstance(value, str):
        raise BadRow(f"{column!r} is {type(value).__name__}; expected text")
    if not value.strip():
        raise BadRow(f"{column!r} is empty")
    return value


def _response_of(row: Mapping[str, Any], column: str) -> str:
    """Text that may be empty: what a model answered, which is judged and not learned."""
    if not isinstance(value := row.get(column), str):
        return text_of(row, column)
    return value


_Reader = Callable[[Mapping[str, Any], str], str]


def _instruction(
    row: Row, *, instruction: str, context: str, answer: str | None, read: _Reader = text_of
) -> Parsed:
    about = row.get(context)
    return Parsed(
        prompt=(Message("user", text_of(row, instruction)),),
        chosen=(Message("assistant", read(row, answer)),) if answer else (),
        context="" if about is None or about == "" else text_of(row, context),
    )


def _completion(row: Row, *, answer: str | None, read: _Reader = text_of) -> Parsed:
    prompt = _prompt(row)
    if answer is None:
        return Parsed(prompt)
    if isinstance(row.get(answer), list):  # TRL's conversational form
        return Parsed(prompt, _turns(row, answer))
    return Parsed(prompt, (Message("assistant", read(row, answer)),))


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


def _dialogue(row: Row, *, column: str) -> Parsed:
    return _split(_turns(row, column))


def _dialogue_prompt(row: Row, *, column: str) -> Parsed:
    messages = _turns(row, column)
    return Parsed(messages if messages[-1].role == "user" else messages[:-1])


def _preference(row: Row) -> Parsed:
    chosen, rejected = _turns(row, "chosen"), _turns(row, "rejected")
    if chosen[0].role != "assistant":
        return _implicit_preference(row)
    return Parsed(_prompt(row), chosen, rejected, labels=_labels(row))


def _implicit_preference(row: Row) -> Parsed:
    """Two dialogues that begin alike; what they share up to a user message is the prompt."""
    chosen, rejected = _turns(row, "chosen"), _turns(row, "rejected")
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    while shared and chosen[shared - 1].role != "user":
        shared -= 1
    if not shared:
        raise BadRow("chosen and rejected share no prompt; expected two answers to one question")
    return Parsed(chosen[:shared], chosen[shared:], rejected[shared:], labels=_labels(row))


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
    return Parsed(_prompt(row), answers[better], answers[worse], labels=labels)


def _labels(row: Row) -> Labels:
    """The optional columns `chosen_unsafe`, `rejected_unsafe` and `category`."""
    unsafe = None
    if row.get("chosen_unsafe") is not None or row.get("rejected_unsafe") is not None:
        unsafe = (flag_of(row, "chosen_unsafe"), flag_of(row, "rejected_unsafe"))
    safer = None if unsafe is None or unsafe[0] == unsafe[1] else unsafe[1]
    return Labels(unsafe, safer, categories_of(row, "category"))


def _answer_number(row: Row, column: str) -> int:
    value = row.get(column)
    if isinstance(value, bool) or value not in (0, 1):
        raise BadRow(f"{column!r} is {value!r}; expected 0 or 1")
    return int(value)


def flag_of(row: Row, column: str) -> bool:
    value = row.get(column)
    if value in (True, False):  # also 1 and 0
        return bool(value)
    known = {"true": True, "false": False, "1": True, "0": False}
    if isinstance(value, str) and value.lower() in known:  # a CSV file has no booleans
        return known[value.lower()]
    raise BadRow(f"{column!r} is {value!r}; expected true or false")


def categories_of(row: Row, column: str) -> tuple[str, ...]:
    """A name, a list of names, or a mapping from name to whether it holds."""
    value = row.get(column)
    if value is None or value == "":
        return ()
    if isinstance(value, Mapping):
        return tuple(sorted(name for name, holds in value.items() if holds))
    names = [value] if isinstance(value, str) else value
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        return tuple(sorted(set(names)))
    raise BadRow(f"{column!r} is {type(value).__name__}; expected a name or a list of names")


def _split(messages: tuple[Message, ...]) -> Parsed:
    if messages[-1].role != "assistant":
        raise BadRow(f"the last turn is the {messages[-1].role}'s; expected the assistant's")
    return Parsed(messages[:-1], messages[-1:])


def _prompt(row: Row) -> tuple[Message, ...]:
    value = row.get("prompt")
    if isinstance(value, list):
        return _turns(row, "prompt")
    text = text_of(row, "prompt")
    return _transcript(text) if text.startswith(_HUMAN) else (Message("user", text),)


_HUMAN = "\n\nHuman:"
_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}


def _turns(row: Row, column: str) -> tuple[Message, ...]:
    """A list of messages, a transcript, or the bare text of one answer."""
    value = row.get(column)
    if not isinstance(value, list):
        text = text_of(row, column)
        return _transcript(text) if text.startswith(_HUMAN) else (Message("assistant", text),)
    if not value:
        raise BadRow(f"{column!r} is empty")
    return tuple(_message(item, f"{column}[{i}]") for i, item in enumerate(value))


def _message(item: Any, name: str) -> Message:
    if not isinstance(item, Mapping):
        raise BadRow(f"{name} is {type(item).__name__}; expected role and content")
    role, content = ("from", "value") if "from" in item else ("role", "content")
    try:
        who, what = text_of(item, role), text_of(item, content)
    except BadRow as bad:
        raise BadRow(f"{name}: {bad}") from bad
    if who.lower() not in _ROLES:
        raise BadRow(f"{name}: unknown role {who!r}; expected one of {', '.join(_ROLES)}")
    return Message(_ROLES[who.lower()], what)


def _transcript(text: str) -> tuple[Message, ...]:
    """`\\n\\nHuman: … \\n\\nAssistant: …` as in Anthropic's HH data (Bai et al., arXiv 2204.05862).

    An Assistant label with nothing after it asks for an answer, and is no message.
    """
    _, *parts = _TURN.split(text)
    roles, contents = parts[::2], [content.strip() for content in parts[1::2]]
    if roles[-1] == "Assistant" and not contents[-1]:
        roles, contents = roles[:-1], contents[:-1]
    if not all(contents):
        raise BadRow(f"turn {contents.index('')} of the transcript is empty")
    who = {"Human": "user", "Assistant": "assistant"}
    return tuple(Message(who[r], content) for r, content in zip(roles, contents, strict=True))


def _whole_transcript(row: Row) -> Parsed:
    if not text_of(row, "text").startswith(_HUMAN):
        raise BadRow(f"'text' does not begin with {_HUMAN!r}; expected a transcript")
    return _split(_turns(row, "text"))


_of = functools.partial
FORMATS = (
    Format(
        "alpaca",
        ("instruction", "output"),
        _of(_instruction, instruction="instruction", context="input", answer="output"),
    ),
    Format(
        "alpaca_lists",
        ("instructions", "outputs"),
        _of(_instruction, instruction="instructions", context="inputs", answer="outputs"),
    ),
    Format(
        "dolly",
        ("instruction", "response"),
        _of(_instruction, instruction="instruction", context="context", answer="response"),
    ),
    Format("messages", ("messages",), _of(_dialogue, column="messages")),
    Format("sharegpt", ("conversations",), _of(_dialogue, column="conversations")),
    Format("completion", ("prompt", "completion"), _of(_completion, answer="completion")),
    Format("response", ("prompt", "response"), _of(_completion, answer="response")),
    Format("label", ("prompt", "label"), _of(_completion, answer="label"), beside=("id",)),
    Format("preference", ("prompt", "chosen", "rejected"), _preference),
    Format(
        "safe_rlhf",
        (
            "prompt",
            *("response_0", "response_1", "is_response_0_safe", "is_response_1_safe"),
            *("better_response_id", "safer_response_id"),
        ),
        _safe_rlhf,
    ),
    Format("implicit_preference", ("chosen", "rejected"), _implicit_preference),
    Format("transcript", ("text",), _whole_transcript),
)
PROMPTS = (
    Format(
        "instruction",
        ("instruction",),
        _of(_instruction, instruction="instruction", context="input", answer=None),
    ),
    Format(
        "instructions",
        ("instructions",),
        _of(_instruction, instruction="instructions", context="inputs", answer=None),
    ),
    Format("prompt", ("prompt",), _of(_completion, answer=None)),
    Format("messages", ("messages",), _of(_dialogue_prompt, column="messages")),
    Format("sharegpt", ("conversations",), _of(_dialogue_prompt, column="conversations")),
)
_ANSWERS = ("alpaca", "alpaca_lists", "dolly", "completion", "response")
# What a model answered, to be judged: as in FORMATS, but an answer may be empty.
RESPONSES = (
    *(
        dataclasses.replace(known, parse=_of(known.parse, read=_response_of))  # type: ignore[call-arg]
        for known in FORMATS
        if known.name in _ANSWERS
    ),
    Format("messages", ("messages",), _of(_response, column="messages")),
    Format("sharegpt", ("conversations",), _of(_response, column="conversations")),
    Format("transcript", ("text",), _whole_transcript),
)
