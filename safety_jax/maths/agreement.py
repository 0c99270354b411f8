"""Agreement of raters, and shares corrected for the errors of a judge."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from safety_jax.maths.statistics import LEVEL, Clusters, Z, wilson_mean

# Only `cohen` and `fleiss` import statsmodels, because it imports pandas, which takes a second.
_NO_WIDTH = 1e-12  # narrower intervals have only the width of rounding errors


def cohen(first: Sequence[str], second: Sequence[str]) -> tuple[float, float, float] | None:
    """Cohen's κ (1960) of two raters' labels, and its interval (Fleiss, Cohen, Everitt, 1969). If
    this has no width, as for raters who always agree, the interval is that of `wilson_kappa`.

    Returns:
        None if a rater gives only one label: κ is then 0 or undefined, whatever the other rater
        says.
    """
    from statsmodels.stats import inter_rater

    labels = sorted({*first, *second})
    if len(set(first)) < 2 or len(set(second)) < 2:
        return None
    table = np.zeros((len(labels), len(labels)))
    for one, other in zip(first, second, strict=True):
        table[labels.index(one), labels.index(other)] += 1
    with np.errstate(invalid="ignore", divide="ignore"):  # a z value that is not used
        found = inter_rater.cohens_kappa(table)
    kappa = float(found.kappa)
    if not found.kappa_upp - found.kappa_low > _NO_WIDTH:
        shares = table / len(first)
        chance = float(shares.sum(0) @ shares.sum(1))
        return wilson_kappa(kappa, float(np.trace(shares)), chance, len(first))
    return kappa, max(float(found.kappa_low), -1.0), min(float(found.kappa_upp), 1.0)


def wilson_kappa(
    kappa: float, agreed: float, chance: float, count: int | float
) -> tuple[float, float, float]:
    """κ = (p - e) / (1 - e), and its interval: Wilson's for the agreement p of `count` items, with
    a fixed agreement e by chance."""
    low, high = ((end - chance) / (1 - chance) for end in wilson_mean(agreed, count))
    return kappa, max(low, -1.0), high


def fleiss(
    counts: Int[np.ndarray, "items labels"], clusters: Clusters, *, resamples: int, seed: int
) -> tuple[float, float, float] | None:
    """Fleiss' κ (1971) of any number of raters, and its interval by the bootstrap over clusters of
    items. If this has no width, the interval is that of `wilson_kappa` for as many items as there
    are clusters.

    Args:
        counts: how many raters gave each label to each item; the sum is the same for every item.
        clusters: the cluster of each item, numbered from 0 without gaps.

    Returns:
        None if only one label was ever given.
    """
    whole = _fleiss(counts)
    if whole is None:
        return None
    random = np.random.default_rng(seed)
    n = int(clusters.max()) + 1
    members = [np.flatnonzero(clusters == number) for number in range(n)]
    drawn = [
        _fleiss(counts[np.concatenate([members[i] for i in random.integers(n, size=n)])])
        for _ in range(resamples)
    ]
    known = [kappa for kappa in drawn if kappa is not None] or [whole]
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    if high - low <= _NO_WIDTH:
        raters = counts[0].sum()
        agreed = ((counts**2).sum(1) - raters) / (raters * (raters - 1))
        chance = float(((counts.sum(0) / counts.sum()) ** 2).sum())
        return wilson_kappa(whole, float(agreed.mean()), chance, n)
    return whole, float(low), float(high)


def _fleiss(counts: Int[np.ndarray, "items labels"]) -> float | None:
    from statsmodels.stats import inter_rater

    used = counts[:, counts.sum(0) > 0]
    return float(inter_rater.fleiss_kappa(used)) if used.shape[1] > 1 else None


@dataclasses.dataclass(frozen=True)
class Checked:
    """How often a judge was right on a checked sample.

    Attributes:
        found, positives: hits that the judge found, and all hits; their ratio is its sensitivity.
        cleared, negatives: items without a hit that the judge cleared, and all such items; their
            ratio is its specificity.

    The numbers of clustered items are those of as many independent ones, and need not be whole.
    """

    found: int | float
    positives: int | float
    cleared: int | float
    negatives: int | float


def corrected(
    hits: int | float, n: int | float, checked: Checked
) -> tuple[float, float, float] | None:
    """The true share behind a judge's `hits` of `n`, and its interval.

    The share is (p + s - 1) / (r + s - 1) with p = hits / n and the judge's sensitivity r and
    specificity s (Rogan and Gladen, 1978), clipped to [0, 1]. The interval accounts for the errors
    of all three estimates (Lang and Reiczigel, Preventive Veterinary Medicine 113, 2014, 13-22).

    Returns:
        None if the judge is no better than chance, or one kind of item was never checked.
    """
    if not (n and checked.positives and checked.negatives):
        return None
    r, s = checked.found / checked.positives, checked.cleared / checked.negatives
    p = hits / n
    z2 = Z**2
    trials, of_r, of_s = n + z2, checked.positives + 2, checked.negatives + 2
    p_, r_, s_ = (hits + z2 / 2) / trials, (checked.found + 1) / of_r, (checked.cleared + 1) / of_s
    if r + s <= 1 or r_ + s_ <= 1:
        return None
    share = (p_ + s_ - 1) / (r_ + s_ - 1)
    doubt_r, doubt_s = r_ * (1 - r_) / of_r, s_ * (1 - s_) / of_s
    moved = 2 * z2 * (share * doubt_r - (1 - share) * doubt_s)
    variance = p_ * (1 - p_) / trials + share**2 * doubt_r + (1 - share) ** 2 * doubt_s
    half = Z * math.sqrt(variance) / (r_ + s_ - 1)
    value, low, high = (
        min(max(x, 0.0), 1.0)
        for x in ((p + s - 1) / (r + s - 1), share + moved - half, share + moved + half)
    )
    return value, min(low, value), max(high, value)
