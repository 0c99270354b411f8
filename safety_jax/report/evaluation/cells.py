"""Tables of a report and their cells, shared by the page, Markdown and the terminal."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from safety_jax.evaluation.results.estimates import Estimate, PairedChange, Rate
from safety_jax.evaluation.results.report import Report
from safety_jax.evaluation.results.rows import ResultRow
from safety_jax.maths import statistics
from safety_jax.report.evaluation import words

Span = tuple[float, float, float]  # low, value, high


@dataclasses.dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: the value.
        notes: small print: its interval, what it leaves out.
        change: against the baseline; only some tables show it.
        tone: "better", "worse", "doubt" or "".
        bar: low, value and high between 0 and 1, for a bar; None without one.
    """

    text: str
    notes: tuple[str, ...] = ()
    change: str = ""
    tone: str = ""
    bar: Span | None = None


@dataclasses.dataclass(frozen=True)
class Table:
    """A table with a line for every row.

    Attributes:
        title: short.
        text: how to read it.
        groups: headings above consecutive columns: (heading, number of columns); may be empty.
        head: names of columns; the first says what rows are.
        rows: each has as many cells as `head` has names; the first names the row.
    """

    title: str
    text: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    groups: tuple[tuple[str, int], ...] = ()


EMPTY = Cell(words.NONE)


def span(found: Rate | Estimate | None) -> Span | None:
    """A value with its interval; None without one."""
    if found is None or found.value is None or found.low is None or found.high is None:
        return None
    return found.low, found.value, found.high


def rate(found: Rate | None) -> Cell:
    if found is None:
        return EMPTY
    notes = (words.interval(found.low, found.high, True), words.unscored(found))
    return Cell(words.percent(found.value), tuple(filter(None, notes)), bar=span(found))


def changed(change: PairedChange | None, better: int) -> Cell:
    """A cell of a change with its interval and p.

    Args:
        better: 1 if more is better, -1 if less is, 0 if neither.
    """
    if change is None:
        return EMPTY
    notes = (
        words.interval(change.difference.low, change.difference.high, True),
        f"p {words.p_value(change.p)}",
    )
    text = words.difference(change.difference, True)
    return Cell(text, notes, tone=words.moved(change, better))


def with_change(cell: Cell, change: PairedChange | None, better: int) -> Cell:
    """A share's cell with its change and adjusted p as a note; see `changed`."""
    if change is None:
        return cell
    text = f"{words.difference(change.difference, True)}, p {words.p_value(change.p_holm)}"
    return dataclasses.replace(cell, notes=(*cell.notes, text), tone=words.moved(change, better))


def estimate(found: Estimate | None, shares: bool = False) -> Cell:
    known = span(found)
    if found is None or known is None:
        return Cell(words.number(found.value)) if found else EMPTY
    if shares:
        return Cell(words.percent(found.value), (words.interval(found.low, found.high, True),))
    low, text, high = words.numbers(known)
    return Cell(text, (f"[{low}, {high}]",))


def pooled(rates: Sequence[Rate | None]) -> Rate | None:
    """One rate over several sets; None unless all exist, so that models are comparable.

    Its interval counts clustered items, such as several answers to a prompt, by the effective
    numbers of the sets: the variance of a mean over strata is Σ (n_i / n)² v / m_i for items of
    variance v, n_i of them in a stratum, that tell as much as m_i independent ones.
    """
    known = [found for found in rates if found is not None and found.n]
    if not known or len(known) < len(rates):
        return None
    count, n = sum(r.count for r in known), sum(r.n for r in known)
    missing = sum(r.unscored for r in known)
    effective = None
    if any(r.effective is not None for r in known):
        effective = n**2 / sum(r.n**2 / (r.effective or r.n) for r in known)
    low, high = statistics.wilson_mean(count / n, effective or n)
    least, most = count / (n + missing), (count + missing) / (n + missing)
    return Rate(count, n, count / n, low, high, missing, least, most, effective)


def without_empty(table: Table) -> Table:
    """The table without empty columns."""
    kept = [
        i
        for i in range(len(table.head))
        if i == 0 or any(row[i].text != words.NONE for row in table.rows)
    ]
    return dataclasses.replace(
        table,
        head=tuple(table.head[i] for i in kept),
        rows=tuple(tuple(row[i] for i in kept) for row in table.rows),
    )


# ---------------------------------------------------------------------------- parts of rows


def safe_rate(report: Report, row: ResultRow) -> Rate | None:
    found = row.judged.get(report.safety)
    return found.safe if found else None


def safe_rates(report: Report, name: str) -> dict[str, Rate]:
    """Safe rates on one set, by model."""
    found = {row.model: safe_rate(report, row) for row in report.rows if row.set == name}
    return {model: r for model, r in found.items() if r is not None}


def any_refusal(row: ResultRow) -> Rate | None:
    return row.refused.any if row.refused else None


def accuracy(row: ResultRow) -> Rate | None:
    return as_rate(row.choice.get("accuracy"))


def as_rate(found: Any) -> Rate | None:
    """A rate among a row's JSON values."""
    return Rate(**found) if isinstance(found, Mapping) else None


def ordered(report: Report, *kinds: str) -> list[ResultRow]:
    """Rows of these kinds, or all, ordered by set and model."""
    sets = {name: place for place, name in enumerate(report.sets)}
    models = {name: place for place, name in enumerate(words.models(report))}
    return sorted(
        (row for row in report.rows if not kinds or row.kind in kinds),
        key=lambda row: (sets.get(row.set, len(sets)), models[row.model]),
    )
