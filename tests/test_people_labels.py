"""What people's labels say: how far annotators agree, and how right judges are."""

import pytest

from safety_jax.evaluation.measures import checked, people
from safety_jax.evaluation.measures.counts import Block
from safety_jax.evaluation.measures.people import People
from safety_jax.judges.judge import scored
from tests.labelled import CARD, HOW, block


def labelled(**annotators) -> People:
    """`anna="usss?"`: a letter an answer of model m, set A: unsafe, safe, unsure, - for none."""
    words = {"u": "unsafe", "s": "safe", "?": "unsure"}
    return People(
        {
            name: {("m", "A", f"id{i}"): words[c] for i, c in enumerate(letters) if c != "-"}
            for name, letters in annotators.items()
        }
    )


def between(**annotators):
    asked = block("m", "A", [None] * max(map(len, annotators.values())))
    return people.between(labelled(**annotators), [asked], HOW)


def test_agreement_of_two_on_paper():
    # 7 of 10 alike; by chance .6 * .5 + .4 * .5 = .5, so that kappa is (.7 - .5) / .5 = .4
    (found,) = between(a="uuuuuussss-", b="uuuussssus?")
    assert (found.first, found.second, found.n) == ("a", "b", 10)
    assert found.share is not None and found.share.value == 0.7
    assert found.kappa is not None and found.kappa.value == pytest.approx(0.4)
    assert found.kappa.low < 0.4 < found.kappa.high
    assert between(a="us") == []
    (found,) = between(a="ss", b="ss")
    assert found.kappa is None and found.share.value == 1.0
    (found,) = between(a="s-", b="-s")
    assert found.n == 0 and found.kappa is None and found.share.value is None


def test_agreement_of_three_on_paper():
    # Three raters, two items: uuu and uss. Agreement of an item: 1 and 1/3, mean 2/3; labels are
    # unsafe 4/6 and safe 2/6, chance 20/36: kappa (2/3 - 5/9) / (4/9) = 1/4.
    found = between(a="uu", b="us", c="us-")
    assert [(f.first, f.second) for f in found[:3]] == [("a", "b"), ("a", "c"), ("b", "c")]
    last = found[-1]
    assert last.second == "all 3 annotators" and last.n == 2 and last.share.value == 0.5
    assert last.kappa.value == pytest.approx(0.25)


def test_annotators_who_read_more_answers_to_the_same_prompts_are_no_surer():
    """Three models that say the same, and the same labels of each: as one model."""
    letters, names = {"a": "uuuuuussss", "b": "uuuussssus", "c": "ussusssuus"}, ("m", "n", "o")
    one = labelled(**letters)
    three = People(
        {
            who: {(name, *place[1:]): label for name in names for place, label in labels.items()}
            for who, labels in one.labels.items()
        }
    )
    blocks = [block(name, "A", [None] * 10) for name in names]
    alone, together = (people.between(said, blocks, HOW) for said in (one, three))
    for single, several in zip(alone, together, strict=True):
        assert (single.n, several.n) == (10, 30)
        # κ of two has the n - 1 of estimating a spread from ten prompts.
        wider = 1 if single.first == "people" else (10 / 9) ** 0.5
        for before, after, by in (
            (single.share, several.share, 1),
            (single.kappa, several.kappa, wider),
        ):
            assert after.value == pytest.approx(before.value)
            assert after.high - after.low == pytest.approx(by * (before.high - before.low))


def test_quality_of_a_judge_on_paper():
    said = block("m", "A", [1, 1, 1, 0, 0, 0, 0, 0, None, 1])
    found = checked.quality(checked.check([said], labelled(a="uusussss-?"), "guard"))
    assert (found.precision.count, found.precision.n) == (2, 3)
    assert (found.recall.count, found.recall.n) == (2, 3)
    assert (found.specificity.count, found.specificity.n) == (4, 5)


def test_corrected_shares_on_paper():
    # A judge that finds 90 of 100 and clears 80 of 100, and calls 40 of 100 unsafe:
    # (.4 + .8 - 1) / (.9 + .8 - 1) = 2/7 are unsafe, 5/7 safe.
    truth = "u" * 100 + "s" * 100
    verdicts = [1] * 90 + [0] * 10 + [1] * 20 + [0] * 80
    checks = checked.check([block("m", "A", verdicts)], labelled(a=truth), "guard")
    others = [block("m", "B", [1] * 40 + [0] * 60), block("n", "B", [None] * 3)]
    found = checked.corrected(others, "guard", checks)
    assert list(found) == ["m"] and list(found["m"]) == ["B"]
    estimate = found["m"]["B"]
    assert estimate.value == pytest.approx(5 / 7) and estimate.n == 100
    assert estimate.low < 5 / 7 < estimate.high
    none = checked.check([block("m", "A", [1, 1])], labelled(a="uu"), "guard")
    assert checked.corrected(others, "guard", none) == {}


def test_answers_to_one_prompt_count_as_one_in_the_quality_and_the_correction():
    """Four models that say the same tell no more about a judge than one; what is corrected is the
    share itself, not a share of a whole number of prompts."""
    truth, verdicts = "u" * 10 + "s" * 10, [1] * 9 + [0] * 11
    names = ("m", "n", "o", "p")
    said = People(
        {"a": {(name, "A", f"id{i}"): {"u": "unsafe", "s": "safe"}[letter]
               for name in names for i, letter in enumerate(truth)}}
    )  # fmt: skip
    one = checked.check([block("m", "A", verdicts)], said, "guard")
    four = checked.check([block(name, "A", verdicts) for name in names], said, "guard")
    alone, all_four = checked.quality(one), checked.quality(four)
    assert (alone.recall.n, all_four.recall.n) == (10, 40)
    assert (all_four.recall.low, all_four.recall.high) == pytest.approx(
        (alone.recall.low, alone.recall.high)
    )
    asked = block("m", "B", [1, 0, 0]).set.repeated(7)
    scores = [scored(float(i < 8)) for i in range(21)]  # a prompt unsafe throughout, one by chance
    several = Block("m", asked, "p", [""] * 21, [""] * 21, {"guard": scores}, {"guard": CARD})
    found = checked.corrected([several], "guard", four)["m"]["B"]
    assert found.value == pytest.approx(1 - (8 / 21) / 0.9) and found.n == 21
    assert found == checked.corrected([several], "guard", one)["m"]["B"]


def test_people_are_a_judge_among_others():
    found = labelled(a="us-").beside(block("m", "A", [1, 1, 1]))
    assert found.safe("people") == [False, True, None]
    assert found.safe("guard") == [False, False, False]
    assert found.cards["people"].settings["annotators"] == ["a"]
