"""Shares of several answers a prompt: equal to surveys' arithmetic, and to plain statistics where a
prompt has one."""

import itertools

import numpy as np
import pytest
import statsmodels.api
from scipy import stats

from safety_jax.maths import agreement, clusters, statistics


def drawn(prompts, answers, seed, rate=0.4, alike=0.6):
    """Verdicts on `answers` answers to each prompt, which agree within prompts."""
    random = np.random.default_rng(seed)
    chance = np.where(random.random(prompts) < alike, random.random(prompts) < rate, rate)
    verdicts = random.random((prompts, answers)) < chance[:, None]
    return verdicts.reshape(-1), np.repeat(np.arange(prompts), answers)


def test_effective_size_on_paper():
    """Two prompts of two answers: 1 1 and 1 0. The mean is 3/4, the totals of deviations ½ and -½,
    so the variance is 2 · ½ / 16 = 1/16; independent, it would be (3/16) / n, so n is 3."""
    verdicts = np.array([True, True, True, False])
    assert clusters.effective(verdicts, np.array([0, 0, 7, 7])) == pytest.approx(3.0)
    # All alike within prompts: as many as prompts, or all the same: likewise.
    assert clusters.effective(np.repeat([True, False], 4), np.repeat([0, 1], 4)) == 2.0
    assert clusters.effective(np.ones(8, bool), np.repeat([0, 1], 4)) == 2.0
    assert clusters.effective(np.full(8, 0.5), np.repeat([0, 1], 4)) == 2.0  # all undecided
    # Opposites within prompts tell more than chance; that is not believed.
    assert clusters.effective(np.tile([True, False], 4), np.repeat(np.arange(4), 2)) == 8.0


def test_variance_is_that_of_statsmodels():
    verdicts, prompts = drawn(60, 4, seed=1)
    verdicts, prompts = verdicts[:-3], prompts[:-3]  # clusters of different sizes
    fit = statsmodels.api.OLS(verdicts.astype(float), np.ones(len(verdicts)))
    error = fit.fit(cov_type="cluster", cov_kwds={"groups": prompts}).bse[0]
    mean = verdicts.mean()
    assert mean * (1 - mean) / error**2 == pytest.approx(clusters.effective(verdicts, prompts))
    count = clusters.effective(verdicts, prompts)
    z = stats.norm.ppf(0.975)
    # Wilson's bounds solve (p̂ - p)² = z² p (1 - p) / n.
    for bound in clusters.share(verdicts, prompts):
        assert (mean - bound) ** 2 == pytest.approx(z**2 * bound * (1 - bound) / count)


def test_one_answer_a_prompt_gives_the_plain_numbers():
    first, prompts = drawn(50, 1, seed=2)
    second, _ = drawn(50, 1, seed=3)
    assert clusters.share(first, prompts) == statistics.wilson(int(first.sum()), 50)
    assert clusters.change(first, second, prompts) == statistics.change(first, second)
    counts = (int(first.sum()), 50, int(second.sum()), 50)
    assert clusters.apart(first, prompts, second, prompts) == pytest.approx(
        statistics.newcombe(*counts)
    )
    assert clusters.mean(first * 1.0, prompts) == statistics.wilson_mean(float(first.mean()), 50)


@pytest.mark.parametrize("seed", range(4))
def test_sign_flip_is_scipys(seed):
    differences = np.random.default_rng(seed).integers(-3, 5, 9)
    expected = stats.permutation_test(
        (differences, np.zeros(9)), lambda a, b, axis: (a - b).sum(axis),
        permutation_type="samples", n_resamples=np.inf, vectorized=True,
    )  # fmt: skip
    assert clusters.sign_flip(differences) == pytest.approx(expected.pvalue)


def test_sign_flip_on_paper():
    """3, -1, 2 add up to 4; of the eight sums ±3 ±1 ±2, 6, 4, -4 and -6 are as far from 0."""
    assert clusters.sign_flip(np.array([3, -1, 2, 0])) == 0.5
    sums = [sum(signs) for signs in itertools.product((3, -3), (1, -1), (2, -2))]
    assert sorted(sums) == [-6, -4, -2, 0, 0, 2, 4, 6]
    assert clusters.sign_flip(np.zeros(3, int)) == 1.0
    ones = np.array([1, 1, 1, 1, -1])
    assert clusters.sign_flip(ones) == stats.binomtest(4, 5).pvalue


def test_copies_of_an_answer_add_nothing():
    """Every answer four times over tells what it tells once."""
    first, prompts = drawn(40, 1, seed=5)
    second, _ = drawn(40, 1, seed=6)
    once = statistics.change(first, second)
    copied = [np.repeat(column, 4) for column in (first, second, prompts)]
    found = clusters.change(*copied)
    assert (found.gained, found.lost) == (once.gained, once.lost)
    assert found.p == pytest.approx(once.p)
    assert found.difference == pytest.approx(once.difference)
    assert found.detectable == pytest.approx(once.detectable)
    # Wilson's of one answer, but for the n - 1 of the variance; φ has no continuity correction.
    assert clusters.share(copied[0], copied[2]) == pytest.approx(clusters.share(first, prompts))
    assert (found.low, found.high) == pytest.approx((once.low, once.high), abs=0.03)


def test_kappa_of_clusters():
    """Of one pair a prompt it is statsmodels'; of copies it tells no more than of one."""
    random = np.random.default_rng(3)
    first = random.choice(["a", "b", "c"], 80)
    second = np.where(random.random(80) < 0.6, first, random.choice(["a", "b", "c"], 80))
    prompts = np.arange(80)
    plain = agreement.cohen(first.tolist(), second.tolist())
    assert clusters.cohen(first.tolist(), second.tolist(), prompts) == plain
    copied = [np.repeat(column, 3) for column in (first, second, prompts)]
    kappa, low, high = clusters.cohen(copied[0].tolist(), copied[1].tolist(), copied[2])
    assert kappa == pytest.approx(plain[0])
    wider = (80 / 79) ** 0.5  # of estimating the spread from 80 prompts
    assert (high - low) / (plain[2] - plain[1]) == pytest.approx(wider, rel=1e-6)


def test_kappa_of_clusters_that_always_agree():
    """As sure as one pair of labels a cluster makes it."""
    labels, clusters_of = ["a", "a", "b", "b"] * 2, np.array([0, 0, 1, 1] * 2)
    found = clusters.cohen(labels, labels, clusters_of)
    low, _ = statistics.wilson(2, 2)
    assert found == pytest.approx((1.0, 2 * low - 1, 1.0))
    one = clusters.cohen(["a", "b"], ["a", "b"], np.zeros(2, int))
    assert one is not None and one[1] == pytest.approx(2 * statistics.wilson(1, 1)[0] - 1)


def test_intervals_cover():
    """Simulated prompts whose chances are known: near 95 of 100 intervals hold the truth."""
    shares, differences, rejected = 0, 0, 0
    for seed in range(100):
        first, prompts = drawn(40, 5, seed=seed)
        second, _ = drawn(40, 5, seed=10_000 + seed)
        low, high = clusters.share(first, prompts)
        shares += low <= 0.4 <= high
        found = clusters.change(first, second, prompts)
        differences += found.low <= 0 <= found.high
        rejected += found.p < 0.05
    assert 0.88 < shares / 100 <= 1
    assert 0.88 < differences / 100 <= 1
    assert 0 < rejected / 100 < 0.1


def test_means_of_pairs_are_compared_as_verdicts_of_clusters_that_are_alike():
    """Of two equal answers to each prompt, the cluster is one value, 0 or 1."""
    random = np.random.default_rng(5)
    first, second = random.random(20) < 0.3, random.random(20) < 0.6
    each = clusters.change(np.repeat(first, 2), np.repeat(second, 2), np.repeat(range(20), 2))
    found = clusters.paired_means(first.astype(float), second.astype(float))
    assert found == pytest.approx((each.low, each.high))
    shares = random.random(20)
    low, high = clusters.paired_means(shares, shares / 2)
    assert low < -shares.mean() / 2 < high


# ---------------------------------------------------------------------------- exchanged members


@pytest.mark.parametrize("gained", [0, 3, 7])
def test_of_two_members_it_is_mcnemars(gained):
    members = [[1, 0]] * gained + [[0, 1]] * (7 - gained) + [[1, 1], [0, 0]]
    p = clusters.exchanged(members, [0] * 9)
    assert p == pytest.approx(stats.binomtest(gained, 7).pvalue, abs=1e-12)


def test_of_two_members_with_numbers_it_flips_signs():
    members = [[3, 0], [5, 9], [2, 2], [40, 11], [7, 1]]
    flipped = clusters.sign_flip(np.array([one - other for one, other in members]))
    assert clusters.exchanged(members, [0] * 5) == pytest.approx(flipped, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_it_counts_every_exchange(seed):
    random = np.random.default_rng(seed)
    members = [random.integers(-4, 6, size=random.integers(2, 5)).tolist() for _ in range(5)]
    own = [int(random.integers(len(values))) for values in members]

    def far(places) -> float:
        return abs(sum(v[i] - np.mean(v) for v, i in zip(members, places, strict=True)))

    ways = list(itertools.product(*(range(len(values)) for values in members)))
    seen = far(own)
    expected = sum(far(places) >= seen - 1e-9 for places in ways) / len(ways)
    assert clusters.exchanged(members, own) == pytest.approx(expected, abs=1e-12)


def test_where_there_is_nothing_to_see_p_is_one():
    assert clusters.exchanged([], []) == clusters.exchanged([[2, 2, 2]], [1]) == 1.0


def test_what_is_too_much_to_count_is_taken_for_normal(monkeypatch):
    random = np.random.default_rng(1)
    members = random.integers(0, 30, size=(60, 3)).tolist()
    exact = clusters.exchanged(members, [0] * 60)
    monkeypatch.setattr(clusters, "_MOST_ADDED", 0)
    assert clusters.exchanged(members, [0] * 60) == pytest.approx(exact, abs=0.01)
