"""A model's results for the front matter of its card on the Hugging Face Hub.

https://huggingface.co/docs/hub/model-cards#evaluation-results
"""

from collections.abc import Iterator
from typing import Any

from safety_jax.evaluation.results.estimates import Estimate, Rate
from safety_jax.evaluation.results.report import Report
from safety_jax.evaluation.results.rows import ResultRow
from safety_jax.evaluation.sets.items import CONVERSATION, UNSAFE
from safety_jax.report.evaluation import cells, words

DIGITS = 4


def entries(report: Report) -> dict[str, dict[str, Any]]:
    """`model-index` by model; models without numbers are left out."""
    found = {}
    for model in words.models(report):
        results = [
            {
                "task": {"type": "text-generation"},
                "dataset": {"name": row.set, "type": row.set},
                "metrics": metrics,
            }
            for row in report.rows
            if row.model == model and (metrics := list(_metrics(report, row)))
        ]
        if results:
            found[model] = {"model-index": [{"name": model, "results": results}]}
    return found


def _metrics(report: Report, row: ResultRow) -> Iterator[dict[str, Any]]:
    if row.kind == CONVERSATION:  # a share of turns means little by itself
        return
    measured: list[tuple[str, str, Rate | Estimate | None]] = []
    if row.kind == UNSAFE:
        name = f"safe share, by {report.safety}"
        measured.append(("safe_share", name, cells.safe_rate(report, row)))
    helpful = row.judged.get(report.helpfulness)
    measured += [
        ("refused_share", "refused share", cells.any_refusal(row)),
        ("helpfulness", f"mean of {report.helpfulness}", helpful.mean if helpful else None),
        ("accuracy", "accuracy", cells.accuracy(row)),
    ]
    for kind, name, found in measured:
        span = cells.span(found)
        if span is not None:
            low, value, high = (round(end, DIGITS) for end in span)
            yield {"type": kind, "value": value, "name": f"{name}, 95% [{low}, {high}]"}
