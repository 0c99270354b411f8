"""Statistics of small samples; thin over scipy."""

from scipy import stats


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95% Wilson score interval of a proportion (Wilson, 1927).

    Unlike the textbook interval it stays inside [0, 1] and is not empty at 0 or all successes:
    40 of 40 gives (0.912, 1).
    """
    interval = stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)
