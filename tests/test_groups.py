"""Gaps between groups on twin prompts, and how far training moves them."""

import dataclasses

import numpy as np
import pytest

from safety_jax.evaluation.measures import groups
from safety_jax.maths import clusters, statistics
from safety_jax.report.evaluation import grouped
from tests.evaluation_samples import HOW, block
from tests.report_samples import nothing
from tests.set_files import read, write


@pytest.fixture
def pairs(tmp_path):
    """Eight pairs about cats and dogs."""
    rows = [
        {"id": str(i), "prompt": f"{i}: {{group}}?", "groups": ["cats", "dogs"]} for i in range(8)
    ]
    (found,) = read(f"{write(tmp_path / 'pets.jsonl', *rows)}?kind=unsafe")
    return found


def judged(one_set, refused: str, model: str = "base", words=None):
    """A letter a twin: f refused, - not; cats and dogs in turn."""
    labels = ["full" if letter == "f" else "none" for letter in refused]
    found = block(model, one_set, [0.0] * len(labels), labels)
    if words:
        texts = [" ".join(["word"] * count) for count in words]
        object.__setattr__(found, "answers", texts)
    return found


def test_the_gap_of_pairs_with_different_numbers_of_groups_is_in_its_interval(tmp_path):
    """Pairs count equally in the gap; before, its interval was of the answers, of which pairs with
    more groups have more, so that the gap could lie outside."""
    few, many = ["cats", "dogs"], ["cats", "dogs", "eels", "frogs", "goats", "hens"]
    rows = [
        {"id": str(i), "prompt": f"{i}: {{group}}?", "groups": many if i % 2 else few}
        for i in range(8)
    ]
    (one_set,) = read(f"{write(tmp_path / 'pets.jsonl', *rows)}?kind=unsafe")
    refused = ("f-" + "-" * 6) * 4  # cats, where they are asked beside dogs alone
    found = groups.measure({"base": [judged(one_set, refused)]}, "base", "guard", HOW, force=False)
    cats = gap(found, "refused", "cats")
    assert (cats.own, cats.others, cats.difference.value) == (0.5, 0.0, 0.5)
    assert (cats.difference.low, cats.difference.high) == pytest.approx(
        clusters.paired_means(np.zeros(8), np.array([1.0, 0.0] * 4))
    )
    assert cats.difference.low < 0.5 < cats.difference.high


def gap(found, measure: str, group: str, model: str = "base"):
    (one,) = [g for g in found if (g.measure, g.group, g.model) == (measure, group, model)]
    return one


def test_gaps_of_refusals_and_lengths(pairs):
    # Cats are refused six times, dogs once; of one pair both, of two neither.
    refused = "f-" * 5 + "ff" + "--" * 2
    words = [10, 20] * 4 + [30, 20] * 4
    base = judged(pairs, refused, words=words)
    found = groups.measure({"base": [base]}, "base", "guard", HOW, force=False)
    cats, dogs = (gap(found, "refused", name) for name in ("cats", "dogs"))
    assert (cats.pairs, cats.own, cats.others) == (8, 0.75, 0.125)
    expected = statistics.change(np.array([c == "f" for c in refused[1::2]]),
                                 np.array([c == "f" for c in refused[::2]]))  # fmt: skip
    assert cats.difference.value == expected.difference == 0.625
    assert (cats.difference.low, cats.difference.high) == pytest.approx(
        (expected.low, expected.high)
    )
    # One test, although both groups have a line: there is nothing to adjust for.
    assert cats.p == dogs.p == cats.p_holm == dogs.p_holm == pytest.approx(expected.p)
    assert dogs.difference.value == -0.625 and cats.change is None
    length = gap(found, "words", "cats")
    assert (length.own, length.others, length.difference.value) == (20.0, 20.0, 0.0)
    assert length.p == 1.0 and length.difference.low < 0 < length.difference.high
    assert gap(found, "unsafe", "cats").p == 1.0


def test_what_training_does_to_a_gap(pairs):
    base = judged(pairs, "ff" * 4 + "--" * 4)
    tuned = judged(pairs, "ff" * 4 + "f-" * 4, "tuned")
    found = groups.measure({"base": [base], "tuned": [tuned]}, "base", "guard", HOW, force=False)
    moved = gap(found, "refused", "cats", "tuned")
    assert moved.change.value == 0.5 == moved.difference.value
    # Four pairs changed for cats alone: two of the 2^4 exchanges are as far from nothing.
    assert moved.change_p == moved.change_p_holm == pytest.approx(2 / 16)
    assert moved.change.low < 0.5 < moved.change.high
    other = judged(pairs, "ff" * 4 + "f-" * 4, "tuned")
    object.__setattr__(other, "protocol", "another")
    models = {"base": [base], "tuned": [other]}
    forced = groups.measure(models, "base", "guard", HOW, force=True)
    assert gap(forced, "refused", "cats", "tuned").change == moved.change
    found = groups.measure(models, "base", "guard", HOW, force=False)
    assert gap(found, "refused", "cats", "tuned").change is None
    table = grouped.groups(report(found))[0]
    assert table.head == ("set", "group", "pairs", "base", "tuned")
    assert table.rows[0][3].text == "50.0%" and "+0.0" in table.rows[0][3].notes[0]


def report(found):
    return dataclasses.replace(
        nothing(), groups=tuple(found), models={"base": {}, "tuned": {}}, baseline="base"
    )


def test_a_twin_without_a_verdict_leaves_its_pair(pairs):
    base = judged(pairs, "f-" * 8)
    scores = list(base.scores["guard"])
    scores[0] = type(scores[0])(None, "", "too long")
    object.__setattr__(base, "scores", {**base.scores, "guard": scores})
    found = groups.measure({"base": [base]}, "base", "guard", HOW, force=False)
    assert gap(found, "unsafe", "dogs").pairs == 7 and gap(found, "refused", "dogs").pairs == 8


def test_a_twin_that_ends_inside_its_thought_has_no_length(pairs):
    base = judged(pairs, "--" * 8, words=[0, 20] + [20, 20] * 7)
    object.__setattr__(base, "finishes", ["thought"] + ["eos"] * 15)
    found = groups.measure({"base": [base]}, "base", "guard", HOW, force=False)
    length = gap(found, "words", "cats")
    assert (length.pairs, length.own, length.others) == (7, 20.0, 20.0)


def test_several_answers_count_by_pair(pairs):
    twice = pairs.repeated(2)
    base = judged(twice, "ff--" * 8)  # both answers about cats refuse, none about dogs
    found = groups.measure({"base": [base]}, "base", "guard", HOW, force=False)
    cats = gap(found, "refused", "cats")
    assert (cats.pairs, cats.own, cats.others) == (8, 1.0, 0.0)
    assert cats.p == pytest.approx(2 / 2**8)
