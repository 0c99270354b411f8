"""A number is never alone: its interval, what it counts, and what it leaves out."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Rate:
    """A share of items, with its 95% Wilson interval.

    Attributes:
        count, n: hits, and items that could be judged.
        value, low, high: count / n and its interval; None where n is 0.
        unscored: further items that no verdict exists for.
        least, most: the share of all items if every unscored one were no hit, or a hit.
    """

    count: int
    n: int
    value: float | None
    low: float | None
    high: float | None
    unscored: int
    least: float | None
    most: float | None


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean, median or difference with its 95% interval, from n items; None where n is 0, and
    without an interval where what was resampled is one item."""

    value: float | None
    low: float | None
    high: float | None
    n: int


@dataclasses.dataclass(frozen=True)
class PairedChange:
    """A share on the same prompts, before and after.

    Attributes:
        n: prompts that both have a verdict for.
        difference: after minus before, with its interval, as of `Comparison`.
        gained, lost: prompts that turned to a hit, or from one.
        p, p_holm: exact McNemar, or of several answers a prompt the exact test that flips signs;
            adjusted over the attacks (Holm), None where there is one test only.
        detectable: see `Comparison`.
    """

    n: int
    difference: Estimate
    gained: int
    lost: int
    p: float
    p_holm: float | None
    detectable: float | None
