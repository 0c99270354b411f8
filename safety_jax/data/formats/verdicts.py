"""Formats of judged answers: `RATINGS` with a number, `LABELS` as safe or unsafe, `DESIRABLE` as
one to learn or one to avoid.

Each is a format of `catalogue.FORMATS`, which reads the answer, and a column with the verdict.
"""

import dataclasses
import functools
from collections.abc import Callable

from safety_jax.data.formats.catalogue import FORMATS, PAIRS
from safety_jax.data.formats.row_format import Format, Parsed
from safety_jax.data.labels import NAMES, categories_of, desirable, flag_of, named, number_of
from safety_jax.data.messages import BadRow
from safety_jax.data.text_files import Row

_BASE = {known.name: known for known in FORMATS}


def _unsafe(row: Row, column: str) -> float:
    return float(flag_of(row, column))


def _safe(row: Row, column: str) -> float:
    return 1.0 - flag_of(row, column)


def _label(row: Row, column: str) -> float:
    if (unsafe := named(row, column)) is not None:
        return float(unsafe)
    try:
        return float(flag_of(row, column))
    except BadRow:
        raise BadRow(
            f"{column!r} is {row.get(column)!r:.80}; expected {', '.join(NAMES)}, or true or 1 for "
            "unsafe"
        ) from None


def _not_unsafe(row: Row, column: str) -> bool:
    return not flag_of(row, column)


def _named_safe(row: Row, column: str) -> bool:
    """A label in words. Refuses true and false: for KTO true means desirable, for judges unsafe."""
    if (unsafe := named(row, column)) is None:
        raise BadRow(
            f"{column!r} is {row.get(column)!r:.80}; expected {', '.join(NAMES)}; where it is true "
            "or false, say which is meant: columns=completion:response (true is desirable) or "
            f"columns=unsafe:{column}"
        )
    return not unsafe


def _judged(row: Row, *, base: Format, column: str, read: Callable[[Row, str], float]) -> Parsed:
    parsed = base.parse(row)
    labels = dataclasses.replace(
        parsed.labels, value=read(row, column), categories=categories_of(row, "category")
    )
    return dataclasses.replace(parsed, labels=labels)


def _desirability(
    row: Row, *, base: Format, column: str, read: Callable[[Row, str], bool]
) -> Parsed:
    parsed = base.parse(row)
    labels = dataclasses.replace(
        parsed.labels, desirable=read(row, column), categories=categories_of(row, "category")
    )
    return dataclasses.replace(parsed, labels=labels)


def _transcript(row: Row, *, column: str) -> Parsed:
    """A row of Anthropic's red-team attempts (Ganguli et al., arXiv 2209.07858): the last answer of
    a dialogue, with the rating of the whole dialogue."""
    row = {**row, "text": row.get("transcript")}
    return _judged(row, base=_BASE["transcript"], column=column, read=number_of)


def _format(name: str, base: str, column: str, read: Callable[[Row, str], float]) -> Format:
    known = _BASE[base]
    parse = functools.partial(_judged, base=known, column=column, read=read)
    return Format(name, (*known.columns, column), parse)


def _desirable(name: str, base: str, column: str, read: Callable[[Row, str], bool]) -> Format:
    known = _BASE[base]
    parse = functools.partial(_desirability, base=known, column=column, read=read)
    return Format(name, (*known.columns, column), parse)


RATINGS = (
    _format("rating", "response", "rating", number_of),
    _format("rating_of_completion", "completion", "rating", number_of),
    _format("rating_of_messages", "messages", "rating", number_of),
    Format(
        "red_team",
        ("transcript", "rating"),
        functools.partial(_transcript, column="rating"),
    ),
)
# Pairs need a label for each answer, as in PKU-SafeRLHF.
LABELS = (
    _format("unsafe", "response", "unsafe", _unsafe),
    _format("beavertails", "response", "is_safe", _safe),
    _format("labelled", "response", "label", _label),
    _format("labelled_messages", "messages", "unsafe", _unsafe),
    *PAIRS,
)
# Rows for KTO (Ethayarajh et al., arXiv 2402.01306) in TRL's columns, or with a safety label; of
# pairs, both answers count.
DESIRABLE = (
    _desirable("kto", "completion", "label", desirable),
    _desirable("kto_messages", "messages", "label", desirable),
    _desirable("desirable", "response", "desirable", desirable),
    _desirable("beavertails", "response", "is_safe", flag_of),
    _desirable("unsafe", "response", "unsafe", _not_unsafe),
    _desirable("labelled", "response", "label", _named_safe),
    _desirable("labelled_messages", "messages", "unsafe", _not_unsafe),
    _desirable("safe_messages", "messages", "is_safe", flag_of),
    _desirable("safe_completion", "completion", "is_safe", flag_of),
    _desirable("unsafe_completion", "completion", "unsafe", _not_unsafe),
    *PAIRS,
)
