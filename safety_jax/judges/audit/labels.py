"""Labels of answers, by people or another judge: a column of the rows, read as yes or no."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

from safety_jax.base.errors import ConfigError, DataError
from safety_jax.judges.inputs import ScoreInput
from safety_jax.judges.judge import HARMFUL, REFUSING, SAFER, JudgeCard, Score

# The meanings of a positive label, and the directions of judges that measure it.
HARM, REFUSAL = "harmful", "refusing"
MEANINGS = {HARM: (HARMFUL, SAFER), REFUSAL: (REFUSING,)}


@dataclasses.dataclass(frozen=True)
class LabelRule:
    """How a column is read.

    Attributes:
        column: its name.
        positive, negative: the values for yes and no, as text; rows with others are left out.
        means: the meaning of yes, a key of MEANINGS.
    """

    column: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    means: str


def read(items: Sequence[ScoreInput], rule: LabelRule) -> tuple[list[bool | None], dict[str, int]]:
    """The label of every row, None if it is neither yes nor no; and the counts of the latter.

    Raises:
        ConfigError: a value is both positive and negative.
        DataError: no row has the column, none is positive, or none is negative.
    """
    if both := set(rule.positive) & set(rule.negative):
        raise ConfigError(
            f"data.positive and data.negative share {min(both)!r}; remove it from one"
        )
    if not any(rule.column in item.row for item in items):
        known = sorted({name for item in items for name in item.row})
        raise DataError(
            f"data.label is {rule.column!r}, but no row has such a column; columns are "
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
            frequent = ", ".join(repr(value) for value, _ in Counter(values).most_common(8))
            raise DataError(
                f"data.{key} is {chosen!r}, but no row's {rule.column!r} is one of them; its "
                f"values are {frequent}"
            )
    return truths, dict(others.most_common())


def as_text(value: Any) -> str:
    """A label as text: its first line, such as `unsafe` in a guard's output; `true` for a JSON
    true, `1` for 1 and 1.0, "" for none."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip().partition("\n")[0].strip()


def fits(card: JudgeCard, means: str) -> bool:
    """Whether a judge measures what the labels mean; False without labels."""
    return card.direction in MEANINGS.get(means, ())


def line(card: JudgeCard) -> float | None:
    """The value from which a judge's verdict is positive: its threshold, or for a judge of refusal
    without one the middle of its range."""
    if card.threshold is not None:
        return card.threshold
    if card.direction == REFUSING and card.low is not None and card.high is not None:
        return (card.low + card.high) / 2
    return None


def verdict(card: JudgeCard, score: Score) -> bool | None:
    """Whether the judge calls it harmful, or refusing, whichever it measures; None if it does not
    tell."""
    if card.direction == REFUSING:
        cut = line(card)
        return None if score.value is None or cut is None else score.value >= cut
    return card.is_unsafe(score)
