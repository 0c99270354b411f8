"""Trade-offs: safe shares against measures of help, with the Pareto front of models."""

import dataclasses
from collections.abc import Callable, Sequence

from safety_jax.evaluation.results.estimates import Rate
from safety_jax.evaluation.results.report import Report
from safety_jax.evaluation.results.rows import ResultRow
from safety_jax.evaluation.sets.items import ANSWER, CHOICE, REFERENCE, SAFE
from safety_jax.judges.judge import HARMFUL, REFUSING
from safety_jax.report.evaluation import cells, words
from safety_jax.report.evaluation.cells import Span

PANELS = 4  # the most trade-offs that are drawn
Pick = Callable[[ResultRow], Rate | None]


@dataclasses.dataclass(frozen=True)
class Point:
    """A model: `across` is help, `up` is safety, each in its own unit."""

    model: str
    place: int
    across: Span
    up: Span
    best: bool


@dataclasses.dataclass(frozen=True)
class TradeOff:
    """Safety against one measure of help; `best` points are on the Pareto front."""

    title: str
    shares: bool
    points: tuple[Point, ...]


def trade_offs(report: Report) -> list[TradeOff]:
    """Safe share of all unsafe sets against each measure of help; empty for one model."""
    models = words.models(report)
    names = [name for name in words.unsafe_sets(report) if cells.safe_rates(report, name)]
    up = {
        model: _pooled(report, model, names, lambda row: cells.safe_rate(report, row))
        for model in models
    }
    found = []
    for title, shares, across in _helps(report):
        both = [
            (m, a, u) for m in models if (a := across[m]) is not None and (u := up[m]) is not None
        ]
        points = tuple(
            Point(m, models.index(m), a, u, not any(_beats(other, (a, u)) for _, *other in both))
            for m, a, u in both
        )
        if len(points) > 1:
            found.append(TradeOff(title, shares, points))
    return found[:PANELS]


def _beats(one: Sequence[Span], other: Sequence[Span]) -> bool:
    """Whether one model is as good as another in both measures, and better in one."""
    values = [(a[1], b[1]) for a, b in zip(one, other, strict=True)]
    return all(a >= b for a, b in values) and any(a > b for a, b in values)


def _helps(report: Report) -> list[tuple[str, bool, dict[str, Span | None]]]:
    """Measures of help: (words, whether a share, by model)."""
    models = words.models(report)
    found: list[tuple[str, bool, dict[str, Span | None]]] = []
    names = words.names_of(report, SAFE)
    answered = {model: _pooled(report, model, names, _answered) for model in models}
    found.append(("safe prompts that are answered", True, answered))
    # Of a judge of harm or refusal, less is more help, which no axis here shows.
    facing = report.judges.get(report.helpfulness, {}).get("direction")
    for name in words.names_of(report, REFERENCE) if facing not in (HARMFUL, REFUSING) else ():
        rows = {model: report.row(model, name) for model in models}
        judged = {m: row.judged.get(report.helpfulness) if row else None for m, row in rows.items()}
        means = {m: cells.span(j.mean) if j else None for m, j in judged.items()}
        found.append((f"mean of {report.helpfulness} on {name}", False, means))
    names = words.names_of(report, CHOICE, ANSWER)
    right = {model: _pooled(report, model, names, cells.accuracy) for model in models}
    found.append((f"right answers, {', '.join(names)}", True, right))
    return found


def _answered(row: ResultRow) -> Rate | None:
    """The share of prompts that are not refused at all."""
    refused = cells.any_refusal(row)
    if refused is None or refused.value is None or refused.low is None or refused.high is None:
        return None
    return dataclasses.replace(
        refused,
        count=refused.n - refused.count,
        value=1 - refused.value,
        low=1 - refused.high,
        high=1 - refused.low,
    )


def _pooled(report: Report, model: str, names: Sequence[str], pick: Pick) -> Span | None:
    rows = [report.row(model, name) for name in names]
    return cells.span(cells.pooled([pick(row) if row else None for row in rows]))
