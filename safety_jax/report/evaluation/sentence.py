"""The report in one sentence."""

from collections.abc import Sequence

from safety_jax.evaluation.results.comparisons import Comparison
from safety_jax.evaluation.results.report import Report
from safety_jax.evaluation.sets.items import ANSWER, CHOICE, SAFE, UNSAFE
from safety_jax.report.evaluation import words

NAMED = 6  # the most models that are named
SETS = 3  # the most sets of questions that have a part of the sentence each


def sentence(report: Report) -> str:
    """Safety, over-refusal and helpfulness of every model against the baseline; "" without
    comparisons. Changes are those that the tables mark: p is below 0.05, after Holm's correction
    where a set is one of several."""
    safety = (f"safe/{report.safety}", "answer", "unsafe prompts safely")
    # Without a judge of safety, refusals are all that is known of unsafe prompts.
    unsafe, verb, what = safety if report.safety else ("refused", "refuse", "unsafe prompts")
    parts = [
        _part(_together(report, _compared(report, unsafe, UNSAFE)), verb, what),
        _part(
            _together(report, _compared(report, "refused", SAFE)),
            "refuse",
            "safe prompts",
        ),
        *_questions(_compared(report, "accuracy", ANSWER, CHOICE)),
    ]
    said = [part for part in parts if part]
    return f"Against {report.baseline}: {'; '.join(said)}." if said else ""


def _compared(report: Report, measure: str, *kinds: str) -> list[Comparison]:
    """The comparisons that were made on sets of these kinds, alone and together."""
    return [
        c
        for c in report.comparisons
        if c.measure == measure
        and not c.refused_because
        and c.difference.value is not None
        and not words.attack(report, c.set)
        and words.set_kind(report, c.set) in kinds
    ]


def _together(report: Report, compared: Sequence[Comparison]) -> list[Comparison]:
    """One comparison for each model: over all sets together, or over the only one. None for a model
    without either: one of several sets does not speak for the others."""
    found: dict[str, list[Comparison]] = {}
    for c in compared:
        found.setdefault(c.second, []).append(c)
    whole = {
        model: [c for c in own if words.together(report, c.set)] for model, own in found.items()
    }
    return [
        (whole[model] or own)[0] for model, own in found.items() if whole[model] or len(own) == 1
    ]


def _questions(compared: Sequence[Comparison]) -> list[str]:
    """Sentences on sets of questions, which are not counted together: one for each of a few sets;
    of more, the number of sets with a change by model."""
    by_set: dict[str, list[Comparison]] = {}
    by_model: dict[str, list[Comparison]] = {}
    for c in compared:
        by_set.setdefault(c.set, []).append(c)
        by_model.setdefault(c.second, []).append(c)
    if len(by_set) <= SETS:
        several = len(by_set) > 1
        return [
            _part(own, "answer", f"questions{f' of {name}' if several else ''} correctly")
            for name, own in by_set.items()
        ]
    if len(by_model) > NAMED:
        return []
    said = []
    for model, own in by_model.items():
        moved = [c.difference.value or 0.0 for c in own if words.is_significant(c)]
        up, down = sum(value > 0 for value in moved), sum(value < 0 for value in moved)
        said.append(
            f"{model} answers questions correctly more often on {up}, less often on {down} of "
            f"{len(own)} sets"
        )
    return said


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
        forced = ", forced: protocols differ" if c.forced else ""
        into.append(
            f"{c.second} ({words.percent(c.first_value)} → {words.percent(c.second_value)}{forced})"
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
