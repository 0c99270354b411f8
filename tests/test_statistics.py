"""Against published examples, arithmetic on paper, scipy, and simulation."""

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats import multitest

from safety_jax.maths import statistics

Z = 1.959963984540054


def verdicts(both, gained, lost, neither):
    first = [True] * both + [False] * gained + [True] * lost + [False] * neither
    second = [True] * both + [True] * gained + [False] * lost + [False] * neither
    return np.array(first), np.array(second)


def test_wilson_of_the_paper():
    # 73 of 178 and 40 of 40 answers of Safe to Serve
    assert statistics.wilson(73, 178) == pytest.approx((0.340, 0.484), abs=5e-4)
    assert statistics.wilson(40, 40) == pytest.approx((40 / (40 + Z**2), 1.0))


def test_wilson_of_a_mean():
    for hits, n in ((0, 5), (73, 178), (40, 40)):
        expected = pytest.approx(statistics.wilson(hits, n))
        assert statistics.wilson_mean(hits / n, n) == expected
    assert all(statistics.wilson_mean(1.0, n)[1] == 1.0 for n in range(1, 50))  # not 1 - 1e-16
    # Half wins: wide enough, although they spread less than wins and losses.
    low, high = statistics.wilson_mean(0.5, 8)
    half = math.sqrt(Z**2 / 8 * (0.25 + Z**2 / 32)) / (1 + Z**2 / 8)
    assert (low, high) == pytest.approx((0.5 - half, 0.5 + half))


@pytest.mark.parametrize(
    ("gained", "lost", "p"), [(91, 5, 1.6e-21), (52, 1, 1.2e-14), (22, 0, 4.8e-7), (0, 0, 1.0)]
)
def test_mcnemar_of_the_paper(gained, lost, p):
    found = statistics.change(*verdicts(10, gained, lost, 10))
    assert found.p == pytest.approx(p, rel=0.03)
    assert (found.gained, found.lost) == (gained, lost)


def test_mcnemar_on_paper():
    # P(at most 1 of 6 heads) twice: 2 (1 + 6) / 64
    assert statistics.change(*verdicts(3, 5, 1, 3)).p == pytest.approx(14 / 64)


def test_newcombe_paired_on_paper():
    # Shares 14/41 and 19/41; φ of (14 · 22 - 41/2) / √(14 · 27 · 19 · 22), since nothing was lost
    low1, high1 = statistics.wilson(14, 41)
    low2, high2 = statistics.wilson(19, 41)
    p1, p2 = 14 / 41, 19 / 41
    phi = (14 * 22 - 20.5) / math.sqrt(14 * 27 * 19 * 22)
    a, b = p2 - low2, high1 - p1
    c, d = high2 - p2, p1 - low1
    expected = (
        p2 - p1 - math.sqrt(a * a - 2 * phi * a * b + b * b),
        p2 - p1 + math.sqrt(c * c - 2 * phi * c * d + d * d),
    )
    assert statistics.newcombe_paired(14, 5, 0, 41) == pytest.approx(expected)
    # An interval that does not know of the pairs is wider.
    low, high = statistics.newcombe(14, 41, 19, 41)
    assert low < expected[0] and high > expected[1]


def test_newcombe_of_uncorrelated_verdicts_is_that_of_different_items():
    assert statistics.newcombe_paired(16, 16, 4, 40) == pytest.approx(
        statistics.newcombe(20, 40, 32, 40)
    )


def test_newcombe_published():
    # Newcombe (1998), table II: 56/70 against 48/80
    assert statistics.newcombe(48, 80, 56, 70) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_newcombe_paired_covers():
    random = np.random.default_rng(0)
    cells = np.array([0.55, 0.2, 0.05, 0.2])  # both, gained, lost, neither: a difference of 0.15
    tables = random.multinomial(60, cells, size=2000)
    covered = [
        low <= 0.15 <= high
        for low, high in (statistics.newcombe_paired(a, b, c, 60) for a, b, c, _ in tables.tolist())
    ]
    assert 0.93 < np.mean(covered) < 0.98


def test_the_interval_of_a_product_on_paper():
    """a = .5 [.4, .6], b = .8 [.6, .9]: down by √((.8·.1)² + (.5·.2)² + (.1·.2)²), up likewise."""
    low, high = statistics.product((0.5, 0.4, 0.6), (0.8, 0.6, 0.9))
    halves = math.hypot(0.08, 0.1, 0.02), math.hypot(0.08, 0.05, 0.01)
    assert (0.4 - low, high - 0.4) == pytest.approx(halves)
    assert statistics.product((0.0, 0.0, 0.5), (0.0, -1.0, 1.0)) == (-0.5, 0.5)
    mirrored = statistics.product((0.5, 0.4, 0.6), (-0.8, -0.9, -0.6))
    assert mirrored == pytest.approx((-high, -low))


def test_one_item_or_equal_verdicts_give_an_interval():
    found = statistics.change(np.array([True]), np.array([True]))
    assert found.difference == 0 and found.low < 0 < found.high and found.detectable is None
    found = statistics.change(*verdicts(40, 0, 0, 0))
    assert found.p == 1 and found.low > -0.15 and found.high < 0.15


def test_detectable_change_is_found_with_its_power():
    n, turned = 200, 0.3
    delta = statistics.detectable_change(n, turned)
    assert delta is not None
    random = np.random.default_rng(0)
    gained, lost = (turned + delta) / 2, (turned - delta) / 2
    tables = random.multinomial(n, [0.4, gained, lost, 0.6 - turned], size=1500)
    ps = [stats.binomtest(int(b), int(b + c)).pvalue for _, b, c, _ in tables]
    assert 0.72 < np.mean(np.array(ps) < 0.05) < 0.85  # exact tests are a little below
    assert statistics.detectable_change(5, 0.2) is not None
    assert statistics.detectable_change(3, 0.0) is None


def test_holm_on_paper():
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([]) == []


def test_holm_equals_statsmodels():
    random = np.random.default_rng(3)
    for count in (1, 2, 7, 30):
        ps = random.uniform(0, 0.3, count)
        ps[: count // 3] = ps[0]  # ties
        np.testing.assert_allclose(
            statistics.holm(list(ps)), multitest.multipletests(ps, method="holm")[1], rtol=1e-12
        )


def test_shift_of_means_is_scipys():
    random = np.random.default_rng(3)
    first = random.normal(size=80)
    second = first + random.normal(0.4, 0.5, size=80)
    found = statistics.shift(first, second, np.arange(80), middle="mean", resamples=20_000, seed=0)
    peer = stats.bootstrap(
        (second - first,), np.mean, n_resamples=20_000, method="percentile", rng=1
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((peer.low, peer.high), abs=0.01)
    assert found.difference == pytest.approx((second - first).mean())
    assert found.p == pytest.approx(2 / 20_001)
    spread = (second - first).std(ddof=1)
    assert found.detectable == pytest.approx((Z + 0.8416212) * spread / math.sqrt(80))


@pytest.mark.parametrize("middle", ["mean", "median"])
def test_few_prompts_that_move_one_way_are_no_evidence(middle):
    """Resamples of positive numbers are never below 0: n prompts have the p of their signs."""
    for n in (1, 2, 3, 5, 12):
        after = np.linspace(1.0, 2.0, n)
        found = statistics.shift(
            np.zeros(n), after, np.arange(n), middle=middle, resamples=999, seed=0
        )
        signs = stats.binomtest(n, n).pvalue
        assert found.p == pytest.approx(max(signs, 2 / 1000)), n
    alone = statistics.shift(
        np.zeros(3), np.ones(3), np.zeros(3, int), middle=middle, resamples=99, seed=0
    )
    assert (alone.low, alone.high, alone.p, alone.detectable) == (None, None, 1.0, None)
    assert statistics.bootstrap(
        np.array([7.0]), np.zeros(1, int), middle=middle, resamples=99, seed=0
    ) == (None, None)


def test_differences_that_are_all_alike_detect_nothing():
    first = np.array([0.1, 0.2, 0.3])
    found = statistics.shift(first, first + 0.5, np.arange(3), middle="mean", resamples=99, seed=0)
    assert found.detectable is None


def test_median_of_resamples_is_numpys():
    values = np.array([5.0, 1.0, 3.0, 4.0])
    times = np.array([[1, 1, 1, 1], [0, 3, 1, 0], [2, 0, 0, 1]])
    expected = [np.median(np.repeat(values, row)) for row in times]
    assert statistics._middle(values, times, "median").tolist() == expected
    peer = stats.bootstrap(
        (values,), np.median, n_resamples=9999, method="percentile", rng=1
    ).confidence_interval
    found = statistics.bootstrap(values, np.arange(4), middle="median", resamples=9999, seed=0)
    assert found == pytest.approx((peer.low, peer.high), abs=0.51)


def test_answers_to_one_prompt_are_drawn_together():
    """Eight copies of each of ten values know no more than the ten."""
    random = np.random.default_rng(0)
    values = random.normal(size=10)
    alone = statistics.bootstrap(values, np.arange(10), middle="mean", resamples=4000, seed=0)
    copies = statistics.bootstrap(
        np.repeat(values, 8), np.repeat(np.arange(10), 8), middle="mean", resamples=4000, seed=0
    )
    assert copies == pytest.approx(alone)
    apart = statistics.bootstrap(
        np.repeat(values, 8), np.arange(80), middle="mean", resamples=4000, seed=0
    )
    assert apart[1] - apart[0] < 0.5 * (alone[1] - alone[0])
    moved = [
        statistics.shift(np.zeros(10 * n), np.repeat(values, n), np.repeat(np.arange(10), n),
                         middle="mean", resamples=100, seed=0)
        for n in (1, 8)
    ]  # fmt: skip
    assert moved[1].detectable == pytest.approx(moved[0].detectable)
