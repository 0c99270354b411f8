"""The contents of an audit's report: its data, sentences and notes."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from safety_jax.judges.audit.findings import Effect, JudgeAudit, LabelAgreement
from safety_jax.judges.audit.labels import LabelRule
from safety_jax.judges.audit.perturbations import PERTURBATIONS, REWORDED
from safety_jax.maths.detection import Bounded
from safety_jax.report.evaluation import words

LARGE = 0.1  # the share of flipped verdicts from which there is a note
WHAT = {REWORDED: "the judge's own form is reworded"}
EXPECTED = {REWORDED: "the same verdict"}


@dataclasses.dataclass(frozen=True)
class AuditReport:
    """The results of an audit.

    Attributes:
        rule: how labels were read; None without labels.
        sources: facts by name.
        rows: the number of all rows; `labelled` and `perturbed` are numbers of them.
        left_out: counts of labels that are neither positive nor negative.
        settings: seed, resamples.
    """

    judges: tuple[JudgeAudit, ...]
    rule: LabelRule | None
    sources: Mapping[str, Any]
    rows: int
    labelled: int
    perturbed: int
    left_out: Mapping[str, int]
    settings: Mapping[str, Any]


# ---------------------------------------------------------------------------- sentences and notes


def sentences(report: AuditReport) -> list[str]:
    """One sentence for each judge: its agreement, and the change that flips most verdicts."""
    found = []
    for judge in report.judges:
        parts = []
        if judge.agreements:
            parts.append(_agrees(judge.agreements[0]))
        moved = [(e.flipped, e) for e in judge.effects if e.flipped and e.name != "empty"]
        if moved:
            flipped, most = max(moved, key=lambda pair: pair[0].value)
            parts.append(
                f"changes most under “{title(most.name)}”: {share(flipped)} of verdicts flip"
                if flipped.value
                else "keeps every verdict under every change"
            )
        if parts:
            found.append(f"{judge.name} {'; it '.join(parts)}.")
    return found


def _agrees(whole: LabelAgreement) -> str:
    if not whole.n:
        return "has no score for any answer with a label"
    if whole.found.accuracy:
        return (
            f"agrees with the labels on {share(whole.found.accuracy)} of {whole.n:,} answers "
            f"(κ {number(whole.found.kappa)}, AUC {number(whole.auc)})"
        )
    return f"gives no verdicts, and ranks {whole.n:,} answers with an AUC of {number(whole.auc)}"


def notes(report: AuditReport) -> list[str]:
    """Notes on what limits the trust in a judge."""
    found = []
    if report.left_out:
        count = sum(report.left_out.values())
        which = ", ".join(f"{label or '(none)'} {n}" for label, n in report.left_out.items())
        found.append(
            f"{count} rows are left out, because their label is neither positive nor negative: "
            f"{which}"
        )
    for judge in report.judges:
        if report.rule and not judge.agreements:
            found.append(
                f"{judge.name} is not compared with the labels, because it measures something else "
                f"({judge.card.direction}; they mean {report.rule.means})"
            )
        for one in judge.agreements[:1]:
            found += _agreement_notes(judge.name, one)
        for effect in judge.effects:
            found += _effect_notes(judge.name, effect)
    return found


def _agreement_notes(name: str, one: LabelAgreement) -> list[str]:
    found = []
    if one.unscored:
        found.append(
            f"{name} has no score for {one.unscored} of {one.n + one.unscored} labelled rows"
        )
    if one.auc and one.length is not None and one.auc.low <= one.length:
        found.append(
            f"{name}: the number of an answer's words does as well (AUC {one.length:.2f}; the "
            f"judge {number(one.auc)})"
        )
    if one.auc and one.wording and one.auc.low <= one.wording.value:
        found.append(
            f"{name}: naive Bayes on the answer's words, trained on the labels of other prompts, "
            f"does as well (AUC {number(one.wording)}; the judge {number(one.auc)})"
        )
    return found


def _effect_notes(name: str, effect: Effect) -> list[str]:
    found = []
    if effect.unscored:
        rows = effect.n + effect.unscored
        found.append(
            f"{name} has no score for {effect.unscored} of {rows} answers when "
            f"{what(effect.name)}: its figures are over the others"
        )
    if effect.flipped and effect.flipped.value >= LARGE and effect.name not in ("empty", "shorter"):
        found.append(f"{name}: {share(effect.flipped)} of verdicts flip when {what(effect.name)}")
    if effect.name == "empty" and effect.after:
        found.append(f"{name} calls {effect.after:.1%} of empty answers positive")
    return found


# ---------------------------------------------------------------------------- words


def title(name: str) -> str:
    """A change as a heading."""
    return name.replace("_", " ")


def what(name: str) -> str:
    """A description of a change."""
    return PERTURBATIONS[name].what if name in PERTURBATIONS else WHAT[name]


def expected(name: str) -> str:
    """The expected verdict after a change."""
    return PERTURBATIONS[name].expected if name in PERTURBATIONS else EXPECTED[name]


def share(found: Bounded | None) -> str:
    """Percent with an interval."""
    if found is None:
        return words.NONE
    return f"{words.percent(found.value)} {words.interval(found.low, found.high, True)}"


def number(found: Bounded | None) -> str:
    """A number with two decimals."""
    return words.NONE if found is None else words.minus(f"{found.value:.2f}")
