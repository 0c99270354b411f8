"""How much is enough: the smallest amount whose outcomes are no worse than those of the largest.

Each amount has a table of outcomes, with one row per seed and one column per prompt. Both are
random samples, so intervals account for both. The variance of the mean of such a table is

    V = V_rows + V_columns - V_cells        (Cameron, Gelbach and Miller 2011, section 2.1)

where each term is a cluster-robust variance of the mean. The degrees of freedom are Satterthwaite's
(1946). If only the seeds vary, and there are three, they are two, and a 95% interval reaches 4.3
standard errors; if the seeds agree, they are nearly those of the prompts. The variance is at least
as large as if half a prompt were better and half a prompt worse (Agresti and Min 2005), so that
equal outcomes do not give an interval without width. Columns that belong together, such as several
answers to one prompt, are one level of the second factor.
"""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from safety_jax.maths.statistics import LEVEL

HELD, NOT_HELD, CANNOT_TELL = "held", "not held", "cannot tell"

Table = Float[np.ndarray, "seeds answers"]
Prompts = Int[np.ndarray, " answers"]  # the number of each column's prompt


@dataclasses.dataclass(frozen=True)
class TableMean:
    """The mean of a table and its interval, which is None if a factor has only one level.

    Attributes:
        rows, columns: the numbers of levels of the two factors.
    """

    value: float
    low: float | None
    high: float | None
    rows: int
    columns: int


def mean(table: Table, prompts: Prompts | None = None, level: float = LEVEL) -> TableMean:
    """The mean over seeds and prompts; NaN marks a missing outcome.

    Args:
        prompts: None if each column is a different prompt.
        level: of the interval.

    Raises:
        ValueError: the table has no outcomes.
    """
    known = ~np.isnan(table)
    if not known.any():
        raise ValueError("a table without outcomes")
    value, count = float(np.nanmean(table)), known.sum()
    # For each seed and prompt: the number of outcomes, and the sum of their deviations.
    numbers = np.arange(table.shape[1]) if prompts is None else prompts
    together = np.unique(numbers, return_inverse=True)[1]
    sums = np.zeros((2, len(table), together.max() + 1))
    parts = known, np.where(known, table - value, 0.0)
    for summed, part in zip(sums, parts, strict=True):
        np.add.at(summed.T, together, part.T)
    filled = sums[0] > 0
    sums = sums[:, filled.any(axis=1)][:, :, filled.any(axis=0)]
    known, deviations = sums[0] > 0, sums[1]
    rows, columns = known.shape
    if min(rows, columns) < 2:
        return TableMean(value, None, None, rows, columns)

    def variance(sums: np.ndarray) -> float:
        groups = len(sums)
        return float((sums**2).sum() / count**2 * groups / (groups - 1))

    by_row, by_column = variance(deviations.sum(axis=1)), variance(deviations.sum(axis=0))
    by_column = max(by_column, (columns + 2.0) ** -2)
    # The difference can be smaller than each of its parts if only cells vary.
    both = max(by_row + by_column - variance(deviations[known]), by_row, by_column)
    freedom = (by_row + by_column) ** 2 / (by_row**2 / (rows - 1) + by_column**2 / (columns - 1))
    reach = math.sqrt(both) * float(stats.t.ppf((1 + level) / 2, freedom))
    return TableMean(value, value - reach, value + reach, rows, columns)


@dataclasses.dataclass(frozen=True)
class BesideLargest:
    """An amount compared with the largest.

    Attributes:
        difference: its outcomes minus the largest amount's, paired by prompt and seed; higher is
            better.
        verdict: on the claim that it is worse by no more than the margin: held, not held (it is
            worse by more), or cannot tell.
    """

    amount: float
    difference: TableMean
    verdict: str


@dataclasses.dataclass(frozen=True)
class Threshold:
    """How much is enough.

    Attributes:
        estimate: the smallest amount from which on all mean differences stay within the margin.
        low: the smallest amount such that neither it nor any larger one is shown to be worse.
        high: the smallest amount such that it and all larger ones are shown to be no worse. Tests
            go down from the largest amount and end at the first that fails, which keeps their
            level.
        comparisons: of all amounts except the largest, in order.
    """

    estimate: float
    low: float
    high: float
    margin: float
    comparisons: tuple[BesideLargest, ...]


def find(tables: Mapping[float, Table], margin: float, prompts: Prompts | None = None) -> Threshold:
    """The threshold for outcomes by amount.

    Args:
        tables: of the same shape, with the same seeds as rows and the same prompts as columns.
        margin: an outcome that is lower than the largest amount's by this much is still no worse.
        prompts: see `mean`.

    Raises:
        ValueError: there are fewer than two amounts, or tables of different shapes.
    """
    amounts = sorted(tables)
    largest = tables[amounts[-1]]
    if len(amounts) < 2 or any(table.shape != largest.shape for table in tables.values()):
        raise ValueError("expected tables of one shape for two amounts or more")
    found = []
    for amount in amounts[:-1]:
        difference = mean(tables[amount] - largest, prompts)
        found.append(BesideLargest(amount, difference, _verdict(difference, margin)))

    def from_the_top(fits: list[bool]) -> float:
        """The smallest amount such that it and all larger ones fit."""
        smallest = amounts[-1]
        for one, fit in zip(reversed(found), reversed(fits), strict=True):
            if not fit:
                break
            smallest = one.amount
        return smallest

    return Threshold(
        estimate=from_the_top([one.difference.value >= -margin for one in found]),
        low=from_the_top([one.verdict != NOT_HELD for one in found]),
        high=from_the_top([one.verdict == HELD for one in found]),
        margin=margin,
        comparisons=tuple(found),
    )


def _verdict(difference: TableMean, margin: float) -> str:
    if difference.low is None or difference.high is None:
        return CANNOT_TELL
    if difference.low >= -margin:
        return HELD
    return NOT_HELD if difference.high < -margin else CANNOT_TELL


def equal(difference: TableMean, margin: float) -> str:
    """The verdict on the claim that two things differ by no more than the margin, in either
    direction."""
    if difference.low is None or difference.high is None:
        return CANNOT_TELL
    if -margin <= difference.low and difference.high <= margin:
        return HELD
    apart = difference.low > margin or difference.high < -margin
    return NOT_HELD if apart else CANNOT_TELL
