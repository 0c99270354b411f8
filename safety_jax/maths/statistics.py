"""Statistics of small samples: intervals and paired tests, mostly thin wrappers of scipy.

All intervals are 95% intervals, and all tests are two-sided.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np
import scipy  # loads its parts at their first use
from jaxtyping import Bool, Float, Int
from scipy import special

LEVEL = 0.95
POWER = 0.8  # a difference is detectable if a test finds it with this probability
Z = float(special.ndtri(0.5 + LEVEL / 2))
_Z_POWER = float(special.ndtri(POWER))
_BLOCK = 2**22  # numbers that a bootstrap draws at a time

Interval = tuple[float, float]
Bounded = tuple[float, float, float]  # an estimate, and the ends of its interval
NO_INTERVAL = (None, None)  # for a single item, which says nothing about other items
Verdicts = Bool[np.ndarray, " n"]
Numbers = Float[np.ndarray, " n"]
Clusters = Int[np.ndarray, " n"]


def wilson(successes: int, trials: int) -> Interval:
    """The 95% Wilson score interval of a proportion (Wilson, 1927).

    Unlike the textbook interval it stays inside [0, 1], and has a width even for no or only
    successes: 40 of 40 gives (0.912, 1).
    """
    interval = scipy.stats.binomtest(successes, trials).proportion_ci(LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def wilson_mean(mean: float, count: int | float) -> Interval:
    """Wilson's interval for the mean of `count` values between 0 and 1.

    The variance of such values is at most that of a proportion with the same mean, mean (1 - mean),
    so the interval is wide enough. For zeros and ones it equals `wilson`.
    """
    share = Z**2 / count
    centre = (mean + share / 2) / (1 + share)
    half = math.sqrt(share * (mean * (1 - mean) + share / 4)) / (1 + share)
    # Rounding must not put the mean itself outside.
    return max(min(centre - half, mean), 0.0), min(max(centre + half, mean), 1.0)


def any_of(hits: int, trials: int, k: int) -> float:
    """The probability that k trials drawn without replacement include a hit: 1 - C(n-c, k) / C(n,
    k).

    This is the unbiased estimate of the probability that any of k new trials is a hit (pass@k of
    Chen et al., arXiv 2107.03374, equation 1); 1 - (1 - c/n)^k is too low.
    """
    return 1 - math.comb(trials - hits, k) / math.comb(trials, k)


# ---------------------------------------------------------------------------- shares


@dataclasses.dataclass(frozen=True)
class Change:
    """Two verdicts on each of n items: how many changed, and whether chance explains it.

    Attributes:
        gained, lost: items that are hits only in the second, and only in the first.
        p: of the exact McNemar test (1947): `gained` heads in gained + lost tosses of a fair coin.
        difference: share in the second minus share in the first.
        low, high: its interval, by Newcombe's method 10.
        detectable: the smallest difference that n items would show, see `detectable_change`.
    """

    gained: int
    lost: int
    p: float
    difference: float
    low: float
    high: float
    detectable: float | None


def change(first: Verdicts, second: Verdicts) -> Change:
    """Compares two verdicts on the same items; there must be at least one item."""
    n = len(first)
    gained, lost = int((second & ~first).sum()), int((first & ~second).sum())
    both = int((first & second).sum())
    turned = gained + lost
    return Change(
        gained=gained,
        lost=lost,
        p=float(scipy.stats.binomtest(gained, turned).pvalue) if turned else 1.0,
        difference=(gained - lost) / n,
        **dict(zip(("low", "high"), newcombe_paired(both, gained, lost, n), strict=True)),
        detectable=detectable_change(n, turned / n),
    )


def newcombe_paired(both: int, gained: int, lost: int, n: int) -> Interval:
    """The interval of a difference of paired shares, (gained - lost) / n.

    It adds the squares of the distances in Wilson's intervals of the two shares, less the part that
    the correlation φ of the two verdicts explains (Newcombe, Statistics in Medicine 17, 1998,
    2635-2650, method 10).
    """
    first, second, neither = both + lost, both + gained, n - both - gained - lost
    (low1, high1), (low2, high2) = wilson(first, n), wilson(second, n)
    p1, p2 = first / n, second / n
    product: float = both * neither - gained * lost
    if product > 0:  # the continuity correction of φ
        product = max(product - n / 2, 0)
    spread = first * (n - first) * second * (n - second)
    phi = product / math.sqrt(spread) if spread else 0.0
    below, above = (
        math.sqrt(max(near**2 - 2 * phi * near * far + far**2, 0.0))
        for near, far in ((p2 - low2, high1 - p1), (high2 - p2, p1 - low1))
    )
    return p2 - p1 - below, p2 - p1 + above


def newcombe(first: int, of_first: int, second: int, of_second: int) -> Interval:
    """The interval of second / of_second - first / of_first, on different items (Newcombe,
    Statistics in Medicine 17, 1998, 873-890, method 10)."""
    (low1, high1), (low2, high2) = wilson(first, of_first), wilson(second, of_second)
    p1, p2 = first / of_first, second / of_second
    difference = p2 - p1
    return (
        difference - math.hypot(p2 - low2, high1 - p1),
        difference + math.hypot(high2 - p2, p1 - low1),
    )


def product(first: Bounded, second: Bounded) -> Interval:
    """The interval of a b for two independent estimates with intervals; a and its interval are not
    below 0.

    The variance of a product is b² A + a² B + A B for the variances A and B of its factors
    (Goodman, JASA 55, 1960, 708-713). The distances to the ends of the two intervals replace the
    standard deviations (the method of variance estimates recovery, Zou and Donner, Statistics in
    Medicine 27, 2008, 1693-1702).
    """
    (a, low_a, high_a), (b, low_b, high_b) = first, second

    def half(end: float, falls: bool) -> float:
        """The distance from the product to the end of its interval at which b is at `end`."""
        near = a - low_a if (b >= 0) == falls else high_a - a  # the deviation of a
        far = a - low_a if (end >= 0) == falls else high_a - a
        away = abs(end - b)
        return math.sqrt((b * near) ** 2 + (a * away) ** 2 + (far * away) ** 2)

    return (
        max(a * b - half(low_b, falls=True), min(low_a * low_b, high_a * low_b)),
        min(a * b + half(high_b, falls=False), max(low_a * high_b, high_a * high_b)),
    )


def detectable_change(n: int, turned: float) -> float | None:
    """The smallest difference of paired shares that McNemar's test finds with power 0.8.

    Solves z √ψ + z' √(ψ - δ²) = δ √n for δ (Connor, Biometrics 43, 1987, 207-211). ψ is the share
    of items that change: the observed share, or δ itself if it is larger.

    Returns:
        None if n items are too few for any difference.
    """

    def lacking(delta: float) -> float:
        psi = max(turned, delta)
        rest = math.sqrt(max(psi - delta**2, 0.0))
        return Z * math.sqrt(psi) + _Z_POWER * rest - delta * math.sqrt(n)

    return None if lacking(1.0) > 0 else float(scipy.optimize.brentq(lacking, 1e-9, 1.0))


def holm(ps: Sequence[float]) -> list[float]:
    """p values adjusted for their number (Holm, 1979).

    The smallest of n is multiplied by n, the next one by n - 1, and so on; no adjusted value is
    smaller than the one before it. statsmodels' version runs the garbage collector at every call,
    which takes seconds in a large process.
    """
    given = np.asarray(ps, np.float64)
    order = np.argsort(given, kind="stable")
    raised = np.maximum.accumulate(given[order] * np.arange(len(given), 0, -1))
    adjusted = np.empty_like(given)
    adjusted[order] = np.minimum(raised, 1.0)
    return adjusted.tolist()


# ---------------------------------------------------------------------------- scores


@dataclasses.dataclass(frozen=True)
class Shift:
    """How far a mean or a median moved.

    Attributes:
        low, high: its interval; None for a single cluster.
        p: twice the smaller share of resamples on one side of 0, (k + 1) / (resamples + 1); but at
            least 2 / 2^n, the p of the sign test for n clusters that all move in one direction.
            (Otherwise it would only depend on the number of resamples: resamples of two values
            above 0 are never below 0.)
        detectable: (z + z') s / √n with the standard deviation s of the n clusters' mean
            differences; None if these are all equal, so that s says nothing.
    """

    difference: float
    low: float | None
    high: float | None
    p: float
    detectable: float | None


def shift(
    first: Numbers, second: Numbers, clusters: Clusters, *, middle: str, resamples: int, seed: int
) -> Shift:
    """Compares scores of the same items by the paired bootstrap. Items of a cluster, such as the
    answers to one prompt, are drawn together.

    Args:
        clusters: the cluster of each item, numbered from 0 without gaps.
        middle: "mean", or "median": the median of second minus the median of first.
    """
    drawn = _resample([first, second], clusters, middle, resamples, seed)
    moved = drawn[1] - drawn[0]
    low, high = _percentiles(moved, clusters)
    tail = min(int((moved <= 0).sum()), int((moved >= 0).sum()))
    find = np.mean if middle == "mean" else np.median
    count = int(clusters.max()) + 1
    differences = np.bincount(clusters, second - first) / np.bincount(clusters)
    alike = np.allclose(differences, differences[0], rtol=1e-9, atol=0)
    spread = None if alike else float(differences.std(ddof=1))
    return Shift(
        difference=float(find(second) - find(first)),
        low=low,
        high=high,
        p=min(1.0, max(2 * (tail + 1) / (resamples + 1), 2.0 ** (1 - count))),
        detectable=None if spread is None else (Z + _Z_POWER) * spread / math.sqrt(count),
    )


def bootstrap(
    values: Numbers, clusters: Clusters, *, middle: str, resamples: int, seed: int
) -> Interval | tuple[None, None]:
    """The percentile interval of a mean or median, see `shift`; none for a single cluster."""
    (drawn,) = _resample([values], clusters, middle, resamples, seed)
    return _percentiles(drawn, clusters)


def _percentiles(
    drawn: Float[np.ndarray, " resamples"], clusters: Clusters
) -> Interval | tuple[None, None]:
    if not clusters.max():
        return NO_INTERVAL
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _resample(
    columns: Sequence[Numbers], clusters: Clusters, middle: str, resamples: int, seed: int
) -> list[Float[np.ndarray, " resamples"]]:
    """The middle of each column in each resample of whole clusters; all columns share the draws."""
    if middle not in ("mean", "median"):
        raise ValueError(f"middle {middle!r}")
    found: list[list[np.ndarray]] = [[] for _ in columns]
    for times in drawn_times(clusters, resamples=resamples, seed=seed):
        for column, into in zip(columns, found, strict=True):
            into.append(_middle(column, times, middle))
    return [np.concatenate(parts) for parts in found]


def drawn_times(
    clusters: Clusters, *, resamples: int, seed: int
) -> Iterator[Int[np.ndarray, "rows n"]]:
    """How often each item is in each resample of whole clusters, some resamples at a time. Means,
    medians and tables of counts need only these numbers."""
    random = np.random.default_rng(seed)
    count = int(clusters.max()) + 1
    block = max(1, _BLOCK // max(count, len(clusters)))
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        times = random.multinomial(count, np.full(count, 1 / count), size=rows)
        yield times[:, clusters]


def _middle(
    values: Numbers, times: Int[np.ndarray, "rows n"], middle: str
) -> Float[np.ndarray, " rows"]:
    """The mean or median of values, each of which appears `times` times."""
    total = times.sum(1)
    if middle == "mean":
        return times @ values / total
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(times[:, order], axis=1)
    lower, upper = ((total - 1) // 2, total // 2)
    ranked = values[order]
    ends = [ranked[(reached > place[:, None]).argmax(1)] for place in (lower, upper)]
    return (ends[0] + ends[1]) / 2
