"""The interface of judges: conversations in, scores out, and a card that says what scores mean.

A score means nothing without its card: 3.4 is harmful to one judge, and excellent to another. So
every stored score carries the `protocol` of its card, and scores of different protocols are never
mixed.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from safety_jax.base.errors import ConfigError
from safety_jax.data import thoughts
from safety_jax.data.messages import Message
from safety_jax.data.records import Record

SAFER = "higher is safer"
HARMFUL = "higher is more harmful"
BETTER = "higher is better"
REFUSING = "higher is more refusing"
DIRECTIONS = (SAFER, HARMFUL, BETTER, REFUSING)


@dataclasses.dataclass(frozen=True, slots=True)
class Conversation:
    """A prompt and one response to it.

    Attributes:
        prompt: an optional system message, then user and assistant in turn; the last is the user's.
        response: the answer to judge, without the thought before it; may be empty.
        where: the row, for messages.
        thought: what a reasoning model wrote before the answer; no judge reads it.
        unfinished: the model was cut off inside its thought, so there is no answer to judge.
        unasked: the prompt was not asked, for lack of room, so there is no answer either.
    """

    prompt: tuple[Message, ...]
    response: str
    where: str
    thought: str = ""
    unfinished: bool = False
    unasked: bool = False

    @property
    def missing(self) -> str:
        """Why there is no answer to judge; "" if there is one."""
        return NO_ROOM if self.unasked else NO_ANSWER if self.unfinished else ""

    @property
    def question(self) -> str:
        """The last user message."""
        return self.prompt[-1].content

    def prompt_sha256(self) -> str:
        return _sha256([[message.role, message.content] for message in self.prompt])

    def response_sha256(self) -> str:
        if self.unasked:
            return _sha256([self.missing])  # unlike that of an empty answer
        if self.thought or self.unfinished:
            return _sha256([self.thought, self.response])
        return _sha256(self.response)


def from_record(record: Record) -> Conversation:
    """The conversation of a record whose last message is the response. Thought and answer are
    separated; the record's context is appended to the first user message, as in chat templates."""
    *prompt, response = record.messages
    if record.context:
        first = next(i for i, message in enumerate(prompt) if message.role == "user")
        prompt[first] = Message("user", f"{prompt[first].content}\n\n{record.context}")
    turn = thoughts.split(response.content)
    return Conversation(tuple(prompt), turn.answer, record.where, turn.thought, turn.unfinished)


def clusters_of(conversations: Sequence[Conversation]) -> np.ndarray:
    """The cluster of each conversation: its prompt, or its response if all have one prompt."""
    hashes = [one.prompt_sha256() for one in conversations]
    if len(set(hashes)) == 1:
        hashes = [one.response_sha256() for one in conversations]
    return np.unique(hashes, return_inverse=True)[1].astype(np.int64)


@dataclasses.dataclass(frozen=True, slots=True)
class Score:
    """One judgement.

    Attributes:
        value: None if the judge could not tell; never NaN or infinite.
        label: the judge's word for it: `full`, `unsafe`, ...; or "".
        reason: why there is no value; "" if there is one.
        details: further facts to store; JSON values.
    """

    value: float | None
    label: str = ""
    reason: str = ""
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.value is None and not self.reason:
            raise ValueError("a score without a value needs a reason")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"a score of {self.value}; use `unscored`")


NOT_FINITE = "the judge's output is not finite"
NO_ANSWER = "the response ends inside its thought"
NO_ROOM = "the conversation had no room for another turn"


def unscored(reason: str, **details: Any) -> Score:
    return Score(None, "", reason, details)


def scored(value: float, label: str = "", **details: Any) -> Score:
    """A score; unscored if the value is not finite."""
    if not math.isfinite(value):
        return unscored(NOT_FINITE)
    return Score(float(value), label, "", details)


@dataclasses.dataclass(frozen=True)
class JudgeCard:
    """What a judge's values mean, and what they depend on.

    Attributes:
        name: the judge's name in this run.
        kind: a key of `registry.KINDS`.
        model: the folder, hub id or service that judges; "" for rules.
        weights_sha256: of its weight files; None if there are none.
        direction: one of DIRECTIONS.
        low, high: the range of values; None if it is open.
        threshold: the value between safe and unsafe; None if none is set.
        template: how a conversation becomes the judge's input.
        precision: its number types; "" for rules and services.
        settings: everything else that values depend on; JSON values.
    """

    name: str
    kind: str
    model: str
    weights_sha256: str | None
    direction: str
    low: float | None
    high: float | None
    threshold: float | None
    template: str
    precision: str
    settings: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.direction not in DIRECTIONS:
            raise ConfigError(
                f"judge {self.name}: direction {self.direction!r}; expected one of "
                f"{', '.join(DIRECTIONS)}"
            )

    def protocol(self) -> str:
        """A hash (16 hex digits) of everything that values depend on: the same protocol gives the
        same scores. It does not cover the judge's name and threshold.
        """
        facts = dataclasses.asdict(self)
        return _sha256({k: v for k, v in facts.items() if k not in ("name", "threshold")})[:16]

    def is_unsafe(self, score: Score) -> bool | None:
        """Whether the score is unsafe; None if there is no value, no threshold, or the judge does
        not rate safety.

        A value at the threshold is unsafe if higher is more harmful, and safe if higher is safer.
        """
        if score.value is None or self.threshold is None:
            return None
        if self.direction == HARMFUL:
            return score.value >= self.threshold
        return score.value < self.threshold if self.direction == SAFER else None

    def preference(self, score: Score) -> float | None:
        """The value, negated if needed so that more is better; None if unscored.

        Raises:
            ConfigError: the judge does not tell better from worse.
        """
        if self.direction == REFUSING:
            raise ConfigError(
                f"judge {self.name} measures refusal, which is neither good nor bad; choose by a "
                f"judge whose direction is one of {', '.join(DIRECTIONS[:3])}, or give it one of "
                "these by an entry of the kind read_as"
            )
        if score.value is None:
            return None
        return -score.value if self.direction == HARMFUL else score.value


@runtime_checkable
class Judge(Protocol):
    """Anything that scores conversations."""

    @property
    def card(self) -> JudgeCard: ...

    def score(self, conversations: Sequence[Conversation]) -> list[Score]:
        """One score for each conversation, in order; unscored ones say why."""
        ...


def _sha256(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, default=dict)
    # JSON can hold a lone surrogate, which has no UTF-8.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
