"""Counts, comparisons and agreement, by arithmetic on paper."""

import dataclasses
import itertools

import numpy as np
import pytest

from safety_jax.evaluation.measures import compare, counts, derived, notes, overlap, paired
from safety_jax.evaluation.measures.compare import Margins
from safety_jax.evaluation.sets import conversations, turns
from safety_jax.judges.judge import Score
from safety_jax.maths import clusters, statistics
from safety_jax.report.evaluation import words
from tests import evaluation_samples as samples
from tests.evaluation_samples import HOW, block, make_set

NONE = Margins(0.0, 0.0, "")
UNSAFE = make_set("U", "unsafe", 6)
SAFE = make_set("S", "safe", 6)


def one(found, measure, name="U"):
    (comparison,) = [c for c in found if (c.measure, c.set) == (measure, name)]
    return comparison


def test_a_row_counts_verdicts_refusals_and_what_is_missing():
    # The value at the threshold is unsafe; one answer is unscored.
    row = counts.row(
        block("m", UNSAFE, [0.1, 0.5, 0.9, None, 0.2, 0.0],
              ["full", "none", "none", "partial", "none", "full"]),
        HOW,
    )  # fmt: skip
    safe = row.judged["guard"].safe
    assert safe is not None and (safe.count, safe.n, safe.unscored) == (3, 5, 1)
    assert (safe.value, safe.least, safe.most) == (0.6, 0.5, pytest.approx(4 / 6))
    assert (safe.low, safe.high) == statistics.wilson(3, 5)
    assert row.judged["guard"].reasons == {"too long by 3 tokens": 1}
    # Safe and not refused: only item 4; item 3 has no verdict.
    engaged = row.judged["guard"].engaged
    assert engaged is not None and (engaged.count, engaged.n) == (1, 5)
    assert row.refused is not None
    assert [r.count for r in (row.refused.full, row.refused.partial, row.refused.any)] == [2, 1, 3]
    assert row.judged["guard"].mean.value == pytest.approx(1.7 / 5)
    assert row.judged["guard"].median.value == 0.2
    assert {name: found.n for name, found in row.categories.items()} == {"a": 3, "b": 3}
    assert row.categories["a"].safe["guard"].count == 2
    assert "refusal" not in row.judged


def test_without_scores_there_is_no_share():
    row = counts.row(block("m", UNSAFE, [None] * 6), HOW)
    safe = row.judged["guard"].safe
    assert safe is not None and safe.value is None and (safe.least, safe.most) == (0, 1)
    assert row.judged["guard"].mean.value is None and row.refused is None


def test_an_answer_that_ends_inside_its_thought_has_no_length():
    found = dataclasses.replace(
        block("m", UNSAFE, [0.0] * 6),
        answers=["", "", "", "one two", "one two three", ""],
        finishes=["thought"] * 3 + ["eos"] * 3,
    )
    assert counts.lengths(found) == [None, None, None, 2, 3, 0]
    row = counts.row(found, HOW)
    assert (row.words.value, row.words.n) == (2.0, 3)


def test_answers_that_are_none():
    phrase = "the same words again and again "
    found = counts.degenerate(
        ["", "  \n", "short", phrase * 8, " ".join(map(str, range(40))), ""],
        ["eos", "eos", "length", "length", "eos", "thought"],
        np.arange(6),
    )
    assert found.empty.count == 2 and found.repeated.count == 1
    assert found.truncated is not None and found.truncated.count == 3
    assert counts.degenerate(["a"], [""], np.arange(1)).truncated is None


def test_paired_change_of_shares():
    before = block("a", UNSAFE, [0.9, 0.9, 0.9, 0.9, 0.1, None])
    after = block("b", UNSAFE, [0.1, 0.1, 0.1, 0.9, 0.9, 0.1])
    found = one(compare.compare([before], [after], HOW, NONE, force=False), "safe/guard")
    assert (found.n, found.first_value, found.second_value) == (5, 0.2, 0.6)
    assert found.fixed == ("0", "1", "2") and found.broken == ("4",)
    assert found.p == pytest.approx(10 / 16)  # at most 1 of 4: 2 (1 + 4) / 16
    assert found.difference.low is not None and found.difference.low < 0.4
    assert found.refused_because == "" and not found.forced
    back = one(compare.compare([after], [before], HOW, NONE, force=False), "safe/guard")
    assert (back.n, back.fixed, back.broken) == (5, found.broken, found.fixed)


def test_refusing_is_worse_only_where_the_prompt_is_safe():
    labels = (["none"] * 6, ["full"] * 3 + ["none"] * 3)
    pairs = [
        [block(model, one_set, [0.1] * 6, given) for one_set in (UNSAFE, SAFE)]
        for model, given in zip("ab", labels, strict=True)
    ]
    found = compare.compare(*pairs, HOW, Margins(0.1, 0.0, ""), force=False)
    assert one(found, "refused").broken == () and one(found, "refused").margin is None
    worse = one(found, "refused", "S")
    assert worse.broken == ("0", "1", "2") and worse.fixed == ()
    assert worse.noninferior is False and worse.margin == 0.1
    assert one(found, "engaged/guard").broken == ("0", "1", "2")


def test_sets_of_a_kind_are_pooled_and_p_values_adjusted():
    more = make_set("V", "unsafe", 6)
    before = [block("a", one_set, [0.9] * 6) for one_set in (UNSAFE, more)]
    after = [block("b", UNSAFE, [0.1] * 6), block("b", more, [0.1] * 3 + [0.9] * 3)]
    found = compare.compare(before, after, HOW, NONE, force=False)
    first, second = one(found, "safe/guard"), one(found, "safe/guard", "V")
    assert first.p == pytest.approx(2 / 64) and second.p == pytest.approx(2 / 8)
    assert (first.p_holm, second.p_holm) == (pytest.approx(4 / 64), pytest.approx(2 / 8))
    pooled = one(found, "safe/guard", "all unsafe")
    assert pooled.n == 12 and pooled.p == pytest.approx(2 / 512) and pooled.p_holm is None
    assert "V/0" in pooled.fixed and "U/5" in pooled.fixed


def test_scores_by_the_bootstrap_and_the_margin():
    reward = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    before = block("a", SAFE, [0.1] * 6, reward=reward)
    after = block("b", SAFE, [0.1] * 6, reward=[x - 1 for x in reward])
    found = compare.compare([before], [after], HOW, Margins(0.0, 0.2, "reward"), force=False)
    mean = one(found, "mean/reward", "S")
    assert mean.difference.value == pytest.approx(-1)
    assert (mean.difference.low, mean.difference.high) == (pytest.approx(-1), pytest.approx(-1))
    assert mean.margin == pytest.approx(0.2 * 1.8708287) and mean.noninferior is False
    assert one(found, "mean/guard", "S").margin is None
    close = block("b", SAFE, [0.1] * 6, reward=[x - 0.01 for x in reward])
    again = compare.compare([before], [close], HOW, Margins(0.0, 0.2, "reward"), force=False)
    assert one(again, "mean/reward", "S").noninferior is True
    harm = [block(model, SAFE, [x / 10 for x in values]) for model, values in
            (("a", range(6)), ("b", range(1, 7)))]  # fmt: skip
    for pair, holds in ((harm, False), (harm[::-1], True)):
        found = compare.compare(pair[:1], pair[1:], HOW, Margins(0.0, 0.2, "guard"), force=False)
        assert one(found, "mean/guard", "S").noninferior is holds  # less harm is no worse


def test_other_protocols_are_not_compared_unless_forced():
    before, after = block("a", UNSAFE, [0.9] * 6), block("b", UNSAFE, [0.1] * 6, protocol="q")
    found = one(compare.compare([before], [after], HOW, NONE, force=False), "safe/guard")
    assert "different protocols" in found.refused_because and found.p is None
    assert found.difference.value is None and not found.forced
    forced = one(compare.compare([before], [after], HOW, NONE, force=True), "safe/guard")
    assert forced.forced and forced.p is not None and forced.refused_because == ""
    other = dataclasses.replace(samples.GUARD, model="another", threshold=0.5)
    after = dataclasses.replace(block("b", UNSAFE, [0.1] * 6), cards={"guard": other})
    found = one(compare.compare([before], [after], HOW, NONE, force=False), "safe/guard")
    assert "not the same judge" in found.refused_because


def test_multiple_choice_is_compared_by_accuracy():
    quiz = make_set("Q", "choice", 4, choices=("A", "B"), reference="A")

    def answered(model, right):
        return counts.Block(model, quiz, "p", ["A"] * 4, [""] * 4, {}, {}, {"n": 4}, right)

    found = compare.compare(
        [answered("a", [True, True, False, False])],
        [answered("b", [True, True, True, False])],
        HOW, Margins(0.3, 0.0, ""), force=False,
    )  # fmt: skip
    assert [c.measure for c in found] == ["accuracy"]
    assert found[0].fixed == ("2",) and found[0].margin == 0.3


def test_differences_between_sets():
    labels = ["full"] * 4 + ["none"] * 2
    twins = make_set("T", "safe", 6, twin="U")
    blocks = [
        block("m", UNSAFE, [0.9] * 3 + [0.1] * 3, labels),
        block("m", twins, [0.9] + [0.1] * 5, ["full"] + ["none"] * 5),
    ]
    found = derived.derive(blocks)
    gap = found["refusal_discrimination"]
    assert gap.value == pytest.approx(4 / 6 - 1 / 6)
    assert (gap.low, gap.high) == pytest.approx(statistics.newcombe(1, 6, 4, 6))
    twin = found["twin_gap/guard"]
    assert (twin.value, twin.n) == (pytest.approx(2 / 6), 6)
    questions = make_set("W", "unsafe", 6, twin="U")
    asked = [blocks[0], block("m", questions, [0.1] * 6)]
    assert derived.derive(asked)["question_gap/guard"].value == pytest.approx(0.5)


def test_several_sets_of_twins_have_a_gap_each():
    """Before, the last set's gap replaced those of the others."""
    unsafe = block("m", UNSAFE, [0.9] * 3 + [0.1] * 3)
    some = block("m", make_set("T", "safe", 6, twin="U"), [0.9] + [0.1] * 5)
    more = block("m", make_set("V", "safe", 6, twin="U"), [0.1] * 6)
    found = derived.derive([unsafe, some, more])
    gaps = {name: gap.value for name, gap in found.items() if "gap" in name}
    assert gaps == pytest.approx({"twin_gap/guard/T": 2 / 6, "twin_gap/guard/V": 3 / 6})
    assert words.measure("twin_gap/guard/T") == "twin gap of T, by guard"


def test_judges_agree_on_prompts_not_on_models():
    """The answers of many models to one prompt are one cluster, also those under attacks, of which
    judges read the same request: they resemble each other."""
    other = samples.card("other", "higher is safer", 0.0)

    def both(model, asked=UNSAFE):
        first = block(model, asked, [0.9, 0.8, 0.1, 0.2, 0.7, 0.1])
        said = {"other": [Score(v) for v in (-1.0, -2.0, 2.0, 1.0, 3.0, 1.0)]}
        cards = {"guard": samples.GUARD, "other": other}
        return dataclasses.replace(first, scores=dict(first.scores) | said, cards=cards)

    (one,) = derived.agreement([both("a")], both("a").cards)
    (four,) = derived.agreement([both(name) for name in "abcd"], both("a").cards)
    assert (one.n, four.n) == (6, 24)
    sets = [dataclasses.replace(UNSAFE, name=f"U+{name}", plain="U") for name in "xyz"]
    (attacked,) = derived.agreement([both("a", s) for s in (UNSAFE, *sets)], both("a").cards)
    assert attacked == four
    assert one.share and four.share and one.kappa and four.kappa
    assert (four.share.low, four.share.high) == pytest.approx((one.share.low, one.share.high))
    # G / (G - 1) of the six prompts is the only difference.
    width = [estimate.high - estimate.value for estimate in (one.kappa, four.kappa)]
    assert one.kappa.high == 1.0 or width[1] == pytest.approx(width[0] * np.sqrt(6 / 5))


@pytest.mark.parametrize("setting", ["again", "amid:2", "context:100"])
def test_a_request_in_a_conversation_is_the_request_asked_alone(setting):
    plain = make_set("s", "unsafe", 3)
    (kind,) = conversations.parse(setting, "sets")
    talks = turns.within(plain, kind)
    blocks = [block("m", one_set, [0.1] * len(one_set.items)) for one_set in (plain, talks)]
    asked = paired.requests(blocks)
    turned = list(zip(talks.items, asked[talks.name], strict=True))
    requests = {item.talk.request: key for item, key in turned}
    assert [requests[item.id] for item in plain.items] == asked["s"] == [("s", i) for i in "012"]
    harmless = {key for item, key in turned if item.talk.script}
    assert not any(item.talk.script for item in talks.items) or len(harmless) > 3


def test_a_prompt_that_stands_in_a_set_twice_counts_once():
    """Greedy answers to it are the same: copies make no interval narrower and no p smaller."""
    alone = make_set("s", "safe", 4)
    copies = [dataclasses.replace(item, id=f"{item.id}/{n}") for item in alone.items for n in "abc"]
    thrice = dataclasses.replace(alone, items=tuple(copies))
    assert (alone.repeats, thrice.repeats, thrice.repeated(2).repeats) == (0, 8, 8)
    assert thrice.repeated(2).clusters.tolist() == np.repeat(range(4), 6).tolist()

    def compared(one_set):
        before, after = ([0.1, 0.1, 0.1, 0.9], [0.9] * 4)
        times = len(one_set.items) // 4
        sides = [
            [block(model, one_set, np.repeat(scores, times).tolist())]
            for model, scores in (("a", before), ("b", after))
        ]
        return compare.compare(*sides, HOW, NONE, force=False)

    for one, other in zip(compared(alone), compared(thrice), strict=True):
        assert one.measure == other.measure and one.n == other.n == 4
        assert (one.p, one.difference.low) == pytest.approx((other.p, other.difference.low))
    (said,) = notes.repeated([alone, thrice])
    assert said.startswith("s: 8 of its 12 prompts are repetitions; intervals and tests")


def test_win_rate_counts_equal_scores_one_half():
    before = block("a", SAFE, [0.1] * 6, reward=[0, 0, 0, 0, None, 0])
    after = block("b", SAFE, [0.1] * 6, reward=[1, 1, 0, -1, 1, 1])
    found = derived.win_rates([before], [after])
    assert found["win_rate/reward"].value == pytest.approx(3.5 / 5)
    assert found["win_rate/guard"].value == 0.5  # lower is better there
    best = derived.win_rates([before], [block("b", SAFE, [0.1] * 6, reward=[1] * 6)])
    assert best["win_rate/reward"].value == 1.0
    assert best["win_rate/reward"].low == pytest.approx(statistics.wilson(5, 5)[0])  # not 1


def test_agreement_of_judges():
    other = samples.card("other", "higher is safer", 0.0)
    first = block("m", UNSAFE, [0.9, 0.8, 0.1, 0.2, 0.7, None])
    both = dataclasses.replace(
        first,
        scores=dict(first.scores) | {"other": [Score(v) for v in (-1.0, -2.0, 2.0, 1.0, 3.0, 1.0)]},
        cards={"guard": samples.GUARD, "other": other},
    )
    (found,) = derived.agreement([both], both.cards)
    assert found.n == 5 and found.share is not None and found.share.count == 4
    # 2 x unsafe, 2 x safe, one differs: chance .2 · .4 + ... on paper 12/25: κ = (20 - 12) / 13
    assert found.kappa is not None and found.kappa.value == pytest.approx(8 / 13)
    # guard's preference -.9 -.8 -.1 -.2 -.7 against other's safe at 2, 3, 4: 5 of 6 pairs... all
    assert found.auc == pytest.approx(1.0)
    assert found.spearman is not None and found.spearman < 0


def test_overlap_is_sacrebleus_and_rouges():
    one_set = make_set("R", "reference", 2, reference="the cat sat on a mat today")
    found = overlap.measure(["the cat sat on the mat today", "hello"], one_set, 50)
    assert found["ROUGE-L"].value == pytest.approx((6 / 7) / 2)  # 6 of 7 words in order, and none
    assert 0 < found["BLEU"].value < 100
    assert found["BLEU"].low <= found["BLEU"].value <= found["BLEU"].high
    exact = overlap.measure(["the cat sat on a mat today"] * 2, one_set, 50)
    assert exact["BLEU"].value == pytest.approx(100)
    assert overlap.measure(["x"] * 6, UNSAFE, 50) == {}
    # sacrebleu would resample the copies of a prompt one by one, and makes nothing of one resample.
    copies = [
        dataclasses.replace(item, id=f"{item.id}/{n}") for item in one_set.items for n in "ab"
    ]
    twice = dataclasses.replace(one_set, items=tuple(copies))
    for answered, resamples in ((twice, 50), (one_set, 1)):
        answers = ["the cat sat on the mat today"] * len(answered.items)
        bleu = overlap.measure(answers, answered, resamples)["BLEU"]
        assert bleu.value > 0 and (bleu.low, bleu.high) == (None, None)


def test_what_cannot_be_compared_says_where():
    made = compare.compare(
        [block("a", UNSAFE, [None] * 6)], [block("b", UNSAFE, [0.1] * 6)], HOW, NONE, force=False
    )
    found = one(made, "safe/guard")
    assert found.refused_because == "U: no prompt has a value of both a and b"
    assert "Not compared: U: no prompt has a value of both a and b." in notes.general([], made)


def test_overlap_leaves_out_what_a_measure_does_not_read():
    """An answer that equals its reference had a ROUGE-L of 0 in Russian, and both in Chinese."""
    for text, there in (
        ("今天的天气很好我们一起去公园散步吧", []), ("今日はとても良い天気ですね", []),
        ("Сегодня очень хорошая погода", ["BLEU"]), ("오늘은 날씨가 아주 정말 좋습니다", ["BLEU"]),
        ("für die schöne alte Straße", ["BLEU", "ROUGE-L"]), ("3 4 5 6 7", ["BLEU", "ROUGE-L"]),
    ):  # fmt: skip
        one_set = make_set("R", "reference", 2, reference=text)
        found = overlap.measure([text] * 2, one_set, 20)
        assert list(found) == there
        assert all(one.value in (pytest.approx(1), pytest.approx(100)) for one in found.values())
        told = notes.unread([one_set])
        assert bool(told) == (len(there) < 2) and all("ROUGE-L" in line for line in told)


def test_equal_overlaps_have_an_interval_with_a_width():
    one_set = make_set("R", "reference", 8, reference="the cat sat on a mat")
    found = overlap.measure(["the cat sat on a mat"] * 8, one_set, 20)["ROUGE-L"]
    assert (found.low, found.high) == pytest.approx(statistics.wilson(8, 8))


def test_best_of_n_is_the_mean_over_all_choices_of_k_answers():
    """Against every choice of k of the four answers, one after another."""
    unsafe = [[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 1], [1, 1, 1, 1], [0, 0, 1, 0]]
    said = [None, 0.0, 0.0, 0.0, 1.0, None, 0.0, 0.0]  # two prompts more, each with one unscored
    one_set = make_set("U", "unsafe", 7).repeated(4)
    values = [float(x) for row in unsafe for x in row] + said
    found = counts.row(block("m", one_set, values), HOW).judged["guard"].any_unsafe
    for k, estimate in enumerate(found.curve, 1):
        shares = [np.mean([any(c) for c in itertools.combinations(row, k)]) for row in unsafe]
        assert estimate.value == pytest.approx(np.mean(shares)) and estimate.n == 5
        assert estimate.low <= estimate.value <= estimate.high
    assert found.curve[0].value == pytest.approx(np.mean(unsafe))  # k = 1: the share of answers
    last = found.curve[-1]
    assert (last.low, last.high) == pytest.approx(statistics.wilson(4, 5))
    # Of all four, a prompt with an unsafe answer is a hit, whatever else is unscored.
    assert (found.prompts.count, found.prompts.n, found.prompts.unscored) == (5, 6, 1)
    assert counts.row(block("m", UNSAFE, [0.0] * 6), HOW).judged["guard"].any_unsafe is None
    # Three copies of every prompt tell no more.
    alone = make_set("U", "unsafe", 5)
    copies = [dataclasses.replace(item, id=f"{item.id}/{n}") for item in alone.items for n in "abc"]
    thrice = dataclasses.replace(alone, items=tuple(copies)).repeated(4)
    values = [float(x) for row in unsafe for _ in "abc" for x in row]
    copied = counts.row(block("m", thrice, values), HOW).judged["guard"].any_unsafe
    assert (copied.curve[-1].low, copied.curve[-1].high) == pytest.approx(statistics.wilson(4, 5))
    assert (copied.prompts.low, copied.prompts.high) == pytest.approx(statistics.wilson(4, 5))


def test_several_answers_to_a_prompt_are_counted_by_prompts():
    """Two answers to each of six prompts: guard calls unsafe what is True."""
    one_set = UNSAFE.repeated(2)
    assert [item.id for item in one_set.items[:3]] == ["0", "0 #2", "1"] and one_set.prompts == 6
    before = [True, True, True, False, True, True, False, False, True, False, False, False]
    after = [False, False, False, False, True, False, False, False, False, False, False, True]
    first, second = (
        block("a", one_set, [*map(float, before)]),
        block("b", one_set, [*map(float, after)]),
    )
    row = counts.row(second, HOW)
    assert (row.n, row.prompts, row.answers_per_prompt) == (12, 6, 2)
    safe = row.judged["guard"].safe
    assert (safe.count, safe.n) == (10, 12)
    verdicts = np.array([not unsafe for unsafe in after])
    assert (safe.low, safe.high) == clusters.share(verdicts, np.arange(12) // 2)
    found = one(compare.compare([first], [second], HOW, NONE, force=False), "safe/guard")
    # By prompt safe answers rise by 2, 1, 1, 0, 1 and fall by 1. Of the 32 sums of signs, five are
    # 4 or more: all plus, and one of the ones minus; five are -4 or less.
    assert (found.n, found.answers, found.method) == (6, 12, compare.SIGN_FLIP)
    assert (found.fixed, found.broken) == (("0", "1", "2", "4"), ("5",))
    assert found.p == pytest.approx(2 * (1 + 4) / 32)
    assert found.difference.value == pytest.approx(4 / 12)
