"""Agreement and corrected shares: published examples, arithmetic on paper, and simulation."""

import numpy as np
import pytest

from safety_jax.maths import agreement, statistics


def test_cohen_on_paper():
    # 20 yes/yes, 15 no/no of 50; by chance 0.5: κ = (0.7 - 0.5) / 0.5
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    found = agreement.cohen(first, second)
    assert found is not None and found[0] == pytest.approx(0.4)
    assert found[1] < 0.4 < found[2]
    assert agreement.cohen(["a", "a"], ["a", "a"]) is None
    assert agreement.cohen(["a", "b"], ["a", "a"]) is None


def test_raters_who_always_agree_are_not_beyond_doubt():
    """κ of p and e = 1/2: Wilson's interval of 4 of 4, 0.510 to 1, gives 0.020 to 1."""
    low, _ = statistics.wilson(4, 4)
    found = agreement.cohen(["a", "b", "a", "b"], ["a", "b", "a", "b"])
    assert found == pytest.approx((1.0, 2 * low - 1, 1.0))
    counts = np.array([[3, 0], [0, 3], [3, 0], [0, 3]])
    found = agreement.fleiss(counts, np.arange(4), resamples=99, seed=0)
    assert found == pytest.approx((1.0, 2 * low - 1, 1.0))
    never = agreement.cohen(["a", "b"], ["b", "a"])
    assert never is not None and never[0] == -1.0 and never[1] == -1.0 and never[2] > 0
    once = agreement.fleiss(np.array([[1, 1]]), np.arange(1), resamples=99, seed=0)
    assert once is not None and once[0] == once[1] == -1.0 and once[2] > 0.5


def test_fleiss_published():
    # Fleiss (1971) as in every textbook: 14 raters, 10 items, 5 labels, κ = 0.210
    counts = np.array(
        [
            [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
            [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
        ]
    )  # fmt: skip
    found = agreement.fleiss(counts, np.arange(10), resamples=500, seed=0)
    assert found is not None and found[0] == pytest.approx(0.210, abs=5e-4)
    assert found[1] < found[0] < found[2]
    alike = np.array([[3, 0], [3, 0]])
    assert agreement.fleiss(alike, np.arange(2), resamples=10, seed=0) is None
    # Every item twice tells what it tells once.
    twice = np.repeat(counts, 2, axis=0), np.repeat(np.arange(10), 2)
    copied = agreement.fleiss(*twice, resamples=500, seed=0)
    assert copied is not None and copied[1:] == pytest.approx(found[1:])


def test_corrected_on_paper_and_by_simulation():
    # p 0.4, sensitivity 0.9, specificity 0.8: (0.4 + 0.8 - 1) / (0.9 + 0.8 - 1) = 2/7
    found = agreement.corrected(40, 100, agreement.Checked(90, 100, 80, 100))
    assert found is not None and found[0] == pytest.approx(2 / 7)
    # Of p' 0.40370, r' 91/102, s' 81/102: share 0.28825, moved by -0.00668, more or less 0.16177.
    assert found[1:] == pytest.approx((0.11980, 0.44334), abs=2e-5)
    # A judge known to be perfect: about Wilson's interval.
    perfect = agreement.corrected(40, 100, agreement.Checked(10**6, 10**6, 10**6, 10**6))
    assert perfect is not None
    assert perfect[1:] == pytest.approx(statistics.wilson(40, 100), abs=2e-3)
    assert agreement.corrected(40, 100, agreement.Checked(5, 10, 5, 10)) is None
    assert agreement.corrected(40, 100, agreement.Checked(0, 0, 5, 10)) is None

    random = np.random.default_rng(0)
    covered = []
    for _ in range(1500):
        hits = random.binomial(150, 0.25 * 0.85 + 0.75 * 0.1)
        checked = agreement.Checked(
            int(random.binomial(40, 0.85)), 40, int(random.binomial(60, 0.9)), 60
        )
        interval = agreement.corrected(int(hits), 150, checked)
        covered.append(interval is not None and interval[1] <= 0.25 <= interval[2])
    assert 0.93 < np.mean(covered) < 0.98
