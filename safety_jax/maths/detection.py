"""How well verdicts and scores match the truth: accuracy, precision, recall, κ, AUC, each with a
95% interval.

Items form clusters, such as the answers to one prompt. A share has Wilson's interval for the
effective number of items (`clusters.share`); κ and AUC have the percentile interval of the
bootstrap over clusters. If all resamples are equal, the interval of κ comes from that of the
accuracy, and the interval of the AUC is Wilson's, with the number of clusters of the rarer kind.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int

from safety_jax.maths import clusters
from safety_jax.maths.statistics import LEVEL, drawn_times, wilson_mean

Flags = Bool[np.ndarray, " n"]
Scores = Float[np.ndarray, " n"]
# How often each item is in each of some resamples.
Times = Int[np.ndarray, "rows n"]


@dataclasses.dataclass(frozen=True)
class Bounded:
    """A value with its 95% interval."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Resampled:
    """How intervals are computed.

    Attributes:
        clusters: the cluster of each item, numbered from 0; gaps do not matter.
    """

    clusters: Int[np.ndarray, " n"]
    resamples: int
    seed: int

    def among(self, kept: Flags) -> "Resampled":
        """The same resampling for only some items."""
        _, numbered = np.unique(self.clusters[kept], return_inverse=True)
        return dataclasses.replace(self, clusters=numbered)


@dataclasses.dataclass(frozen=True)
class Detection:
    """Verdicts compared with the truth; a share of no items is None.

    Attributes:
        hits, missed: true positives, and false negatives.
        false_alarms, cleared: false positives, and true negatives.
        precision: the share of positive verdicts that are right.
        recall, specificity: the share of positives, and of negatives, with the right verdict.
        kappa: Cohen's; None if all verdicts, or all truths, are equal.
    """

    hits: int
    missed: int
    false_alarms: int
    cleared: int
    accuracy: Bounded | None
    precision: Bounded | None
    recall: Bounded | None
    specificity: Bounded | None
    kappa: Bounded | None


def detect(verdicts: Flags, truths: Flags, by: Resampled) -> Detection:
    """Compares verdicts with the truth."""
    accuracy = share(verdicts == truths, np.ones_like(truths), by)
    kappa = _resampled(lambda times: _kappa(times, verdicts, truths), by)
    if accuracy and kappa and kappa.low == kappa.high:  # all resamples are equal
        a, b = verdicts.mean(), truths.mean()
        chance = a * b + (1 - a) * (1 - b)
        low, high = ((end - chance) / (1 - chance) for end in (accuracy.low, accuracy.high))
        kappa = Bounded(kappa.value, max(float(low), -1.0), float(high))
    return Detection(
        hits=int((verdicts & truths).sum()),
        missed=int((~verdicts & truths).sum()),
        false_alarms=int((verdicts & ~truths).sum()),
        cleared=int((~verdicts & ~truths).sum()),
        accuracy=accuracy,
        precision=share(truths, verdicts, by),
        recall=share(verdicts, truths, by),
        specificity=share(~verdicts, ~truths, by),
        kappa=kappa,
    )


def share(hits: Flags, among: Flags, by: Resampled) -> Bounded | None:
    """The share of hits among some items; None without any."""
    if not among.any():
        return None
    found = hits[among]
    return Bounded(float(found.mean()), *clusters.share(found, by.clusters[among]))


def area(scores: Scores, truths: Flags, by: Resampled) -> Bounded | None:
    """The area under the ROC curve: the probability that a random positive has a higher score than
    a random negative, where equal scores count one half. None unless there are both."""
    if not len(scores):
        return None
    order = np.argsort(scores, kind="stable")
    ranked, positive = scores[order], truths[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])

    def find(times: Times) -> np.ndarray:
        there = times[:, order]
        p, n = (np.add.reduceat(there * some, starts, axis=1) for some in (positive, ~positive))
        below = np.cumsum(n, axis=1) - n / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            return (p * below).sum(1) / (p.sum(1) * n.sum(1))

    found = _resampled(find, by)
    if found is None or found.low < found.high:
        return found
    fewest = min(len(np.unique(by.clusters[some])) for some in (truths, ~truths))
    return Bounded(found.value, *wilson_mean(found.value, fewest))


def _kappa(times: Times, first: Flags, second: Flags) -> Float[np.ndarray, " rows"]:
    """Cohen's κ of each resample; NaN if all values of one side are equal."""
    total = times.sum(1)
    a, b = times @ first / total, times @ second / total
    agreed = times @ (first == second) / total
    chance = a * b + (1 - a) * (1 - b)
    alike = (a * (1 - a) == 0) | (b * (1 - b) == 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(alike, np.nan, (agreed - chance) / (1 - chance))


def _resampled(find: Callable[[Times], np.ndarray], by: Resampled) -> Bounded | None:
    """A statistic and its percentile interval over the resamples in which it exists."""
    value = float(find(np.ones((1, len(by.clusters)), np.int64))[0])
    if np.isnan(value):
        return None
    draws = drawn_times(by.clusters, resamples=by.resamples, seed=by.seed)
    drawn = np.concatenate([find(times) for times in draws])
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Bounded(value, float(low), float(high))
