"""Numbers with their intervals, counts, and what they leave out."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Rate:
    """A share of items, with its 95% Wilson interval.

    Attributes:
        count, n: hits, and items with a verdict.
        value, low, high: count / n and its interval; None if n is 0.
        unscored: further items, without a verdict.
        least, most: the share of all items if no unscored one were a hit, or all.
        effective: the number of independent items of which the interval is; None if that is n.
    """

    count: int
    n: int
    value: float | None
    low: float | None
    high: float | None
    unscored: int
    least: float | None
    most: float | None
    effective: float | None = None


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean, median or difference with its 95% interval, from n items; None if n is 0. There is no
    interval if only one item could be resampled."""

    value: float | None
    low: float | None
    high: float | None
    n: int


@dataclasses.dataclass(frozen=True)
class PairedChange:
    """A share on the same prompts, before and after.

    Attributes:
        n: prompts with both verdicts.
        difference: after minus before, with its interval, as in `Comparison`.
        gained, lost: prompts that became a hit, or ceased to be one.
        p, p_holm: exact McNemar, or the exact sign-flip test if prompts have several answers;
            adjusted over the attacks (Holm), None if there is one test only.
        detectable: see `Comparison`.
    """

    n: int
    difference: Estimate
    gained: int
    lost: int
    p: float
    p_holm: float | None
    detectable: float | None
