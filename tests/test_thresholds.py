"""Two-way intervals against statsmodels and arithmetic; thresholds by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from safety_jax.maths import thresholds
from safety_jax.maths.thresholds import CANNOT_TELL, HELD, NOT_HELD


def test_the_interval_by_hand():
    """Rows (seeds) of means 0.75, 0.25; columns of means 1, 0.5, 0.5, 0."""
    table = np.array([[1.0, 1, 1, 0], [1, 0, 0, 0]])
    found = thresholds.mean(table)
    by_row = (1.0**2 + 1.0**2) / 64 * 2  # sums of deviations from 0.5: 1 and -1
    by_column = (1 + 0 + 0 + 1) / 64 * 4 / 3  # 1, 0, 0, -1
    cells = 8 * 0.25 / 64 * 8 / 7
    by_column = max(by_column, 1 / 36)
    freedom = (by_row + by_column) ** 2 / (by_row**2 / 1 + by_column**2 / 3)
    reach = math.sqrt(max(by_row + by_column - cells, by_row, by_column))
    reach *= stats.t.ppf(0.975, freedom)
    assert found.value == 0.5 and (found.rows, found.columns) == (2, 4)
    assert found.high - found.value == pytest.approx(reach)
    assert found.value - found.low == pytest.approx(reach)


@pytest.mark.parametrize("answers", [1, 4], ids=["prompts", "answers to a prompt"])
def test_the_variance_is_statsmodels_two_way_clustered(answers):
    import statsmodels.api as sm
    from statsmodels.stats.sandwich_covariance import cov_cluster_2groups

    random = np.random.default_rng(0)
    table = random.normal(size=(5, 1)) + random.normal(size=(1, 40)) + random.normal(size=(5, 40))
    rows, columns = np.divmod(np.arange(200), 40)
    prompts = np.arange(40) // answers
    columns, last = prompts[columns], 40 // answers - 1
    fitted = sm.OLS(table.ravel(), np.ones(200)).fit()
    known = [float(c[0, 0]) for c in cov_cluster_2groups(fitted, rows, columns)]
    both, by_row, by_column = known
    # statsmodels also divides by n - 1 where the paper has n: N - 1 over N - K with K = 1 is one.
    freedom = (by_row + by_column) ** 2 / (by_row**2 / 4 + by_column**2 / last)
    found = thresholds.mean(table, prompts)
    reach = math.sqrt(both) * stats.t.ppf(0.975, freedom)
    assert found.high - found.value == pytest.approx(reach, rel=1e-6)


def test_missing_outcomes_and_single_seeds():
    table = np.array([[1.0, np.nan, 0.0], [np.nan, np.nan, np.nan], [1.0, np.nan, 1.0]])
    found = thresholds.mean(table)
    assert (found.value, found.rows, found.columns) == (0.75, 2, 2)
    assert thresholds.mean(np.array([[1.0, 0.0]])).low is None
    with pytest.raises(ValueError, match="without outcomes"):
        thresholds.mean(np.full((2, 2), np.nan))
    # All agree, and still the interval has a width: half a prompt better, half a prompt worse.
    same = thresholds.mean(np.ones((3, 98)))
    assert same.high - 1 == pytest.approx(0.01 * stats.t.ppf(0.975, 97))


def outcomes(share: float, prompts: int = 200) -> np.ndarray:
    """Three seeds that answer so many of the prompts well, and nearly the same ones."""
    table = np.zeros((3, prompts))
    for seed in range(3):
        table[seed, seed : seed + round(share * prompts)] = 1
    return table


def test_the_threshold():
    tables = {0.0: outcomes(0.2), 50.0: outcomes(0.6), 100.0: outcomes(0.88), 500.0: outcomes(0.9)}
    found = thresholds.find(tables | {2000.0: outcomes(0.9)}, margin=0.05)
    assert [one.verdict for one in found.comparisons] == [NOT_HELD, NOT_HELD, HELD, HELD]
    assert (found.low, found.estimate, found.high) == (100, 100, 100)
    assert found.comparisons[0].difference.value == pytest.approx(-0.7)

    unsure = thresholds.find(tables | {100.0: outcomes(0.86), 2000.0: outcomes(0.9)}, margin=0.05)
    assert [one.verdict for one in unsure.comparisons] == [NOT_HELD, NOT_HELD, CANNOT_TELL, HELD]
    assert (unsure.low, unsure.estimate, unsure.high) == (100, 100, 500)

    # Down from the largest amount, the first that fails ends it: 50 does not count.
    gap = {0.0: outcomes(0.1), 50.0: outcomes(0.9), 100.0: outcomes(0.1), 2000.0: outcomes(0.9)}
    found = thresholds.find(gap, margin=0.05)
    assert (found.low, found.estimate, found.high) == (2000, 2000, 2000)
    with pytest.raises(ValueError, match="one shape"):
        thresholds.find({0.0: outcomes(0.1), 1.0: outcomes(0.1, 10)}, margin=0.05)
