"""Labels of rows: unsafe or not, to be learned or not, kinds of harm."""

import ast
import contextlib
import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from safety_jax.data.messages import BadRow, UnwantedRow

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Labels:
    """What a row says about its answers; None if it does not say.

    Attributes:
        unsafe: for a preference, whether the chosen and the rejected answer are unsafe.
        chosen_is_safer: for a preference, whether the chosen answer is also the safer one.
        categories: kinds of harm, sorted.
        value: for a single answer, its rating, or 1 for unsafe and 0 for safe.
        desirable: for a single answer, whether it is one to learn.
    """

    unsafe: tuple[bool, bool] | None = None
    chosen_is_safer: bool | None = None
    categories: tuple[str, ...] = ()
    value: float | None = None
    desirable: bool | None = None


NAMES = {
    "unsafe": True, "harmful": True, "toxic": True,
    "safe": False, "harmless": False, "unharmful": False, "benign": False,
}  # fmt: skip
"""Labels in words, and whether they mean unsafe."""
# Also words for whether an answer is one to avoid.
_WORDS = NAMES | {
    "undesirable": True, "rejected": True, "bad": True,
    "desirable": False, "chosen": False, "good": False,
}  # fmt: skip

_FLAGS = {
    "true": True, "yes": True, "1": True, "1.0": True,  # as pandas writes 1 beside empty cells
    "false": False, "no": False, "0": False, "0.0": False,
}  # fmt: skip
_MISSING = (None, "")  # an empty cell of a CSV file says nothing
# Columns that say whether the only answer of a row is good, or bad.
_GOOD = (
    "is_safe", "is_response_safe", "safe", "desirable", "is_desirable", "kto_tag", "train",
    "trainable",
)  # fmt: skip
_BAD = (
    "unsafe", "is_unsafe", "harmful", "is_harmful", "toxic", "toxicity", "flagged", "deleted",
    "exclude", "excluded",
    "response_harm_label", "response_label",
)  # fmt: skip
VERDICTS = (*_GOOD, *_BAD, "label", "weight")
"""Columns that `refuse_unwanted` looks at."""
_VERDICTS = frozenset(VERDICTS) - {"weight"}


def flag_of(row: Row, column: str) -> bool:
    """Whether a column is true; a BadRow if it is neither true nor false."""
    value = as_flag(row.get(column))
    if value is None:
        raise BadRow(f"{column!r} is {row.get(column)!r:.80}; expected true or false")
    return value


def as_flag(value: Any) -> bool | None:
    """Whether a value is true; None if it is neither true nor false."""
    if isinstance(value, bool | int | float) and value in (0, 1):
        return bool(value)
    # A CSV file has no booleans.
    return _FLAGS.get(value.strip().lower()) if isinstance(value, str) else None


def named(row: Row, column: str) -> bool | None:
    """Whether a label in words means unsafe; None if the column has no such word."""
    return _word(row.get(column), NAMES)


def desirable(row: Row, column: str) -> bool:
    """Whether a column, such as KTO's `label`, says that the answer is one to learn."""
    bad = _word(row.get(column), _WORDS)
    return flag_of(row, column) if bad is None else not bad


def _word(value: Any, words: Mapping[str, bool]) -> bool | None:
    # A guard's verdict may be followed by lines with kinds of harm.
    return (
        words.get(value.strip().partition("\n")[0].strip().lower())
        if isinstance(value, str)
        else None
    )


def unsafe_of_both(row: Row) -> tuple[bool, bool] | None:
    """Whether the chosen and the rejected answer of a pair are unsafe; None if a row does not say.

    Raises:
        BadRow: it says so of one answer only, or twice and differently, or a value is unclear.
    """
    found = {
        names: tuple(flag_of(row, name) == unsafe for name in names)
        for names, unsafe in _UNSAFE.items()
        if any(row.get(name) not in _MISSING for name in names)
    }
    if len(set(found.values())) > 1:
        raise BadRow(f"{' and '.join(name for name, _ in found)} contradict each other")
    return next(((chosen, rejected) for chosen, rejected in found.values()), None)


def categories_of(row: Row, column: str) -> tuple[str, ...]:
    """A name, a list of names, or a mapping from name to whether it holds."""
    value = _spelled(row.get(column))
    if value in _MISSING:
        return ()
    if isinstance(value, Mapping):
        return tuple(sorted(name for name, holds in value.items() if holds))
    names = [value] if isinstance(value, str) else value
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        return tuple(sorted(set(names)))
    raise BadRow(f"{column!r} is {type(value).__name__}; expected a name or a list of names")


def _spelled(value: Any) -> Any:
    """The names that a text spells as a list or a mapping, in JSON or as pandas writes them into a
    CSV file; any other value as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    for read in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            found = read(value.strip())
            if isinstance(found, list | dict) and all(isinstance(name, str) for name in found):
                return found
    return value


def number_of(row: Row, column: str, expected: str = "a number") -> float:
    """The number in a column; a BadRow if there is none."""
    value = _number(row.get(column))
    if value is None or not math.isfinite(value):
        raise BadRow(f"{column!r} is {row.get(column)!r:.80}; expected {expected}")
    return value


# ---------------------------------------------------------------------------- not to be learned


def refuse_unwanted(row: Row, own: tuple[str, ...], labels: Labels) -> None:
    """Raises an UnwantedRow if a row says that its answer is bad or has weight 0.

    Args:
        own: columns that the row's format reads itself, so that they mean something else.
        labels: the labels that the format has found.

    Raises:
        BadRow: a column may say so, but its value is not understood.
    """
    refuse_weightless(row, own)
    if labels.desirable is False:
        raise UnwantedRow("its answer is labelled as one to avoid")
    if labels.unsafe is not None and labels.unsafe[0]:
        raise UnwantedRow("its answer is labelled unsafe")
    for column in sorted(_VERDICTS & row.keys()):
        if column in own or row[column] in _MISSING:
            continue
        if _says_bad(row, column, own):
            raise UnwantedRow(f"{column!r} is {row[column]!r:.40}: not an answer to learn")


def refuse_weightless(row: Row, own: tuple[str, ...] = ()) -> None:
    """Raises an UnwantedRow for a row of weight 0, a BadRow for one that is neither 0 nor 1."""
    if "weight" in own or row.get("weight") in _MISSING:
        return
    try:
        weight = flag_of(row, "weight")
    except BadRow as bad:
        raise BadRow(
            f"'weight' is {row['weight']!r:.40}; expected 0 or 1, or add without=weight"
        ) from bad
    if not weight:
        raise UnwantedRow("its weight is 0")


# Columns with the scores of both answers of a pair, as in UltraFeedback and similar sets.
_SCORES = tuple(
    tuple(form.format(answer=answer, score=score) for answer in ("chosen", "rejected"))
    for score in ("score", "rating", "reward")
    for form in ("{score}_{answer}", "{answer}_{score}", "{answer}-{score}")
)
# Columns that say of both answers of a pair whether they are safe, and whether true means unsafe.
_UNSAFE = {
    ("chosen_unsafe", "rejected_unsafe"): True,
    ("chosen_is_unsafe", "rejected_is_unsafe"): True,
    ("chosen_safe", "rejected_safe"): False,
    ("chosen_is_safe", "rejected_is_safe"): False,
    ("is_chosen_safe", "is_rejected_safe"): False,
}
OF_BOTH = tuple(name for names in _UNSAFE for name in names)
"""Columns of `unsafe_of_both`."""


def refuse_unpreferred(row: Row) -> None:
    """Raises an UnwantedRow for a pair with equal scores, a BadRow if the rejected answer has the
    higher score. Scores that are no numbers are ignored."""
    for names in _SCORES:
        chosen, rejected = (_number(row.get(name)) for name in names)
        if chosen is None or rejected is None:
            continue
        if chosen == rejected:
            raise UnwantedRow(
                f"neither answer is preferred: {names[0]!r} and {names[1]!r} are both the same"
            )
        if chosen < rejected:
            raise BadRow(
                f"{names[0]!r} is {chosen:g} and {names[1]!r} is {rejected:g}, so that the scores "
                f"prefer the rejected answer; add without={','.join(names)} to the source where "
                "they mean something else"
            )


def _number(value: Any) -> float | None:
    try:
        return None if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _says_bad(row: Row, column: str, own: tuple[str, ...]) -> bool:
    value = row[column]
    if (bad := _word(value, _WORDS)) is not None:
        return bad
    flag = as_flag(value)
    is_kto = column == "label" and "completion" in own  # TRL's columns
    if column == "label" and not is_kto:
        if flag is None and value != -1:
            return False  # a label of something else
        raise BadRow(
            f"'label' is {value!r:.40}, which may mean a good answer or a bad one; say which by "
            "columns=is_safe:label or columns=unsafe:label, or add without=label"
        )
    if flag is None:
        raise BadRow(
            f"{column!r} is {value!r:.40}; expected true or false, or add without={column}"
        )
    return flag if column in _BAD else not flag
