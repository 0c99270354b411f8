"""What a judge is worth, by counting: accuracy, baselines of length, groups; and what is shown."""

import numpy as np
import pytest
import statsmodels.api
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from safety_jax.training import judge_quality


def held(kind, scores, lengths, targets=None, categories=None, prompts=None) -> judge_quality.Held:
    scores, lengths = (np.asarray(x, float).reshape(len(x), -1) for x in (scores, lengths))
    n = len(scores)
    return judge_quality.Held(
        kind=kind,
        scores=scores,
        targets=None if targets is None else np.asarray(targets, float).reshape(n, -1),
        lengths=lengths,
        losses=np.arange(n) / 2,
        categories=categories or [("x",)] * n,
        sources=["a", "b"] * (n // 2) + ["a"] * (n % 2),
        prompts=np.arange(n) if prompts is None else np.asarray(prompts),
    )


PAIRS = held(
    "pairs",
    [(2, 1), (1, 0), (0, 1), (3, 3), (5, -1), (1, 2)],
    [(9, 3), (3, 9), (9, 3), (4, 4), (9, 1), (9, 2)],
    categories=[("x",), ("x", "y"), ("y",), (), ("x",), ("x",)],
)


def test_pairs_by_hand():
    """Right three times, undecided once, of six; longer wins four times and once nothing does."""
    metrics = judge_quality.evaluation(PAIRS)
    assert metrics["accuracy"] == pytest.approx(3.5 / 6)
    assert metrics["margin"] == pytest.approx(np.mean([1, 1, -1, 0, 6, -1]))
    assert metrics["loss"] == pytest.approx(1.25)
    assert (metrics["min_reward"], metrics["max_reward"]) == (-1, 5)
    found = judge_quality.report(PAIRS, PAIRS)
    assert found["baselines"]["chance"] == {"value": 0.5, "n": 6}
    assert found["baselines"]["longer wins"]["value"] == pytest.approx(4.5 / 6)
    assert found["baselines"]["shorter wins"]["value"] == pytest.approx(1.5 / 6)
    assert found["baselines"]["logistic on length"]["slope"] > 0
    assert found["by_category"]["x"]["value"] == pytest.approx(3 / 4)
    assert found["by_category"]["y"]["n"] == 2
    # Wilson's interval of 7/12 from 6 trials: (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)
    wilson = proportion_confint(3.5, 6, method="wilson")
    assert (found["accuracy"]["low"], found["accuracy"]["high"]) == pytest.approx(wilson)
    whole = held("pairs", [(1, 0), (0, 1), (1, 0)], [(1, 2)] * 3)
    low, high = stats.binomtest(2, 3).proportion_ci(0.95, method="wilson")
    metrics = judge_quality.evaluation(whole)
    assert (metrics["accuracy_low"], metrics["accuracy_high"]) == pytest.approx((low, high))


def test_a_judge_against_counting_words():
    """McNemar, exact: only the pairs where one of the two is right say anything."""
    found = judge_quality.report(PAIRS, PAIRS)["against_length"]
    assert (found["only_judge_right"], found["only_length_right"]) == (1, 2)
    assert found["p"] == pytest.approx(stats.binomtest(1, 3).pvalue)


def test_answers_of_one_length_do_not_count_against_counting_words():
    data = held("pairs", [(1, 0)] * 8, [(4, 4)] * 8)
    found = judge_quality.report(data, PAIRS)["against_length"]
    assert (found["only_judge_right"], found["only_length_right"], found["p"]) == (0, 0, 1.0)


def test_several_answers_to_a_prompt_are_one_cluster():
    """The interval is Wilson's for the trials that have the standard error of statsmodels' mean
    with clusters, in the share of all and of a group."""
    random = np.random.default_rng(0)
    prompts = np.repeat(np.arange(40), 3)
    scores = np.repeat(random.normal(size=40), 3) + 0.5 * random.normal(size=120)
    labels = np.repeat(random.random(40) < 0.5, 3)
    data = held("binary", scores, random.integers(1, 9, 120), labels, prompts=prompts)
    right = ((scores > 0) == labels).astype(float)
    found = judge_quality.report(data, data)
    assert found["prompts"] == 40 and found["held_out"] == 120
    for share, among in (("all", slice(None)), ("a", slice(0, None, 2))):
        values, groups = right[among], prompts[among]
        fit = statsmodels.api.OLS(values, np.ones(len(values)))
        error = fit.fit(cov_type="cluster", cov_kwds={"groups": groups}).bse[0]
        mean = values.mean()
        trials = mean * (1 - mean) / error**2
        assert len(np.unique(groups)) < trials < len(values)
        interval = found["accuracy"] if share == "all" else found["by_source"][share]
        expected = proportion_confint(mean * trials, trials, method="wilson")
        assert (interval["low"], interval["high"]) == pytest.approx(expected)
    assert "120 held-out answers, 40 prompts  " in judge_quality.describe(found)


def test_calibration_counts_ties_and_prompts_as_the_accuracy_does():
    """Of forty pairs a quarter have one score for both answers; the four pairs of a prompt are
    equal, so that each bin tells as much as a quarter of its pairs."""
    margins = np.repeat([0.0, 2.0, -2.0, 2.0, 2.0, 2.0, 2.0, 0.0, -2.0, 2.0], 4)
    pairs = np.stack([margins, np.zeros(40)], axis=1)
    data = held("pairs", pairs, [(1, 2)] * 40, prompts=np.repeat(np.arange(10), 4))
    found = judge_quality.report(data, data)
    bins = found["calibration"]
    assert np.average(bins["accuracy"], weights=bins["count"]) == found["accuracy"]["value"] == 0.7
    assert bins["accuracy"] == [0.5, 0.75] and bins["count"] == [8, 32]
    spans = list(zip(bins["low"], bins["high"], strict=True))
    for (low, high), (hits, prompts) in zip(spans, ((1, 2), (6, 8)), strict=True):
        assert (low, high) == pytest.approx(proportion_confint(hits, prompts, method="wilson"))


def test_the_test_against_counting_words_is_over_prompts():
    """Five prompts of four answers, on each of which the judge is right and length is not: as five
    heads in five tosses, not twenty in twenty."""
    pairs, lengths = [(1, 0)] * 20, [(1, 2)] * 20
    longer = held("pairs", [(0, 0)] * 4, [(3, 1)] * 4)
    data = held("pairs", pairs, lengths, prompts=np.repeat(np.arange(5), 4))
    found = judge_quality.report(data, longer)["against_length"]
    assert (found["only_judge_right"], found["only_length_right"]) == (20, 0)
    assert found["p"] == pytest.approx(2 / 2**5) and found["test"].startswith("sign flips")


def test_a_judge_that_counts_words_is_visible():
    lengths = np.random.default_rng(0).integers(1, 99, (40, 2))
    found = judge_quality.report(held("pairs", lengths / 10, lengths), PAIRS)
    assert found["length_correlation"]["pearson"] == pytest.approx(1)
    parts = found["by_length"]
    assert sum(part["n"] for part in parts) == 40
    assert parts[0]["value"] < 0.2 and parts[-1]["value"] == 1.0
    assert found["accuracy"]["value"] == found["baselines"]["longer wins"]["value"]


def test_a_cost_is_higher_where_it_is_less_safe():
    data = held("cost", [(-1, 2), (1, -2)], [(1, 2), (3, 4)], [(0, 1), (0, 1)])
    found = judge_quality.report(data, data)
    np.testing.assert_array_equal(data.evidence, [3, -3])
    assert found["accuracy"]["value"] == 0.5 and found["sign_accuracy"] == 0.5
    assert found["auc"] == pytest.approx(0.5)


def test_labels_are_compared_with_the_more_frequent_one():
    data = held("binary", [2, -1, 3, -2], [5, 6, 7, 8], [1, 0, 0, 0])
    found = judge_quality.report(data, data)
    assert found["accuracy"]["value"] == 0.75
    assert found["baselines"]["more frequent label"]["value"] == 0.75
    assert found["auc"] == pytest.approx(2 / 3)


def test_ratings():
    data = held("regression", [1, 2, 3, 4], [10, 20, 30, 40], [0, 2, 2, 4])
    found = judge_quality.report(data, data)
    assert found["mse"] == pytest.approx(data.losses.mean())
    assert found["baselines"]["mean rating"]["mse"] == pytest.approx(2.0)
    line = stats.linregress([10, 20, 30, 40], [0, 2, 2, 4])
    fitted = line.intercept + line.slope * np.array([10, 20, 30, 40])
    error = ((fitted - [0, 2, 2, 4]) ** 2).mean()
    assert found["baselines"]["line on length"]["mse"] == pytest.approx(error)
    assert found["by_rating"]["2"] == {"mean_score": 2.5, "n": 2}
    assert "MSE" in judge_quality.describe(found)


@pytest.mark.parametrize("kind", ["pairs", "cost"])
def test_what_people_are_shown(kind):
    targets = [(0, 1)] * 6 if kind == "cost" else None
    data = held(kind, PAIRS.scores, PAIRS.lengths, targets)
    shown = judge_quality.describe(judge_quality.report(data, data))
    for words in ("this judge", "chance", "longer wins", "logistic on length", "95% interval"):
        assert words in shown
