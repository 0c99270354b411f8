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


def test_cohen_on_paper():
    # 20 yes/yes, 15 no/no of 50; by chance 0.5: κ = (0.7 - 0.5) / 0.5
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    found = statistics.cohen(first, second)
    assert found is not None and found[0] == pytest.approx(0.4)
    assert found[1] < 0.4 < found[2]
    assert statistics.cohen(["a", "a"], ["a", "a"]) is None
    assert statistics.cohen(["a", "b"], ["a", "a"]) is None


def test_raters_who_always_agree_are_not_beyond_doubt():
    """κ of p and e = 1/2: Wilson's interval of 4 of 4, 0.510 to 1, gives 0.020 to 1."""
    low, _ = statistics.wilson(4, 4)
    found = statistics.cohen(["a", "b", "a", "b"], ["a", "b", "a", "b"])
    assert found == pytest.approx((1.0, 2 * low - 1, 1.0))
    counts = np.array([[3, 0], [0, 3], [3, 0], [0, 3]])
    assert statistics.fleiss(counts, resamples=99, seed=0) == pytest.approx((1.0, 2 * low - 1, 1.0))
    never = statistics.cohen(["a", "b"], ["b", "a"])
    assert never is not None and never[0] == -1.0 and never[1] == -1.0 and never[2] > 0
    once = statistics.fleiss(np.array([[1, 1]]), resamples=99, seed=0)
    assert once is not None and once[0] == once[1] == -1.0 and once[2] > 0.5


def test_fleiss_published():
    # Fleiss (1971) as in every textbook: 14 raters, 10 items, 5 labels, κ = 0.210
    counts = np.array(
        [
            [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
            [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
        ]
    )  # fmt: skip
    found = statistics.fleiss(counts, resamples=500, seed=0)
    assert found is not None and found[0] == pytest.approx(0.210, abs=5e-4)
    assert found[1] < found[0] < found[2]
    assert statistics.fleiss(np.array([[3, 0], [3, 0]]), resamples=10, seed=0) is None


def test_corrected_on_paper_and_by_simulation():
    # p 0.4, sensitivity 0.9, specificity 0.8: (0.4 + 0.8 - 1) / (0.9 + 0.8 - 1) = 2/7
    found = statistics.corrected(40, 100, statistics.Checked(90, 100, 80, 100))
    assert found is not None and found[0] == pytest.approx(2 / 7)
    # Of p' 0.40370, r' 91/102, s' 81/102: share 0.28825, moved by -0.00668, more or less 0.16177.
    assert found[1:] == pytest.approx((0.11980, 0.44334), abs=2e-5)
    # A judge known to be perfect: about Wilson's interval.
    perfect = statistics.corrected(40, 100, statistics.Checked(10**6, 10**6, 10**6, 10**6))
    assert perfect is not None
    assert perfect[1:] == pytest.approx(statistics.wilson(40, 100), abs=2e-3)
    assert statistics.corrected(40, 100, statistics.Checked(5, 10, 5, 10)) is None
    assert statistics.corrected(40, 100, statistics.Checked(0, 0, 5, 10)) is None

    random = np.random.default_rng(0)
    covered = []
    for _ in range(1500):
        hits = random.binomial(150, 0.25 * 0.85 + 0.75 * 0.1)
        checked = statistics.Checked(
            int(random.binomial(40, 0.85)), 40, int(random.binomial(60, 0.9)), 60
        )
        interval = statistics.corrected(int(hits), 150, checked)
        covered.append(interval is not None and interval[1] <= 0.25 <= interval[2])
    assert 0.93 < np.mean(covered) < 0.98
