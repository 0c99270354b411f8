"""Statistics of verdicts that come in clusters, such as the answers to one prompt.

Verdicts of a cluster resemble each other, so n of them tell less than n independent ones. Every
function takes the cluster of each verdict. If each cluster has one verdict, the result is exactly
that of the counterpart in `statistics.py`.
"""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import scipy

from safety_jax.maths import agreement, statistics
from safety_jax.maths.statistics import Change, Clusters, Interval, Numbers, Verdicts

_MOST_ADDED = 200_000_000  # additions of `exchanged`, above which it uses a normal distribution


def effective(values: Numbers | Verdicts, clusters: Clusters) -> float:
    """How many independent values between 0 and 1 would have the same standard error as these.

    This is n over the design effect (Kish, Survey Sampling, 1965). The design effect is the
    variance of the mean from the totals of clusters, G / (G - 1) Σ (Σ (x - x̄))² / n², over that of
    independent values, x̄ (1 - x̄) / n. The result is clipped to between the number of clusters and
    n. If all values are equal, the data do not show the effect, and the result is the number of
    clusters.
    """
    n, (_, group) = len(values), np.unique(clusters, return_inverse=True)
    count = int(group.max()) + 1
    mean = float(np.mean(values))
    alone = mean * (1 - mean)
    if count in (1, n) or len(np.unique(values)) == 1:  # also if all are one half
        return float(count)
    totals = np.bincount(group, np.asarray(values, float) - mean)
    variance = count / (count - 1) * float((totals**2).sum()) / n**2
    return float(n) if variance == 0 else min(max(alone / variance, float(count)), float(n))


def share(verdicts: Verdicts, clusters: Clusters) -> Interval:
    """Wilson's interval of a share for the effective number of trials (`effective`), as for
    clustered surveys (Dean and Pagano, Journal of Survey Statistics and Methodology 3, 2015,
    484-503)."""
    if len(np.unique(clusters)) == len(verdicts):
        return statistics.wilson(int(verdicts.sum()), len(verdicts))
    return statistics.wilson_mean(float(verdicts.mean()), effective(verdicts, clusters))


def mean(values: Numbers, clusters: Clusters) -> Interval:
    """`statistics.wilson_mean` of values between 0 and 1."""
    return statistics.wilson_mean(float(values.mean()), effective(values, clusters))


def apart(first: Verdicts, of_first: Clusters, second: Verdicts, of_second: Clusters) -> Interval:
    """The interval of the share of `second` minus that of `first`, on different clusters: see
    `statistics.newcombe`."""
    (low1, high1), (low2, high2) = share(first, of_first), share(second, of_second)
    p1, p2 = float(first.mean()), float(second.mean())
    return (
        p2 - p1 - math.hypot(p2 - low2, high1 - p1),
        p2 - p1 + math.hypot(high2 - p2, p1 - low1),
    )


def change(first: Verdicts, second: Verdicts, clusters: Clusters) -> Change:
    """Compares two verdicts on the same items; `gained` and `lost` count clusters whose total rose
    or fell.

    The test flips the sign of each cluster's difference (`sign_flip`); for clusters of one item it
    is McNemar's. The interval combines those of the two shares by the method of variance recovery,
    as Newcombe's does, with the correlation of the clusters' totals (Zou and Donner, Statistics in
    Medicine 27, 2008, 1693-1702). `detectable` is Connor's with clusters as items, and with the
    mean square of their differences as the share of items that change.
    """
    group = np.unique(clusters, return_inverse=True)[1]
    sizes = np.bincount(group)
    if len(sizes) == len(first):
        return statistics.change(first, second)
    totals = [np.bincount(group, side).astype(int) for side in (first, second)]
    moved = totals[1] - totals[0]
    p1, p2 = float(first.mean()), float(second.mean())
    (low1, high1), (low2, high2) = share(first, clusters), share(second, clusters)
    phi = _correlation(totals[0] - p1 * sizes, totals[1] - p2 * sizes)
    low, high = _apart((p1, low1, high1), (p2, low2, high2), phi)
    return Change(
        gained=int((moved > 0).sum()),
        lost=int((moved < 0).sum()),
        p=sign_flip(moved),
        difference=p2 - p1,
        low=low,
        high=high,
        detectable=statistics.detectable_change(len(sizes), float(np.mean((moved / sizes) ** 2))),
    )


def paired_means(first: Numbers, second: Numbers) -> Interval:
    """The interval of the mean of `second` minus that of `first`, which are values between 0 and 1
    of the same items: as that of `change`, with `statistics.wilson_mean` for the two means."""
    p1, p2 = float(first.mean()), float(second.mean())
    phi = _correlation(first - p1, second - p2)
    (low1, high1), (low2, high2) = (statistics.wilson_mean(p, len(first)) for p in (p1, p2))
    return _apart((p1, low1, high1), (p2, low2, high2), phi)


def _apart(first: statistics.Bounded, second: statistics.Bounded, phi: float) -> Interval:
    """The interval of `second` minus `first`, two estimates with the correlation `phi`."""
    (p1, low1, high1), (p2, low2, high2) = first, second
    below, above = (
        math.sqrt(max(near**2 - 2 * phi * near * far + far**2, 0.0))
        for near, far in ((p2 - low2, high1 - p1), (high2 - p2, p1 - low1))
    )
    return p2 - p1 - below, p2 - p1 + above


def sign_flip(differences: Clusters) -> float:
    """p of the exact test that flips the sign of each difference: how often their sum is at least
    as far from 0 as the observed one, over all 2^n choices of signs (Fisher, The Design of
    Experiments, 1935).

    The distribution of the sum is computed one difference at a time. This covers all choices,
    because the sums are whole numbers.

    Args:
        differences: whole numbers, one per cluster.
    """
    sizes = np.abs(differences[differences != 0])
    if not len(sizes):
        return 1.0
    if sizes.max() == 1:
        risen = int((differences > 0).sum())
        return float(scipy.stats.binomtest(risen, len(sizes)).pvalue)
    total = int(sizes.sum())
    # chances[t]: the probability that the positive ones add up to t; the sum is then 2 t - total.
    chances = np.zeros(total + 1)
    chances[0] = 1.0
    for size in sizes:
        chances[size:] = (chances[size:] + chances[:-size]) / 2
        chances[:size] /= 2
    sums = np.abs(2 * np.arange(total + 1) - total)
    return min(1.0, float(chances[sums >= abs(int(differences.sum()))].sum()))


def exchanged(members: Sequence[Sequence[int]], own: Sequence[int]) -> float:
    """p of the exact test that exchanges the members of each cluster (Fisher, The Design of
    Experiments, 1935). One member of each cluster is taken. p is how often the sum of the members
    taken is at least as far from its expectation as the observed sum, if all members of a cluster
    are equally likely to be taken.

    For clusters of two it is the test that flips signs (`sign_flip`), and for verdicts McNemar's.
    The distribution of the sum is computed in whole numbers, one cluster at a time; if that would
    take too long, a normal distribution is used.

    Args:
        members: the values of each cluster's members, whole numbers.
        own: the place of each cluster's member that was taken.
    """
    scale = math.lcm(*(len(values) for values in members)) if members else 1
    moved = []  # the distance of each member from the mean of its cluster, times `scale`
    for values in members:
        total, each = sum(values), scale // len(values)
        moved.append([each * (len(values) * value - total) for value in values])
    seen = abs(sum(values[place] for values, place in zip(moved, own, strict=True)))
    moved = [values for values in moved if any(values)]
    if not moved or not seen:
        return 1.0
    divisor = math.gcd(*(value for values in moved for value in values))
    moved, seen = [[value // divisor for value in values] for values in moved], seen // divisor
    widths = [max(values) - min(values) for values in moved]
    if sum(widths) * sum(map(len, moved)) > _MOST_ADDED:
        variance = sum(sum(value**2 for value in values) / len(values) for values in moved)
        return float(2 * scipy.special.ndtr(-seen / math.sqrt(variance)))
    # chances[t]: the probability that the sum is t + start.
    chances, start = np.ones(1), 0
    for values, width in zip(moved, widths, strict=True):
        least, more = min(values), np.zeros(len(chances) + width)
        for value in values:
            more[value - least : value - least + len(chances)] += chances / len(values)
        chances, start = more, start + least
    sums = np.abs(np.arange(len(chances)) + start)
    return min(1.0, float(chances[sums >= seen].sum()))


def cohen(
    first: Sequence[str], second: Sequence[str], clusters: Clusters
) -> tuple[float, float, float] | None:
    """`agreement.cohen` with an interval from the totals of clusters. If these do not vary, the
    interval is that of `agreement.wilson_kappa` for as many items as there are clusters.

    Let κ = 1 - (1 - p) / (1 - e), where p is the share of equal labels, and e the share that is
    equal by chance. A pair of labels a and b, which the raters give in shares r and c, changes κ by
    (1(a = b) - p) / (1 - e) - (1 - p) / (1 - e)² (c(a) + r(b) - 2 e). The squares of these numbers
    give the variance of Fleiss, Cohen and Everitt (1969); here, the squares of their sums over
    clusters are used.
    """
    found = agreement.cohen(first, second)
    group = np.unique(clusters, return_inverse=True)[1]
    count, n = int(group.max(initial=-1)) + 1, len(first)
    if found is None or count == n:
        return found
    kappa = found[0]
    given, taken = Counter(first), Counter(second)
    chance = sum(given[label] * taken[label] for label in given) / n**2
    pairs = list(zip(first, second, strict=True))
    same = sum(a == b for a, b in pairs) / n
    if count == 1:
        return agreement.wilson_kappa(kappa, same, chance, count)
    moves = np.array(
        [
            ((a == b) - same) / (1 - chance)
            - (1 - same) / (1 - chance) ** 2 * ((taken[a] + given[b]) / n - 2 * chance)
            for a, b in pairs
        ]
    )
    totals = np.bincount(group, moves)
    error = math.sqrt(count / (count - 1) * float((totals**2).sum())) / n
    if error < 1e-12:
        return agreement.wilson_kappa(kappa, same, chance, count)
    half = statistics.Z * error
    return kappa, max(kappa - half, -1.0), min(kappa + half, 1.0)


def _correlation(first: Numbers, second: Numbers) -> float:
    spread = math.sqrt(float((first**2).sum()) * float((second**2).sum()))
    return float((first * second).sum()) / spread if spread else 0.0
