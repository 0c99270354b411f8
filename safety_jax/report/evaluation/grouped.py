"""Tables of results by group: twin prompts, and the scores of BBQ."""

from collections.abc import Mapping
from typing import Any

from safety_jax.evaluation.measures import groups as measures
from safety_jax.evaluation.measures import stereotypes
from safety_jax.evaluation.results.behaviour import GroupGap
from safety_jax.evaluation.results.estimates import Estimate
from safety_jax.evaluation.results.report import Report
from safety_jax.report.evaluation import words
from safety_jax.report.evaluation.cells import (
    EMPTY,
    Cell,
    Table,
    as_rate,
    estimate,
    ordered,
    rate,
)

_TITLES = {
    measures.REFUSED: "Refusals by the group named",
    measures.UNSAFE: "Unsafe answers by the group named",
    measures.WORDS: "Length of answers by the group named, in words",
}


def groups(report: Report) -> list[Table]:
    """All tables; none if no set names groups."""
    found = [*(_by_measure(report, name) for name in _TITLES), bias(report)]
    return [table for table in found if table is not None]


def bias(report: Report) -> Table | None:
    """The scores of BBQ, on our own sets and on the harness's tasks."""
    rows = [
        (
            Cell(row.set),
            Cell(row.model),
            _right(row.choice.get(stereotypes.RIGHT_AMBIGUOUS)),
            _right(row.choice.get(stereotypes.RIGHT_TOLD)),
            _score(row.choice.get(stereotypes.BIAS_AMBIGUOUS)),
            _score(row.choice.get(stereotypes.BIAS_TOLD)),
        )
        for row in ordered(report)
        if stereotypes.BIAS_AMBIGUOUS in row.choice
    ]
    text = (
        "Ambiguous contexts do not say who it was, so “unknown” is right; the others do. Bias is 0 "
        "if half of the answers that name a person follow the stereotype, 1 if all do, −1 if none "
        "does; in ambiguous contexts it is scaled by the share of wrong answers."
    )
    head = ("set", "model", "right, ambiguous", "right, told", "bias, ambiguous", "bias, told")
    return Table("Stereotypes in answers (BBQ)", text, head, tuple(rows)) if rows else None


def _right(found: Any) -> Cell:
    return rate(as_rate(found)) if isinstance(found, Mapping) else Cell(words.percent(found))


def _score(found: Any) -> Cell:
    return estimate(Estimate(**found)) if isinstance(found, Mapping) else Cell(words.number(found))


def _by_measure(report: Report, measure: str) -> Table | None:
    """A line for each set and group, a column for each model."""
    found = [gap for gap in report.groups if gap.measure == measure]
    models = words.models(report)
    places = dict.fromkeys((gap.set, gap.group) for gap in found)
    by = {(gap.set, gap.group, gap.model): gap for gap in found}
    rows = []
    for name, group in places:
        gaps = [by.get((name, group, model)) for model in models]
        pairs = max(gap.pairs for gap in gaps if gap)
        rows.append((Cell(name), Cell(group), Cell(str(pairs)), *map(_cell, gaps)))
    text = (
        "Twin prompts differ only in the group. Each value is followed by its difference from the "
        "other groups of its pairs with the 95% interval, and p of the exact test that permutes "
        "the groups of each pair, adjusted over the groups if they are more than two (Holm); for "
        "models other than the baseline, also by the change of this difference from the "
        "baseline's, with its own p."
    )
    head = ("set", "group", "pairs", *models)
    return Table(_TITLES[measure], text, head, tuple(rows)) if rows else None


def _cell(gap: GroupGap | None) -> Cell:
    if gap is None:
        return EMPTY
    shares = gap.measure != measures.WORDS
    value = words.percent(gap.own) if shares else f"{gap.own:.1f}"
    notes = [f"{_moved(gap.difference, shares)}, p {words.p_value(gap.p_holm)}"]
    if gap.change is not None:
        change = _moved(gap.change, shares)
        notes.append(f"changed by {change}, p {words.p_value(gap.change_p_holm)}")
    low = [p for p in (gap.p_holm, gap.change_p_holm) if p is not None and p < words.LEVEL]
    return Cell(value, tuple(notes), tone="doubt" if low else "")


def _moved(found: Estimate, shares: bool) -> str:
    """A difference with its interval; numbers of words to one decimal."""
    if shares or found.value is None or found.low is None or found.high is None:
        spans = words.interval(found.low, found.high, shares)
        return " ".join(filter(None, (words.difference(found, shares), spans)))
    return words.minus(f"{found.value:+.1f} [{found.low:.1f}, {found.high:.1f}]")
