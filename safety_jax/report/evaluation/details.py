"""Detailed tables: all measures of each model on each set."""

from collections.abc import Mapping

from safety_jax.evaluation.results.report import Report
from safety_jax.evaluation.sets.items import REFERENCE, SAFE, UNSAFE
from safety_jax.report.evaluation import words
from safety_jax.report.evaluation.cells import (
    EMPTY,
    Cell,
    Table,
    as_rate,
    estimate,
    ordered,
    rate,
    without_empty,
)


def refusals(report: Report) -> Table | None:
    """Refused, fully or partially; safe, and safe without refusing."""
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
        "An answer may be safe because it refuses, or safe while it still helps.",
        ("set", "model", "refuses fully", "partially", "at all", *safety),
        tuple(rows),
    )


def judged(report: Report) -> Table | None:
    """The scores of every judge."""
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
        "The judges' cards, under Protocol, say what scores mean.",
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
    """Degenerate answers."""
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
    text = "Empty, cut-off and repetitive texts fool judges."
    return Table("Degenerate answers", text, head, tuple(rows)) if rows else None


def overlap(report: Report) -> Table | None:
    """Overlap with the reference answers."""
    measures = list(dict.fromkeys(name for row in report.rows for name in row.overlap))
    rows = [
        (Cell(row.set), Cell(row.model), *(estimate(row.overlap.get(name)) for name in measures))
        for row in ordered(report)
        if row.overlap
    ]
    text = "Shared words say little about quality."
    head = ("set", "model", *measures)
    return Table("Overlap with reference answers", text, head, tuple(rows)) if rows else None


def groups(report: Report) -> Table | None:
    """Right answers by group, on sets with groups."""
    models = words.models(report)
    rows = []
    for name in dict.fromkeys(row.set for row in ordered(report)):
        own = {m: row for m in models if (row := report.row(m, name)) is not None}
        for group in dict.fromkeys(g for row in own.values() for g in row.categories):
            found = {m: row.categories[group] for m, row in own.items()
                     if group in row.categories}  # fmt: skip
            if any(one.accuracy for one in found.values()):
                cells = (rate(found[m].accuracy) if m in found else EMPTY for m in models)
                n = max(one.n for one in found.values())
                rows.append((Cell(name), Cell(group), Cell(f"{n}"), *cells))
    head = ("set", "group", "texts", *models)
    text = "The accuracy on the whole set may hide groups on which a model is wrong."
    return Table("Right answers by group", text, head, tuple(rows)) if rows else None


# Measures of multiple choice beside accuracy: (key, head).
_SHARES = (
    ("chance", "chance"),
    ("always_best", "always one letter"),
    ("reordered", "in random order"),
)


def choices(report: Report) -> Table | None:
    """Multiple choice, with checks for models that always choose the same letter."""
    rows = []
    for row in ordered(report):
        if not row.choice:
            continue
        found = row.choice
        common = words.percent(found.get("commonest_share"))
        rows.append(
            (
                Cell(row.set),
                Cell(row.model),
                rate(as_rate(found.get("accuracy"))),
                rate(as_rate(found.get("invalid"))),
                *(Cell(words.percent(found.get(key))) for key, _ in _SHARES),
                Cell(f"{found['commonest']}: {common}") if found.get("commonest") else EMPTY,
                Cell("yes", tone="doubt") if found.get("collapsed") else EMPTY,
            )
        )
    head = ("set", "model", "right", "no choice", *(name for _, name in _SHARES))
    text = (
        "Accuracy, and that of guesses without reading the questions: at random, always the letter "
        "that is right most often, and the model's own answers in random order."
    )
    table = Table("Right answers", text, (*head, "commonest answer", "collapsed"), tuple(rows))
    return without_empty(table) if rows else None
