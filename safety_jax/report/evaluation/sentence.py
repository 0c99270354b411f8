"""The report in one sentence."""

from collections.abc import Sequence

from safety_jax.evaluation.results.comparisons import Comparison
from safety_jax.evaluation.results.report import Report
from safety_jax.evaluation.sets.items import ANSWER, CHOICE, SAFE, UNSAFE
from safety_jax.report.evaluation import words

NAMED = 6  # the most models that are named


def sentence(report: Report) -> str:
    """Safety, over-refusal and helpfulness of every model against the baseline; "" without
    comparisons. Changes are those that the tables mark: p is below 0.05, after Holm's correction
    where a set is one of several."""
    parts = [
        _part(
            _compared(report, f"safe/{report.safety}", UNSAFE),
            "answer",
            "unsafe prompts safely",
        ),
        _part(
            _compared(report, "refused", SAFE),
            "refuse",
            "safe prompts",
        ),
        _part(
            _compared(report, "accuracy", ANSWER, CHOICE),
            "answer",
            "questions correctly",
        ),
    ]
    said = [part for part in parts if part]
    return f"Against {report.baseline}: {'; '.join(said)}." if said else ""


def _compared(report: Report, measure: str, *kinds: str) -> list[Comparison]:
    """One comparison for each model: over the sets of a kind together, or over the only one."""
    found: dict[str, Comparison] = {}
    for c in report.comparisons:
        if c.measure != measure or c.refused_because or c.difference.value is None:
            continue
        if words.attack(report, c.set):
            continue
        if words.set_kind(report, c.set) in kinds and (
            c.second not in found or c.set.startswith(words.ALL)
        ):
            found[c.second] = c
    return list(found.values())


def _part(compared: Sequence[Comparison], verb: str, what: str) -> str:
    if not compared:
        return ""
    up: list[str] = []
    down: list[str] = []
    same: list[str] = []
    for c in compared:
        value = c.difference.value
        changed = words.is_significant(c)
        into = same if not changed or not value else up if value > 0 else down
        into.append(
            f"{c.second} ({words.percent(c.first_value)} → {words.percent(c.second_value)})"
        )
    alike = "as often as before, as far as these prompts can tell"
    said = [
        f"{_counted(models, len(compared))} {verb if len(models) > 1 else verb + 's'} {what} {how}"
        for models, how in ((up, "more often"), (down, "less often"), (same, alike))
        if models
    ]
    return ", ".join(said)


def _counted(models: Sequence[str], compared: int) -> str:
    """The models by name; their number where more are compared than a sentence can hold."""
    return _listed(models) if compared <= NAMED else f"{len(models)} of {compared} models"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
