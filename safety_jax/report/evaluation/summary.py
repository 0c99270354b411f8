"""The summary: models by sets, with safety, over-refusal and helpfulness."""

import dataclasses
from collections.abc import Callable, Sequence

from safety_jax.evaluation.results.comparisons import Comparison
from safety_jax.evaluation.results.estimates import Rate
from safety_jax.evaluation.results.report import Report
from safety_jax.evaluation.results.rows import ResultRow
from safety_jax.evaluation.sets.items import ANSWER, CHOICE, REFERENCE, SAFE, UNSAFE
from safety_jax.report.evaluation import words
from safety_jax.report.evaluation.cells import (
    Cell,
    Table,
    accuracy,
    any_refusal,
    estimate,
    pooled,
    rate,
    safe_rate,
    safe_rates,
)

Column = tuple[str, dict[str, Cell]]
Group = tuple[str, list[Column]]
Pick = Callable[[ResultRow], Rate | None]


def summary(report: Report) -> Table | None:
    """Models by sets: safe shares, over-refusal and helpfulness, as far as they were measured; None
    if nothing was."""
    groups = [
        group
        for group in (_safe(report), _refused(report), _over_refusal(report), _helpful(report))
        if group is not None
    ]
    if not groups:
        return None
    names = words.models(report)
    rows = [
        (Cell(name), *(cells[name] for _, columns in groups for _, cells in columns))
        for name in names
    ]
    return Table(
        "Summary",
        "95% intervals are in brackets. Shares are over the answers that were judged; the range "
        "after “unscored” is that over all answers.",
        ("model", *(head for _, columns in groups for head, _ in columns)),
        tuple(rows),
        (("", 1), *((heading, len(columns)) for heading, columns in groups)),
    )


def _safe(report: Report) -> Group | None:
    sets = [name for name in words.unsafe_sets(report) if safe_rates(report, name)]
    if not sets:
        return None
    heading = f"safe, by {report.safety} (unsafe prompts)"
    columns = _columns(report, sets, lambda row: safe_rate(report, row), f"safe/{report.safety}")
    return heading, columns


def _refused(report: Report) -> Group | None:
    """Refusals of unsafe prompts: without a judge of safety, nothing else is known of these."""
    return None if report.safety else _refusals(report, "refused (unsafe prompts)", UNSAFE)


def _over_refusal(report: Report) -> Group | None:
    return _refusals(report, "over-refusal (safe prompts)", SAFE)


def _refusals(report: Report, heading: str, kind: str) -> Group | None:
    sets = [
        name
        for name in words.names_of(report, kind)
        if any(row.refused for row in report.rows if row.set == name)
    ]
    return (heading, _columns(report, sets, any_refusal, "refused")) if sets else None


def _columns(report: Report, sets: Sequence[str], pick: Pick, measure: str) -> list[Column]:
    """One column for each set, and one for all of them together."""
    changes = {
        (c.second, c.set): c
        for c in report.comparisons
        if c.measure == measure and c.first == report.baseline and not c.refused_because
    }
    found: list[Column] = []
    rates: dict[str, list[Rate | None]] = {name: [] for name in words.models(report)}
    for name in sets:
        cells = {}
        for model in rates:
            row = report.row(model, name)
            rates[model].append(pick(row) if row else None)
            cells[model] = changed(
                report, rate(rates[model][-1]), changes.get((model, name)), model
            )
        found.append((f"{name} ({_size(report, name)})", cells))
    if len(sets) > 1:
        kind = words.ALL + words.set_kind(report, sets[0])
        together = {
            model: changed(report, rate(pooled(found)), changes.get((model, kind)), model)
            for model, found in rates.items()
        }
        found.append(("all together", together))
    return found


def _helpful(report: Report) -> Group | None:
    columns: list[Column] = []
    for name in words.names_of(report, REFERENCE, SAFE):
        rows = {
            row.model: row.judged.get(report.helpfulness) for row in report.rows if row.set == name
        }
        if any(found is not None for found in rows.values()):
            measure = f"mean/{report.helpfulness}"
            cells = {
                model: changed(
                    report,
                    estimate(found.mean if (found := rows.get(model)) else None),
                    comparison(report, model, name, measure),
                    model,
                )
                for model in words.models(report)
            }
            columns.append((f"{name}, mean of {report.helpfulness}", cells))
    for name in words.names_of(report, CHOICE, ANSWER):
        cells = {}
        for model in words.models(report):
            row = report.row(model, name)
            cell = rate(accuracy(row) if row else None)
            cells[model] = changed(report, cell, comparison(report, model, name, "accuracy"), model)
        columns.append((f"{name}, right", cells))
    return ("helpfulness", columns) if columns else None


def comparison(report: Report, model: str, name: str, measure: str) -> Comparison | None:
    """The comparison of a model with the baseline, if one was made."""
    for c in report.comparisons:
        if (c.first, c.second, c.set, c.measure) == (report.baseline, model, name, measure):
            return None if c.refused_because else c
    return None


def changed(report: Report, cell: Cell, found: Comparison | None, model: str) -> Cell:
    if found is None or found.difference.value is None or model == report.baseline:
        return cell
    text = words.difference(found.difference, words.is_share(found.measure))
    return dataclasses.replace(
        cell, change=f"{text}{' forced' if found.forced else ''}", tone=words.tone(report, found)
    )


def _size(report: Report, name: str) -> str:
    own = [row for row in report.rows if row.set == name]
    sizes = sorted({row.n if row.prompts is None else row.prompts for row in own})
    text = "–".join(map(str, dict.fromkeys([sizes[0], sizes[-1]])))
    each = max(row.answers_per_prompt for row in own)
    return f"{text} × {each} answers" if each > 1 else text
