"""How good a judge's scores are, and how well its confidence is calibrated.

All functions run on the host, for a held-out set. `scores` are log-odds: σ(score) is the
probability that the outcome is 1.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import optimize, special, stats

Values = Float[np.ndarray, " n"]
Outcomes = Bool[np.ndarray, " n"]
WIDEST = 100.0  # temperatures are searched between 1 / WIDEST and WIDEST


def auc(scores: Values, positive: Outcomes) -> float | None:
    """The probability that a random positive has a higher score than a random negative, where equal
    scores count one half: (R - p (p + 1) / 2) / (p n) with the sum R of the positives' mid-ranks
    (Mann and Whitney, 1947). None unless there are both."""
    p, n = int(positive.sum()), int((~positive).sum())
    if p == 0 or n == 0:
        return None
    ranks = stats.rankdata(scores)[positive].sum()
    return float((ranks - p * (p + 1) / 2) / (p * n))


@dataclasses.dataclass(frozen=True)
class Reliability:
    """Equal-width bins of confidence; empty bins are left out.

    Attributes:
        confidence, accuracy: mean probability of the predicted outcome, and share of correct
            predictions.
        count: examples in each bin.
    """

    confidence: Float[np.ndarray, " bins"]
    accuracy: Float[np.ndarray, " bins"]
    count: Int[np.ndarray, " bins"]

    @property
    def error(self) -> float:
        """Expected calibration error: Σ count/n |accuracy - confidence| (Guo et al., arXiv
        1706.04599, eq. 3)."""
        gaps = np.abs(self.accuracy - self.confidence)
        return float((self.count * gaps).sum() / self.count.sum())


def reliability(scores: Values, outcomes: Outcomes, *, bins: int) -> Reliability:
    """Confidence and accuracy by bins. The prediction is the likelier outcome; its probability, the
    confidence, is between 1/2 and 1. A score of 0 predicts neither, and counts as half right: a
    judge that gives both answers of a pair one score is right on half of such pairs."""
    confidence = special.expit(np.abs(scores))
    right = half_right(scores, outcomes)
    index = bin_of(scores, bins=bins)
    count = np.bincount(index, minlength=bins)
    kept = count > 0
    sums = [np.bincount(index, weights=w, minlength=bins)[kept] for w in (confidence, right)]
    return Reliability(sums[0] / count[kept], sums[1] / count[kept], count[kept])


def bin_of(scores: Values, *, bins: int) -> Int[np.ndarray, " n"]:
    """The number, from 0, of each score's bin of confidence."""
    confidence = special.expit(np.abs(scores))
    return np.clip(((confidence - 0.5) * 2 * bins).astype(int), 0, bins - 1)


def half_right(scores: Values, outcomes: Outcomes) -> Values:
    """1 for each right prediction, 1/2 for each undecided one, else 0."""
    return np.where(scores == 0, 0.5, (scores > 0) == outcomes)


def nll(scores: Values, outcomes: Outcomes) -> float:
    """Mean negative log-likelihood of the outcomes."""
    return float(np.logaddexp(0, np.where(outcomes, -scores, scores)).mean())


def temperature(scores: Values, outcomes: Outcomes) -> float:
    """The T with the highest likelihood of σ(score / T) (Guo et al., arXiv 1706.04599, section
    4.2).

    T is between 1/100 and 100. At 100 the scores say nothing about the outcomes; at 1/100 no
    prediction is wrong.
    """
    found = optimize.minimize_scalar(
        lambda log: nll(scores / np.exp(log), outcomes),
        bounds=(-np.log(WIDEST), np.log(WIDEST)),
        method="bounded",
    )
    return float(np.exp(found.x))


def cross_fitted(
    scores: Values, outcomes: Outcomes, clusters: Int[np.ndarray, " n"], *, bins: int
) -> tuple[float, float] | tuple[None, None]:
    """ECE and NLL after each half of the examples is scaled by the temperature of the other half.

    No cluster, such as the answers to one prompt, is in both halves, so that no temperature is
    evaluated on what it was fitted to. Each half has every second cluster in the order of their
    shares of outcomes, so that both halves have about the same share. None for fewer than four
    clusters.
    """
    _, firsts, group = np.unique(clusters, return_index=True, return_inverse=True)
    if len(firsts) < 4:
        return None, None
    shares = np.bincount(group, outcomes) / np.bincount(group)
    half_of = np.zeros(len(firsts), int)
    half_of[np.lexsort((firsts, shares))] = np.arange(len(firsts)) % 2
    halves = half_of[group]
    scaled = np.empty_like(scores)
    for half in (0, 1):
        here = halves == half
        scaled[here] = scores[here] / temperature(scores[~here], outcomes[~here])
    return reliability(scaled, outcomes, bins=bins).error, nll(scaled, outcomes)


def logistic(inputs: Values, outcomes: Outcomes, *, intercept: bool) -> tuple[float, float]:
    """(a, b) of σ(a x + b) by maximum likelihood; b is 0 without intercept.

    This is the best judge of this form that sees only `inputs`. A ridge of 1e-6 keeps a finite if
    one threshold separates the outcomes.
    """
    spread = float(inputs.std()) or 1.0
    x, sign = inputs / spread, np.where(outcomes, 1.0, -1.0)

    def objective(ab):
        a, b = ab[0], ab[1] * intercept
        loss = np.logaddexp(0, -sign * (a * x + b)).mean() + 1e-6 * (a**2 + b**2)
        slope = -sign * special.expit(-sign * (a * x + b))
        return loss, np.array(
            [(slope * x).mean() + 2e-6 * a, intercept * (slope.mean() + 2e-6 * b)]
        )

    found = optimize.minimize(objective, np.zeros(2), jac=True, method="BFGS")
    return float(found.x[0] / spread), float(found.x[1] * intercept)


def correlation(x: Values, y: Values) -> tuple[float, float] | None:
    """(Pearson, Spearman); None if x or y does not vary."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(stats.pearsonr(x, y)[0]), float(stats.spearmanr(x, y)[0])
