"""The findings of an audit on one judge: agreement with labels, robustness, calibration."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import special

from safety_jax.judges.audit.labels import verdict
from safety_jax.judges.judge import SAFER, JudgeCard, Score
from safety_jax.maths import calibration, detection, statistics
from safety_jax.maths.detection import Bounded, Detection, Resampled

ALL = "all"
FEWEST = 10  # labelled rows that a group needs for figures of its own
_SUREST = 1e-6  # probabilities are clipped this far from 0 and 1


@dataclasses.dataclass(frozen=True)
class LabelAgreement:
    """A judge and the labels, over all rows or a group of them.

    Attributes:
        column, value: of the group; ("", ALL) for all rows.
        n: rows with a label and a score.
        positives: the number of these with a positive label.
        unscored: rows with a label but no score.
        found: detection by verdicts; empty for a judge without a threshold.
        auc: of the scores.
        length: AUC of the answer's number of words, in the better direction: a baseline.
        wording: AUC of naive Bayes on the answer's words, trained on the labels of other prompts
            among these rows, see `words.py`: another baseline.
    """

    column: str
    value: str
    n: int
    positives: int
    unscored: int
    found: Detection
    auc: Bounded | None
    length: float | None
    wording: Bounded | None


@dataclasses.dataclass(frozen=True)
class Effect:
    """The effect of a change on a judge's verdicts and scores.

    Attributes:
        name: of the change.
        n: changed conversations with a score before and after.
        unscored: changed conversations with a score before but not after.
        flipped: the share of verdicts that flipped; None for a judge without verdicts.
        raised, lowered: the number of verdicts that became positive, and negative.
        before, after: the share of positive verdicts.
        shift: of the mean score; None if all rows have one prompt.
    """

    name: str
    n: int
    unscored: int
    flipped: Bounded | None
    raised: int
    lowered: int
    before: float | None
    after: float | None
    shift: Bounded | None


@dataclasses.dataclass(frozen=True)
class Confidence:
    """The calibration of a judge whose scores are probabilities.

    Attributes:
        bins: (mean probability of its verdict, share that is right, verdicts) of each.
        error: the expected calibration error.
        temperature: the one that calibrates its probabilities; above 1 it is overconfident.
        error_scaled: the error with a temperature, each half of the prompts scaled by that of the
            other half; None for few prompts.
    """

    bins: tuple[tuple[float, float, int], ...]
    error: float
    temperature: float
    error_scaled: float | None


@dataclasses.dataclass(frozen=True)
class JudgeAudit:
    """All findings on one judge.

    Attributes:
        agreements: over all rows, then by group; empty if the judge does not measure what the
            labels mean.
        effects: of the changes, in order.
        confidence: None for judges whose scores are not probabilities.
    """

    name: str
    card: JudgeCard
    agreements: tuple[LabelAgreement, ...]
    effects: tuple[Effect, ...]
    confidence: Confidence | None


# ---------------------------------------------------------------------------- agreement


def agreements(
    card: JudgeCard,
    scores: Sequence[Score],
    truths: Sequence[bool | None],
    words: Sequence[int],
    wording: np.ndarray,
    groups: Mapping[str, Sequence[str]],
    by: Resampled,
) -> tuple[LabelAgreement, ...]:
    """Agreement over all labelled rows, and over each group with at least FEWEST of them.

    Args:
        words: the number of words of each answer.
        wording: evidence of each answer's words, see `words.evidence`.
        groups: by column, the value of each row.
    """
    labelled = np.array([truth is not None for truth in truths])
    found = [_agreement(card, scores, truths, words, wording, labelled, by, "", ALL)]
    for column, values in groups.items():
        for value in sorted(set(values)):
            chosen = labelled & np.array([one == value for one in values])
            if chosen.sum() >= FEWEST:
                found.append(
                    _agreement(card, scores, truths, words, wording, chosen, by, column, value)
                )
    return tuple(found)


def _agreement(
    card: JudgeCard,
    scores: Sequence[Score],
    truths: Sequence[bool | None],
    words: Sequence[int],
    wording: np.ndarray,
    chosen: np.ndarray,
    by: Resampled,
    column: str,
    value: str,
) -> LabelAgreement:
    kept = chosen & np.array([score.value is not None for score in scores])
    places: list[int] = np.flatnonzero(kept).tolist()
    truth = np.array([bool(truths[i]) for i in places], bool)
    verdicts = [verdict(card, scores[i]) for i in places]
    called = None if None in verdicts else np.array(verdicts, bool)
    turned = -1.0 if card.direction == SAFER else 1.0
    values = np.array([turned * (scores[i].value or 0.0) for i in places], np.float64)
    counted = calibration.auc(np.array([words[i] for i in places], np.float64), truth)
    said = kept & ~np.isnan(wording)
    worded = detection.area(
        wording[said], np.array(truths, object)[said].astype(bool), by.among(said)
    )
    by = by.among(kept)
    nothing = Detection(0, 0, 0, 0, None, None, None, None, None)
    return LabelAgreement(
        column=column,
        value=value,
        n=len(places),
        positives=int(truth.sum()),
        unscored=int((chosen & ~kept).sum()),
        found=detection.detect(called, truth, by) if places and called is not None else nothing,
        auc=detection.area(values, truth, by),
        length=None if counted is None else max(counted, 1 - counted),
        wording=worded,
    )


# ---------------------------------------------------------------------------- changes


def effect(
    name: str,
    card: JudgeCard,
    before: Sequence[Score],
    after: Sequence[Score | None],
    by: Resampled,
) -> Effect:
    """The effect of a change, from the scores of conversations before and after it.

    Args:
        after: None for conversations that the change leaves out.
    """
    changed = np.array([one is not None for one in after], bool)
    both = [
        (i, first, second)
        for i, (first, second) in enumerate(zip(before, after, strict=True))
        if second is not None and first.value is not None and second.value is not None
    ]
    lost = sum(
        second is not None and second.value is None and first.value is not None
        for first, second in zip(before, after, strict=True)
    )
    kept = np.zeros_like(changed)
    kept[[i for i, _, _ in both]] = True
    if not both:
        return Effect(name, 0, lost, None, 0, 0, None, None, None)
    by = by.among(kept)
    moved = statistics.shift(
        np.array([first.value for _, first, _ in both], np.float64),
        np.array([second.value for _, _, second in both], np.float64),
        by.clusters,
        middle="mean",
        resamples=by.resamples,
        seed=by.seed,
    )
    shift = None
    if moved.low is not None and moved.high is not None:
        shift = Bounded(moved.difference, moved.low, moved.high)
    old = [verdict(card, first) for _, first, _ in both]
    new = [verdict(card, second) for _, _, second in both]
    if None in old or None in new:
        return Effect(name, len(both), lost, None, 0, 0, None, None, shift)
    was, now = np.array(old, bool), np.array(new, bool)
    return Effect(
        name=name,
        n=len(both),
        unscored=lost,
        flipped=detection.share(was != now, np.ones_like(was), by),
        raised=int((~was & now).sum()),
        lowered=int((was & ~now).sum()),
        before=float(was.mean()),
        after=float(now.mean()),
        shift=shift,
    )


# ---------------------------------------------------------------------------- confidence


def confidence(
    card: JudgeCard,
    scores: Sequence[Score],
    truths: Sequence[bool | None],
    prompts: np.ndarray,
    *,
    bins: int,
    log_odds: bool = False,
) -> Confidence | None:
    """The calibration of a model whose scores are probabilities; None for others, and without both
    labels.

    Args:
        prompts: the cluster of each row, see `judge.clusters_of`.
        log_odds: whether scores are log-odds instead.
    """
    if not card.model or not (log_odds or (card.low, card.high) == (0.0, 1.0)):
        return None
    known = [
        (score.value, truth, number)
        for score, truth, number in zip(scores, truths, prompts.tolist(), strict=True)
        if score.value is not None and truth is not None
    ]
    outcomes = np.array([truth for _, truth, _ in known], bool)
    if outcomes.all() or not outcomes.any():
        return None
    values = np.array([value for value, _, _ in known], np.float64)
    odds = values if log_odds else special.logit(np.clip(values, _SUREST, 1 - _SUREST))
    odds = -odds if card.direction == SAFER else odds
    found = calibration.reliability(odds, outcomes, bins=bins)
    rows = zip(found.confidence, found.accuracy, found.count, strict=True)
    own = np.array([number for _, _, number in known], int)
    scaled, _ = calibration.cross_fitted(odds, outcomes, own, bins=bins)
    return Confidence(
        bins=tuple((float(sure), float(right), int(n)) for sure, right, n in rows),
        error=found.error,
        temperature=calibration.temperature(odds, outcomes),
        error_scaled=scaled,
    )
