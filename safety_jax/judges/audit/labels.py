"""What people, or another judge, said of answers: a column of the rows, read as yes or no."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

from safety_jax.base.errors import ConfigError, DataError
from safety_jax.judges.inputs import ScoreInput
from safety_jax.judges.judge import HARMFUL, REFUSING, SAFER, JudgeCard, Score

# What a positive label says, and which judges measure that.
HARM, REFUSAL = "harmful", "refusing"
MEANINGS = {HARM: (HARMFUL, SAFER), REFUSAL: (REFUSING,)}


@dataclasses.dataclass(frozen=True)
class LabelRule:
    """How a column is read.

    Attributes:
        column: its name.
        positive, negative: its values that say yes and no, as text; rows with another are left out.
        means: of yes, a key of MEANINGS.
    """

    column: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    means: str


def read(items: Sequence[ScoreInput], rule: LabelRule) -> tuple[list[bool | None], dict[str, int]]:
    """The truth of every row, None where its label is neither; and how often each such label is.

    Raises:
        ConfigError: a value is positive and negative.
        DataError: no row has the column, or no row is positive, or none negative.
    """
    if both := set(rule.positive) & set(rule.negative):
        raise ConfigError(
            f"data.positive and data.negative share {min(both)!r}; remove it from one"
        )
    if not any(rule.column in item.row for item in items):
        known = sorted({name for item in items for name in item.row})
        raise DataError(
            f"data.label is {rule.column!r}, and no row has such a column; columns are "
            f"{', '.join(known)}"
        )
    values = [as_text(item.row.get(rule.column)) for item in items]
    known_as = dict.fromkeys(rule.positive, True) | dict.fromkeys(rule.negative, False)
    truths = [known_as.get(value) for value in values]
    others = Counter(v for v, truth in zip(values, truths, strict=True) if truth is None)
    for key, wanted, chosen in (
        ("positive", True, rule.positive),
        ("negative", False, rule.negative),
    ):
        if wanted not in truths:
            there = ", ".join(repr(value) for value, _ in Counter(values).most_common(8))
            raise DataError(
                f"data.{key} is {chosen!r}, and no row's {rule.column!r} is one of them; its "
                f"values are {there}"
            )
    return truths, dict(others.most_common())


def as_text(value: Any) -> str:
    """A label as a config names it: its first line, such as `unsafe` of what a guard wrote; `true`
    for a JSON true, `1` for 1 and 1.0, "" where there is none."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip().partition("\n")[0].strip()


def fits(card: JudgeCard, means: str) -> bool:
    """Whether a judge measures what the labels are of; not without labels."""
    return card.direction in MEANINGS.get(means, ())


def line(card: JudgeCard) -> float | None:
    """The value from which a judge's verdict is positive: its threshold; of a judge of refusal
    without one, the middle of its range."""
    if card.threshold is not None:
        return card.threshold
    if card.direction == REFUSING and card.low is not None and card.high is not None:
        return (card.low + card.high) / 2
    return None


def verdict(card: JudgeCard, score: Score) -> bool | None:
    """Harmful or refusing, as the judge measures one or the other; None where it does not say."""
    if card.direction == REFUSING:
        cut = line(card)
        return None if score.value is None or cut is None else score.value >= cut
    return card.is_unsafe(score)
