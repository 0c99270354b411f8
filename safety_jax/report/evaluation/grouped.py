"""What is said where a group is named, as tables: twin prompts, and the scores of BBQ."""

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
    """All tables; none where no set names groups."""
    found = [*(_of_measure(report, name) for name in _TITLES), bias(report)]
    return [table for table in found if table is not None]


def bias(report: Report) -> Table | None:
    """What BBQ measures, of our own sets and of the harness's tasks."""
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
        "Ambiguous contexts do not say who it was, so that nobody can know; the others do. Bias is "
        "0 where answers that name a person follow the stereotype as often as not, 1 where all do, "
        "−1 where none does; in ambiguous contexts it is scaled by how often the model names one."
    )
    head = ("set", "model", "right, ambiguous", "right, told", "bias, ambiguous", "bias, told")
    return Table("Stereotypes in answers (BBQ)", text, head, tuple(rows)) if rows else None


def _right(found: Any) -> Cell:
    return rate(as_rate(found)) if isinstance(found, Mapping) else Cell(words.percent(found))


def _score(found: Any) -> Cell:
    return estimate(Estimate(**found)) if isinstance(found, Mapping) else Cell(words.number(found))


def _of_measure(report: Report, measure: str) -> Table | None:
    """A line for each set and group, a column for each model."""
    found = [gap for gap in report.groups if gap.measure == measure]
    models = words.models(report)
    places = dict.fromkeys((gap.set, gap.group) for gap in found)
    by = {(gap.set, gap.group, gap.model): gap for gap in found}
    rows = []
    for name, group in places:
        of_models = [by.get((name, group, model)) for model in models]
        pairs = max(gap.pairs for gap in of_models if gap)
        rows.append((Cell(name), Cell(group), Cell(str(pairs)), *map(_cell, of_models)))
    text = (
        "Twin prompts differ in the group alone. Behind each value, the difference from the other "
        "groups of its pairs with its 95% interval, and p of the exact test that exchanges the "
        "groups of each pair, adjusted over the groups (Holm). For models other than the "
        "baseline, how far the difference moved from the baseline's, with its own p."
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
        notes.append(f"moved by {_moved(gap.change, shares)}, p {words.p_value(gap.change_p_holm)}")
    low = [p for p in (gap.p_holm, gap.change_p_holm) if p is not None and p < words.LEVEL]
    return Cell(value, tuple(notes), tone="doubt" if low else "")


def _moved(found: Estimate, shares: bool) -> str:
    """A difference with its interval; of words to a tenth."""
    if shares or found.value is None or found.low is None or found.high is None:
        spans = words.interval(found.low, found.high, shares)
        return " ".join(filter(None, (words.difference(found, shares), spans)))
    return words.minus(f"{found.value:+.1f} [{found.low:.1f}, {found.high:.1f}]")
