"""Host arithmetic about scores: against scipy, against counting, and where it must give up."""

import numpy as np
import pytest
from scipy import optimize, special, stats

from safety_jax.maths import calibration


def drawn(count: int, spread: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Log-odds, and outcomes that follow σ(log-odds / spread)."""
    random = np.random.default_rng(seed)
    scores = 2 * random.standard_normal(count)
    return scores, random.random(count) < special.expit(scores / spread)


# ---------------------------------------------------------------------------- AUC


def test_auc_counts_pairs():
    scores = np.array([0.1, 0.4, 0.4, 0.9, -1.0])
    positive = np.array([False, True, False, True, False])
    won = [
        1.0 if p > n else 0.5 if p == n else 0.0
        for p in scores[positive]
        for n in scores[~positive]
    ]
    assert calibration.auc(scores, positive) == pytest.approx(np.mean(won))


def test_auc_is_mann_and_whitneys():
    scores, outcomes = drawn(200, spread=1.0)
    scores = scores.round(1)  # ties
    u = stats.mannwhitneyu(scores[outcomes], scores[~outcomes]).statistic
    expected = u / (outcomes.sum() * (~outcomes).sum())
    assert calibration.auc(scores, outcomes) == pytest.approx(expected)
    assert calibration.auc(-scores, outcomes) == pytest.approx(1 - expected)


def test_auc_needs_both():
    assert calibration.auc(np.array([1.0, 2.0]), np.array([True, True])) is None


# ---------------------------------------------------------------------------- reliability


def test_reliability_by_hand():
    """σ(±0.2) = .55 in the first of two bins, σ(±2) = .88 in the second."""
    scores = np.array([0.2, -0.2, 2.0, 2.0, -2.0, 2.0])
    outcomes = np.array([True, True, True, True, False, False])
    found = calibration.reliability(scores, outcomes, bins=2)
    low, high = special.expit([0.2, 2.0])
    np.testing.assert_allclose(found.confidence, [low, high])
    np.testing.assert_allclose(found.accuracy, [0.5, 0.75])
    np.testing.assert_array_equal(found.count, [2, 4])
    assert found.error == pytest.approx((2 * abs(0.5 - low) + 4 * abs(0.75 - high)) / 6)


def test_empty_bins_are_left_out_and_the_ends_belong_somewhere():
    found = calibration.reliability(np.array([0.0, 900.0]), np.array([False, True]), bins=10)
    np.testing.assert_array_equal(found.count, [1, 1])
    np.testing.assert_allclose(found.confidence, [0.5, 1.0])


@pytest.mark.parametrize("outcome", [True, False])
def test_a_score_of_zero_is_half_right(outcome):
    """Two answers of one score, as two that were cut to the same words: a coin is right on half of
    such pairs, so a judge that is sure of nothing is calibrated."""
    found = calibration.reliability(np.zeros(8), np.full(8, outcome), bins=10)
    np.testing.assert_allclose([found.confidence[0], found.accuracy[0]], 0.5)
    assert found.error == 0


def test_true_probabilities_are_calibrated():
    scores, outcomes = drawn(20_000, spread=1.0)
    assert calibration.reliability(scores, outcomes, bins=10).error < 0.015


# ---------------------------------------------------------------------------- temperature


def test_nll_is_that_of_bernoulli():
    scores, outcomes = drawn(50, spread=1.0)
    expected = -stats.bernoulli.logpmf(outcomes, special.expit(scores)).mean()
    assert calibration.nll(scores, outcomes) == pytest.approx(expected)


@pytest.mark.parametrize("spread", [0.5, 1.0, 3.0])
def test_temperature_is_the_most_likely(spread):
    scores, outcomes = drawn(5000, spread)
    found = calibration.temperature(scores, outcomes)
    # The same by another road: a logistic regression without intercept has the slope 1/T.
    slope = optimize.root_scalar(
        lambda a: ((special.expit(a * scores) - outcomes) * scores).mean(), bracket=(1e-3, 1e3)
    ).root
    assert found == pytest.approx(1 / slope, rel=1e-4)
    assert found == pytest.approx(spread, rel=0.15)


def test_temperature_without_a_best_one_is_an_end_of_the_range():
    scores = np.array([1.0, 2.0, -1.0])
    assert calibration.temperature(scores, scores > 0) == pytest.approx(1 / 100, rel=1e-3)
    assert calibration.temperature(scores, scores < 0) == pytest.approx(100, rel=1e-3)


def test_cross_fitting_scales_each_half_by_the_other():
    scores, outcomes = drawn(4000, spread=3.0)
    before = calibration.reliability(scores, outcomes, bins=10).error
    error, nll = calibration.cross_fitted(scores, outcomes, np.arange(4000), bins=10)
    assert error < 0.05 < before
    order = np.r_[np.flatnonzero(~outcomes), np.flatnonzero(outcomes)]
    first, second = order[::2], order[1::2]
    scaled = scores.copy()
    scaled[first] /= calibration.temperature(scores[second], outcomes[second])
    scaled[second] /= calibration.temperature(scores[first], outcomes[first])
    assert nll == pytest.approx(calibration.nll(scaled, outcomes))
    few = scores[:3], outcomes[:3], np.arange(3)
    assert calibration.cross_fitted(*few, bins=10) == (None, None)


def test_no_prompt_is_in_both_halves():
    """Each prompt has four answers of equal score and outcome: the temperature of either half says
    nothing about the other's prompts, which a file in another order does not change."""
    random = np.random.default_rng(0)
    prompts = np.repeat(np.arange(12), 4)
    scores, outcomes = np.repeat(2 * random.standard_normal(12), 4), np.repeat(np.arange(12) < 5, 4)
    found = calibration.cross_fitted(scores, outcomes, prompts, bins=10)
    alone = calibration.cross_fitted(scores[::4], outcomes[::4], np.arange(12), bins=10)
    assert found == pytest.approx(alone)
    assert calibration.cross_fitted(scores[:12], outcomes[:12], prompts[:12], bins=10)[0] is None


def test_halves_have_both_outcomes_in_a_file_that_alternates():
    """A calibrated judge stays calibrated. If one half has all positives and the other all
    negatives, their temperatures are 0.57 and 1.45, and the error seems to be 0.11."""
    random = np.random.default_rng(0)
    few = random.random(4000) < 0.62
    scores = np.where(few, 1.2, -4.0) + random.standard_normal(4000)
    outcomes = random.random(4000) < special.expit(scores)
    count = min(outcomes.sum(), (~outcomes).sum())
    places = np.flatnonzero(outcomes)[:count], np.flatnonzero(~outcomes)[:count]
    order = np.stack(places, axis=1).ravel()
    scores, outcomes = scores[order], outcomes[order]
    assert outcomes[::2].all() and not outcomes[1::2].any()
    assert calibration.temperature(scores, outcomes) == pytest.approx(1.0, abs=0.05)
    error, nll = calibration.cross_fitted(scores, outcomes, np.arange(len(scores)), bins=10)
    assert error is not None and error < 0.02
    assert nll == pytest.approx(calibration.nll(scores, outcomes), rel=0.01)


# ---------------------------------------------------------------------------- baselines


@pytest.mark.parametrize("intercept", [False, True])
def test_logistic_solves_its_equations(intercept):
    """Where the likelihood is largest, residuals are orthogonal to inputs (and sum to zero)."""
    random = np.random.default_rng(1)
    lengths = random.integers(1, 300, 500).astype(float)
    outcomes = random.random(500) < special.expit(0.01 * lengths - 1.0)
    slope, offset = calibration.logistic(lengths, outcomes, intercept=intercept)
    residuals = special.expit(slope * lengths + offset) - outcomes
    assert abs((residuals * lengths / lengths.std()).mean()) < 1e-4
    if intercept:
        assert abs(residuals.mean()) < 1e-4
        assert slope == pytest.approx(0.01, rel=0.4)
    else:
        assert offset == 0


def test_logistic_stays_finite_where_one_threshold_separates():
    lengths = np.array([1.0, 2.0, 8.0, 9.0])
    slope, offset = calibration.logistic(lengths, lengths > 5, intercept=True)
    assert np.isfinite([slope, offset]).all()
    np.testing.assert_array_equal(slope * lengths + offset > 0, lengths > 5)


def test_correlation():
    x, y = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 2.0, 3.0, 40.0])
    pearson, spearman = calibration.correlation(x, y)
    assert pearson == pytest.approx(np.corrcoef(x, y)[0, 1]) and spearman == pytest.approx(1)
    assert calibration.correlation(x, np.ones(4)) is None
    assert calibration.correlation(x[:1], y[:1]) is None
