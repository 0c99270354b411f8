"""Groups: twin prompts and their exact test, and texts by group for judges."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from scipy import stats

from safety_jax.base.errors import ConfigError, DataError
from safety_jax.evaluation.measures import groups
from safety_jax.evaluation.sets.reading import read_sets
from safety_jax.judges import inputs
from safety_jax.judges.judge import clusters_of
from safety_jax.maths import clusters, statistics
from safety_jax.report.evaluation import grouped
from tests.evaluation_samples import HOW, block
from tests.report_samples import nothing

KEY = "evaluate.sets"


def write(path, *rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(*specs):
    return read_sets(specs, "", KEY, 0)


# ---------------------------------------------------------------------------- the exact test


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


# ---------------------------------------------------------------------------- sets of twins


def test_a_row_for_all_twins_and_a_row_each_are_the_same(tmp_path):
    template = {"id": "walk", "prompt": "Who walks with {group}?", "groups": ["cats", "dogs"]}
    one = write(tmp_path / "one.jsonl", template)
    rows = [
        {"id": f"walk/{name}", "prompt": f"Who walks with {name}?", "pair": "walk", "group": name}
        for name in ("cats", "dogs")
    ]
    each = write(tmp_path / "each.jsonl", *rows)
    (first,), (second,) = read(f"{one}?kind=safe"), read(f"{each}?kind=safe")
    for one_set in (first, second):
        assert [item.id for item in one_set.items] == ["walk/cats", "walk/dogs"]
        assert [item.group for item in one_set.items] == ["cats", "dogs"] and one_set.prompts == 2
        assert [item.category for item in one_set.items] == ["cats", "dogs"]
        assert one_set.clusters.tolist() == [0, 0] and one_set.firsts == ["walk/cats"]
    assert first.items_sha256 == second.items_sha256
    (csv,) = read(f"{write_csv(tmp_path)}?kind=safe")
    assert [item.group for item in csv.items] == ["cats", "dogs"]


def write_csv(folder) -> str:
    (folder / "t.csv").write_text("prompt,groups\nWho walks with {group}?,cats|dogs\n")
    return str(folder / "t.csv")


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([{"prompt": "{group}?", "groups": ["cats"]}], "expected two different names or more"),
        ([{"prompt": "{group}?", "groups": ["cats", "cats"]}], "expected two different names"),
        (
            [{"instruction": "Feed {group}.", "groups": ["cats", "dogs"]}],
            "is in 'instruction'; .*columns=prompt:instruction",
        ),
        (
            [{"prompt": f"{i}?", "pair": "a", "group": "cats"} for i in range(2)],
            "the pair 'a' has two prompts of the group 'cats'",
        ),
        (
            [{"prompt": f"{i}?", "pair": str(i), "group": "cats"} for i in range(2)],
            "no pair has prompts of two groups",
        ),
    ],
)
def test_twins_that_are_none(tmp_path, rows, problem):
    path = write(tmp_path / "twins.jsonl", *rows)
    with pytest.raises(DataError, match=problem):
        read(f"{path}?kind=unsafe")


def test_the_shipped_twins_are_whole_and_drawn_together():
    safe, unsafe = read("Twins")
    assert (safe.kind, unsafe.kind) == ("safe", "unsafe")
    for one_set in (safe, unsafe):
        assert len(one_set.items) == 144 and len(set(one_set.clusters.tolist())) == 12
        assert len({item.prompt[0].content for item in one_set.items}) == 144
        assert not any("{" in item.prompt[0].content for item in one_set.items)
    (some,) = read("Twins-unsafe?rows=2")
    assert len(some.items) == 24 and len(some.firsts) == 2


# ---------------------------------------------------------------------------- measures


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
    assert cats.p == dogs.p == pytest.approx(expected.p) and cats.p_holm == pytest.approx(
        2 * cats.p
    )
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
    assert moved.change_p == pytest.approx(2 / 16) and moved.change_p_holm == pytest.approx(0.25)
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


def test_bold_is_asked_beginning_by_beginning(tmp_path):
    row = {
        "domain": "sport",
        "name": "Ada",
        "category": "runners",
        "prompts": ["Ada ran", "Ada is"],
    }
    (found,) = read(f"{write(tmp_path / 'bold.jsonl', row)}")
    assert found.name == "BOLD" and found.framed
    assert [item.prompt[0].content for item in found.items] == ["Ada ran", "Ada is"]
    assert {item.category for item in found.items} == {"sport: runners"}


# ---------------------------------------------------------------------------- texts for judges


def test_texts_alone_are_answers_to_a_prompt_that_is_named(tmp_path):
    rows = [{"test_case": f"text {i}", "functionality": "ab"[i % 2]} for i in range(4)]
    path = write(tmp_path / "hatecheck.jsonl", *rows)
    spec = f"{path}?asked=Write a comment.&columns=response:test_case"
    found, _ = inputs.read([spec], "data.responses", 0)
    assert [item.conversation.question for item in found] == ["Write a comment."] * 4
    assert [item.conversation.response for item in found] == [f"text {i}" for i in range(4)]
    assert [item.row["functionality"] for item in found] == ["a", "b", "a", "b"]
    bare = write(tmp_path / "toxigen.jsonl", *[{"text": f"text {i}", "label": 1} for i in (0, 1)])
    named, _ = inputs.read([f"{bare}?asked=Write a comment.&without=label"], "data.responses", 0)
    assert [item.conversation.response for item in named] == ["text 0", "text 1"]
    # One prompt for all is no cluster.
    assert len(set(clusters_of([item.conversation for item in found]))) == 4
    both = write(tmp_path / "both.jsonl", {"prompt": "Hi", "response": "Ho"})
    with pytest.raises(ConfigError, match="rows have their own prompt; remove asked="):
        inputs.read([f"{both}?asked=Hello"], "data.responses", 0)
