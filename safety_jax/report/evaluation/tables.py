"""The tables of a report as plain data: what is measured of each model.

Every form of the report, page, Markdown and terminal, shows these same tables.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from safety_jax import statistics
from safety_jax.evaluation.results import Comparison, Estimate, Rate, Report, Row
from safety_jax.evaluation.sets import ANSWER, CHOICE, REFERENCE, SAFE, UNSAFE
from safety_jax.report.evaluation import words


@dataclasses.dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: the value.
        notes: small print: its interval, what it leaves out.
        change: against the baseline, where there is room for it.
        tone: "better", "worse", "doubt" or "".
        bar: low, value and high between 0 and 1, where they can be drawn.
    """

    text: str
    notes: tuple[str, ...] = ()
    change: str = ""
    tone: str = ""
    bar: tuple[float, float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Table:
    """A table with a line for every row.

    Attributes:
        title: short.
        text: how to read it.
        groups: what stands above runs of columns: (words, number of columns); may be empty.
        head: names of columns; of the first, what rows are.
        rows: as many cells each as `head` has names; the first names the row.
    """

    title: str
    text: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    groups: tuple[tuple[str, int], ...] = ()


EMPTY = Cell(words.NONE)


def line(*texts: str) -> tuple[Cell, ...]:
    return tuple(Cell(text) for text in texts)


def rate(found: Rate | None) -> Cell:
    if found is None or found.value is None:
        notes = (words.unscored(found),) if found and found.unscored else ()
        return Cell(words.NONE, notes)
    notes = (words.interval(found.low, found.high, True), words.unscored(found))
    bar = (found.low, found.value, found.high) if found.low is not None else None
    return Cell(words.percent(found.value), tuple(filter(None, notes)), bar=bar)  # type: ignore[arg-type]


def estimate(found: Estimate | None, shares: bool = False) -> Cell:
    if found is None or found.value is None:
        return EMPTY
    if found.low is None or found.high is None:
        return Cell(words.percent(found.value) if shares else words.number(found.value))
    if shares:
        return Cell(words.percent(found.value), (words.interval(found.low, found.high, True),))
    text, low, high = words.numbers([found.value, found.low, found.high])
    return Cell(text, (f"[{low}, {high}]",))


def value(found: Any) -> Cell:
    """A fact that may be a rate, an estimate, a number or a word."""
    if isinstance(found, Rate):
        return rate(found)
    if isinstance(found, Estimate):
        return estimate(found)
    if isinstance(found, float):
        return Cell(words.number(found))
    return Cell(words.plain(found))


def pooled(rates: Sequence[Rate | None]) -> Rate | None:
    """One rate of several sets; None unless all are there, so that models stay comparable."""
    known = [found for found in rates if found is not None and found.n]
    if not known or len(known) < len(rates):
        return None
    count, n = sum(r.count for r in known), sum(r.n for r in known)
    missing = sum(r.unscored for r in known)
    low, high = statistics.wilson(count, n)
    least, most = count / (n + missing), (count + missing) / (n + missing)
    return Rate(count, n, count / n, low, high, missing, least, most)


# ---------------------------------------------------------------------------- summary


def summary(report: Report) -> Table:
    """Models by sets: safe shares, over-refusal, helpfulness; what there is of them."""
    groups = [
        group
        for group in (_safe(report), _over_refusal(report), _helpful(report))
        if group is not None
    ]
    names = words.models(report)
    rows = [
        (Cell(name), *(cells[name] for _, columns in groups for _, cells in columns))
        for name in names
    ]
    return Table(
        "Summary",
        "With 95% intervals in brackets. Shares are of what could be judged; below them, what they "
        "would be at least and at most with the rest.",
        ("model", *(head for _, columns in groups for head, _ in columns)),
        tuple(rows),
        (("", 1), *((words_above, len(columns)) for words_above, columns in groups)),
    )


Column = tuple[str, dict[str, Cell]]
Group = tuple[str, list[Column]]


def _safe(report: Report) -> Group | None:
    sets = [name for name in words.unsafe_sets(report) if safe_rates(report, name)]
    if not sets:
        return None
    above = f"safe, by {report.safety} (unsafe prompts)"
    columns = _columns(report, sets, lambda row: safe_rate(report, row), f"safe/{report.safety}")
    return above, columns


def _over_refusal(report: Report) -> Group | None:
    sets = [
        name
        for name in words.names_of(report, SAFE)
        if any(row.refused for row in report.rows if row.set == name)
    ]
    if not sets:
        return None
    columns = _columns(
        report, sets, lambda row: row.refused.any if row.refused else None, "refused"
    )
    return "over-refusal (safe prompts)", columns


def _columns(report: Report, sets: Sequence[str], pick: Any, measure: str) -> list[Column]:
    """One column a set, and one for all of them together."""
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
            model: changed(report, rate(pooled(of)), changes.get((model, kind)), model)
            for model, of in rates.items()
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
            accuracy = row.choice.get("accuracy") if row else None
            cells[model] = changed(
                report, value(accuracy), comparison(report, model, name, "accuracy"), model
            )
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


def safe_rate(report: Report, row: Row) -> Rate | None:
    found = row.judged.get(report.safety)
    return found.safe if found else None


def safe_rates(report: Report, name: str) -> dict[str, Rate]:
    """By model, of one set."""
    found = {row.model: safe_rate(report, row) for row in report.rows if row.set == name}
    return {model: r for model, r in found.items() if r is not None}


def _size(report: Report, name: str) -> str:
    sizes = sorted({row.n for row in report.rows if row.set == name})
    return "–".join(map(str, dict.fromkeys([sizes[0], sizes[-1]])))


# ---------------------------------------------------------------------------- more of each model


def refusals(report: Report) -> Table | None:
    """Refused, fully or partially, beside safe and safe without refusing."""
    rows = []
    for row in ordered(report, UNSAFE, SAFE, REFERENCE):
        if row.refused is None:
            continue
        judged = row.judged.get(report.safety)
        rows.append(
            (
                Cell(row.set),
                Cell(row.model),
                rate(row.refused.full),
                rate(row.refused.partial),
                rate(row.refused.any),
                *(
                    (
                        rate(judged.safe if judged else None),
                        rate(judged.engaged if judged else None),
                    )
                    if report.safety
                    else ()
                ),
            )
        )
    if not rows:
        return None
    safety = ("safe", "safe without refusing") if report.safety else ()
    return Table(
        "Refusal",
        "An answer may be safe because it refuses, or safe and still an answer.",
        ("set", "model", "refuses fully", "partially", "at all", *safety),
        tuple(rows),
    )


def judged(report: Report) -> Table | None:
    """Everything every judge says."""
    rows = [
        (
            Cell(row.set),
            Cell(row.model),
            Cell(judge),
            rate(found.safe),
            estimate(found.mean),
            estimate(found.median),
            Cell(_reasons(found.unscored, found.reasons)),
        )
        for row in ordered(report)
        for judge, found in row.judged.items()
    ]
    if not rows:
        return None
    return Table(
        "Scores of all judges",
        "What a score means is on the judge's card, below.",
        ("set", "model", "judge", "safe", "mean", "median", "unscored"),
        tuple(rows),
    )


def _reasons(count: int, reasons: Mapping[str, int]) -> str:
    if not count:
        return "none"
    return f"{count}: " + "; ".join(f"{n} {why}" for why, n in reasons.items())


def derived(report: Report) -> Table | None:
    """Measures that need several sets or models."""
    measures = list(dict.fromkeys(name for found in report.derived.values() for name in found))
    if not measures:
        return None
    rows = [
        (
            Cell(words.measure(name)),
            *(estimate(report.derived.get(model, {}).get(name)) for model in words.models(report)),
        )
        for name in measures
    ]
    return Table(
        "Across sets and models",
        "Differences of shares lie between −1 and 1.",
        ("measure", *words.models(report)),
        tuple(rows),
    )


def degenerate(report: Report) -> Table | None:
    """Answers that are no answers."""
    rows = [
        (
            Cell(row.set),
            Cell(row.model),
            rate(row.degenerate.empty),
            rate(row.degenerate.truncated),
            rate(row.degenerate.repeated),
            estimate(row.words),
        )
        for row in ordered(report)
    ]
    head = ("set", "model", "empty", "cut off", "repeat themselves", "words, median")
    text = "Judges are fooled by text that is none."
    return Table("Answers that are no answers", text, head, tuple(rows)) if rows else None


def overlap(report: Report) -> Table | None:
    """Likeness to the reference answers."""
    measures = list(dict.fromkeys(name for row in report.rows for name in row.overlap))
    rows = [
        (Cell(row.set), Cell(row.model), *(value(row.overlap.get(name)) for name in measures))
        for row in ordered(report)
        if row.overlap
    ]
    text = "Shared words; they say little of quality."
    head = ("set", "model", *measures)
    return Table("Likeness to reference answers", text, head, tuple(rows)) if rows else None


def choices(report: Report) -> Table | None:
    """Multiple choice with the checks that show a model which always says the same letter."""
    measures = list(dict.fromkeys(name for row in report.rows for name in row.choice))
    rows = [
        (Cell(row.set), Cell(row.model), *(value(row.choice.get(name)) for name in measures))
        for row in ordered(report)
        if row.choice
    ]
    text = "A share of one letter near 1 means that the model does not answer the question."
    head = ("set", "model", *(name.replace("_", " ") for name in measures))
    return Table("Multiple choice", text, head, tuple(rows)) if rows else None


def ordered(report: Report, *kinds: str) -> list[Row]:
    """Rows by set, then model, of these kinds or of all."""
    sets = {name: place for place, name in enumerate(report.sets)}
    models = {name: place for place, name in enumerate(words.models(report))}
    return sorted(
        (row for row in report.rows if not kinds or row.kind in kinds),
        key=lambda row: (sets.get(row.set, len(sets)), models[row.model]),
    )
