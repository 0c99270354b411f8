"""The tables of a report on its protocol."""

from collections.abc import Mapping
from typing import Any

from safety_jax.evaluation.results.report import Report
from safety_jax.report.evaluation import words
from safety_jax.report.evaluation.cells import Cell, Table


def tables(report: Report) -> list[Table]:
    """Models, sets, judges, the run; and which rows may be compared."""
    found = [
        _facts("Models", "model", "How the answers were made.", report.models),
        _facts("Sets", "set", "What was asked.", report.sets),
        _facts("Judges", "judge", "What their scores mean.", report.judges),
        _protocols(report),
        _facts("Run", "", "", {"value": report.facts}),
    ]
    return [table for table in found if table is not None]


def _facts(
    title: str, what: str, text: str, facts_of: Mapping[str, Mapping[str, Any]]
) -> Table | None:
    """A line for each fact, and a column for each model, set or judge."""
    flat = {name: words.flat(facts) for name, facts in facts_of.items()}
    keys = list(dict.fromkeys(key for facts in flat.values() for key in facts))
    if not keys:
        return None
    rows = [
        (Cell(key), *(Cell(facts.get(key, words.NONE)) for facts in flat.values())) for key in keys
    ]
    return Table(title, text, (what, *flat), tuple(rows))


def _protocols(report: Report) -> Table | None:
    """Rows of one set with different protocols are not compared."""
    names = words.models(report)
    rows = []
    for name in dict.fromkeys(row.set for row in report.rows):
        found = {row.model: row.protocol for row in report.rows if row.set == name}
        tone = "doubt" if len(set(found.values())) > 1 else ""
        cells = (Cell(found.get(model, words.NONE), tone=tone) for model in names)
        rows.append((Cell(name), *cells))
    if not rows:
        return None
    text = "What answers depend on besides the weights; only equal protocols are compared."
    return Table("Protocol of answers", text, ("set", *names), tuple(rows))
