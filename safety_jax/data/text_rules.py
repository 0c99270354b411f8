"""The rules by which texts of rows are read, for all templates: special text, reasoning, settings
of chat templates; and which rows the rules leave out."""

import dataclasses
import datetime
from collections.abc import Sequence

from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data import thoughts
from safety_jax.data.chat import DATED, UNASKED, ChatSettings
from safety_jax.data.control import ControlTokens
from safety_jax.data.messages import Message
from safety_jax.data.records import Record

AS_TEXT, ERROR, SKIP = SPECIAL_TEXT = ("text", "error", "skip")
KEEP, DROP = REASONING_RULES = ("keep", "drop")


@dataclasses.dataclass(frozen=True)
class TextRules:
    """How texts of rows are read, for all templates, in training and in use.

    Attributes:
        special_text: what to do with text that spells a control token: "text" reads it as letters,
            "error" refuses its row, "skip" leaves the row out.
        reasoning: "keep" passes the thoughts of answers to the template, "drop" removes them.
        chat: the settings of chat templates.
    """

    special_text: str
    reasoning: str
    chat: ChatSettings

    def __post_init__(self) -> None:
        for key, choices in (("special_text", SPECIAL_TEXT), ("reasoning", REASONING_RULES)):
            if (value := getattr(self, key)) not in choices:
                raise ConfigError(f"data.{key} is {value!r}; expected one of {', '.join(choices)}")


# The rules of judges, whose scores must not change from day to day.
FIXED = TextRules(AS_TEXT, KEEP, ChatSettings(datetime.date(2024, 7, 26), None))


DROPPED = "dropped"
# How a row's text may differ from the row, in words.
NOTES = {
    DROPPED: "reasoning is left out by data.reasoning=drop",
    "reasoning": "the template leaves out reasoning (of earlier turns, or of all)",
    "system": "the template leaves out the system message",
    "user": "the template leaves out what a user says",
    "assistant": "the template leaves out an answer",
    DATED: "the template writes the day, which stays that on which the run began, or the one of "
    "data.template_date",
    UNASKED: "the template asks for an answer otherwise (it may open a thought) than answers stand "
    "in these rows",
}


class SpecialText(DataError):
    """A row spells a control token, and the rules do not allow to read it."""


def leave_out(problem: DataError, optional: bool, rules: TextRules) -> str:
    """Returns why a row that cannot be encoded is left out; raises `problem` if it must not be.

    Args:
        optional: its source allows it, by bad_rows=skip.
    """
    special = isinstance(problem, SpecialText)
    if not optional and not (special and rules.special_text == SKIP):
        raise problem
    return "text that spells a special token" if special else "no place in the template"


def spoken(records: Sequence[Record], rules: TextRules) -> list[Record]:
    """The records, without their reasoning if the rules drop it."""
    if rules.reasoning == KEEP:
        return list(records)
    return [
        record if (messages := _without_reasoning(record)) is None
        else dataclasses.replace(record, messages=messages)
        for record in records
    ]  # fmt: skip


def _without_reasoning(record: Record) -> tuple[Message, ...] | None:
    """A record's messages without thoughts; None if it has none."""
    found = []
    for message in record.messages:
        turn = thoughts.split(message.content, unwrap=False)
        if message.role == "assistant" and (turn.thought or turn.unfinished):
            message = dataclasses.replace(message, content=turn.answer)
        found.append(message)
    return None if tuple(found) == record.messages else tuple(found)


def find_special(record: Record, control: ControlTokens) -> SpecialText | None:
    """An error about the first control token that a record spells; None if it spells none."""
    texts = [("context", record.context)]
    for message in record.messages:
        texts += [(f"{message.role}'s text", message.content)]
    return next(filter(None, (_special(record, *named, control) for named in texts)), None)


def special_opening(record: Record, text: str, control: ControlTokens) -> SpecialText | None:
    """As `find_special`, for the harmful answer that a record begins with."""
    return _special(record, "answer that it begins with", text, control)


def _special(record: Record, whose: str, text: str, control: ControlTokens) -> SpecialText | None:
    found = control.find(text)
    if found is None:
        return None
    return SpecialText(
        f"{record.where}: the {whose} holds the special token {found.group()!r}; remove it, add "
        "bad_rows=skip to the source, or set data.special_text to text, which reads it as letters, "
        "or to skip"
    )
