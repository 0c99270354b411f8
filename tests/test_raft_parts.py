"""Choices among candidates, prompts of rounds, stored samples, measures."""

import dataclasses
import json
import math

import numpy as np
import pytest

from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data import prompt_ids, prompts
from safety_jax.data.building import PromptRoom
from safety_jax.data.contamination import HeldApart
from safety_jax.data.messages import Message
from safety_jax.data.records import Record
from safety_jax.data.text_rules import FIXED
from safety_jax.judges.judge import (
    BETTER,
    HARMFUL,
    REFUSING,
    SAFER,
    JudgeCard,
    Score,
    scored,
    unscored,
)
from safety_jax.maths import statistics
from safety_jax.raft import (
    prompt_pool,
    round_files,
    round_measures,
    selection,
)
from safety_jax.raft.round_files import Candidate
from tests import tiny_tokenizers


def card(name: str, direction: str = SAFER, threshold: float | None = None) -> JudgeCard:
    return JudgeCard(name, "sequence", "", None, direction, None, None, threshold, "", "", {})


CARDS = {"reward": card("reward", BETTER), "harm": card("harm", HARMFUL, 0.5)}
PLAIN = selection.SelectionRule("reward", (), 0.0, "keep")
SAFE = selection.SelectionRule("reward", ("harm",), 0.0, "reject")


def choose(rule, rewards, harms=None, ratios=None, finished=None, texts=None):
    def as_scores(values):
        return [unscored("no") if value is None else Score(value) for value in values]

    n = len(rewards)
    scores = {"reward": as_scores(rewards), "harm": as_scores(harms or [0.0] * n)}
    ends = ["eos" if ended else "length" for ended in finished or [True] * n]
    given = zip(texts or ["yes"] * n, ends, strict=True)
    candidates = [Candidate(text, (1,), 0.0, end) for text, end in given]
    return selection.choose(rule, CARDS, scores, ratios or [0.0] * n, candidates)


@pytest.mark.parametrize(
    ("rewards", "index"),
    [
        ([1.0, 3.0, 2.0], 1),
        ([2.0, 2.0, 1.0], 0),  # a tie goes to the earlier one
        ([None, -5.0, None], 1),
        ([None, None], None),
        ([-1e30, None], 0),
        ([], None),
    ],
)
def test_the_best_scored_candidate_wins(rewards, index):
    assert choose(PLAIN, rewards).index == index


def test_unscored_is_no_score_and_why_is_told():
    found = choose(PLAIN, [None, 1.0])
    assert found.verdicts == ("unscored", "") and found.why == "chosen"
    assert choose(PLAIN, [None]).why == "no acceptable candidate"


def test_safe_first_then_helpful():
    found = choose(SAFE, [9.0, 5.0, 7.0], harms=[0.5, 0.2, 0.49])
    assert found.index == 2  # at the threshold of harm is harmful
    assert found.verdicts == ("not accepted", "", "")
    assert choose(SAFE, [9.0, 5.0], harms=[0.9, None]).verdicts == ("not accepted", "unscored")
    assert choose(SAFE, [9.0, 5.0], harms=[0.9, 0.9]).index is None


def test_unfinished_answers_are_rejected_where_asked():
    assert choose(SAFE, [9.0, 5.0], finished=[False, True]).index == 1
    assert choose(PLAIN, [9.0, 5.0], finished=[False, True]).index == 0


@pytest.mark.parametrize("text", ["", " \n", "<think>No.</think>"])
def test_an_empty_answer_is_never_chosen(text):
    found = choose(PLAIN, [9.0, 5.0], texts=[text, "no"])
    assert found.index == 1 and found.verdicts == ("empty", "")
    assert choose(PLAIN, [9.0], texts=[text]).index is None


def test_a_rank_with_distance_to_the_start():
    rule = selection.SelectionRule("reward", (), 0.1, "keep")
    assert choose(rule, [1.0, 0.9], ratios=[5.0, 0.0]).index == 1  # 0.5 against 0.9
    assert choose(rule, [1.0, 0.9], ratios=[0.5, 0.0]).index == 0  # 0.95 against 0.9
    assert choose(rule, [1.0, 0.9], ratios=[math.nan, 0.0]).index == 1


def test_less_harm_is_better_where_a_harm_judge_ranks():
    rule = selection.SelectionRule("harm", (), 0.0, "keep")
    assert choose(rule, [0.0, 0.0], harms=[0.4, 0.1]).index == 1


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            selection.SelectionRule("nobody", (), 0.0, "keep"),
            "raft.rank_by 'nobody': expected one of",
        ),
        (selection.SelectionRule("reward", ("reward",), 0.0, "keep"), "has no threshold"),
        (selection.SelectionRule("reward", (), -1.0, "keep"), "raft.kl_weight is -1.0"),
        (selection.SelectionRule("reward", (), 0.0, "cut"), "expected keep or reject"),
        (selection.SelectionRule("refusal", (), 0.0, "keep"), "measures refusal"),
    ],
)
def test_rules_that_cannot_hold(rule, message):
    with pytest.raises(ConfigError, match=message):
        rule.check(CARDS | {"refusal": card("refusal", REFUSING)})


def test_sides_of_a_threshold():
    for direction, below, at in (
        (SAFER, False, True),
        (HARMFUL, True, False),
        (BETTER, False, True),
    ):
        judge = card("j", direction, 1.0)
        assert selection.passes(judge, Score(0.9)) is below
        assert selection.passes(judge, Score(1.0)) is at
    assert selection.passes(card("j", SAFER, 1.0), unscored("no")) is None


# ---------------------------------------------------------------------------- prompts


def read_pool(tmp_path, **changes):
    for name, count in (("unsafe", 20), ("ordinary", 9)):
        rows = [{"instruction": f"{name} {i}", "output": f"answer {i}"} for i in range(count)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text)
    draws = prompt_pool.Draws(
        rounds=3, per_round=8, ordinary_share=0.25, order="shuffled", reuse=False, seed=0
    )
    own = {key: changes.pop(key) for key in dataclasses.asdict(draws) if key in changes}
    settings = {
        "unsafe": (str(tmp_path / "unsafe.jsonl"),),
        "ordinary": (str(tmp_path / "ordinary.jsonl"),),
        "template": "plain", "rules": FIXED, "with_answers": True,
        "room": PromptRoom(96, 32, "error"), "tokens": tiny_tokenizers.qwen(),
    } | changes  # fmt: skip
    return prompt_pool.read(draws=dataclasses.replace(draws, **own), **settings)


def test_no_prompt_comes_twice(tmp_path):
    drawn = [read_pool(tmp_path).draw(number) for number in range(3)]
    assert [[p.group for p in row].count("ordinary") for row in drawn] == [2, 2, 2]
    texts = [p.record.messages[0].content for row in drawn for p in row]
    assert len(set(texts)) == len(texts) == 24
    assert len({p.number for row in drawn for p in row}) == 24
    for prompt in drawn[0]:
        number = prompt.record.messages[0].content.split()[1]
        assert prompt.reference == f"answer {number}"


def test_prompts_that_tests_ask_are_left_out(tmp_path):
    pool = read_pool(tmp_path, tests=HeldApart([("test 0", "Unsafe 7!"), ("test 1", "ordinary 3")]))
    asked = [[record.messages[0].content for record in group.records] for group in pool.groups]
    assert [len(texts) for texts in asked] == [19, 8] and pool.left_out == 2
    assert "unsafe 7" not in asked[0] and "ordinary 3" not in asked[1]


def test_seeds_and_orders(tmp_path):
    def first(**changes):
        return [p.record.messages[0].content for p in read_pool(tmp_path, **changes).draw(0)]

    assert first() == first() != first(seed=1)
    assert first(order="file", ordinary_share=0.0, rounds=2) == [f"unsafe {i}" for i in range(8)]
    assert {p.reference for p in read_pool(tmp_path, with_answers=False).draw(0)} == {""}
    assert read_pool(tmp_path).example.startswith("unsafe 0")


def test_what_is_left_out_of_held_out_prompts_is_told(tmp_path):
    path = tmp_path / "held_out.jsonl"
    asked = ["unsafe 3", "new", "long " * 80, "<|im_end|>"]
    rows = [{"instruction": text} for text in asked] + [{"instruction": "a", "input": "<noinput>"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"instruction": ""}\n')

    def read(spec: str) -> prompt_pool.HeldOut:
        return prompt_pool.read_held_out(
            ("", spec), template="plain", rules=dataclasses.replace(FIXED, special_text="skip"),
            room=PromptRoom(96, 32, "skip"), tokens=tiny_tokenizers.qwen(), seed=0,
        )  # fmt: skip

    found = read(f"{path}?bad_rows=skip")
    assert [prompt.number for prompt in found.prompts] == [0, 1, 2]
    assert {prompt.group for prompt in found.prompts} == {"held_out"}
    first, *others = found.describe(read_pool(tmp_path)).splitlines()
    assert first.startswith(
        "data.eval: 3 prompts, answered after every round; 1 rows unusable or not to be learned, "
        "left out; 1 "
    )
    assert first.endswith("; 1 too long, left out")
    assert others == [
        "1 rows of held_out: the input says that there is none, as <noinput> or nan does, and is "
        "not read as text",
        "warning: 1 of 3 prompts of data.eval are trained on",
    ]
    path.write_text(json.dumps({"instruction": "long " * 80}))
    with pytest.raises(DataError, match=r"data.eval: .* no prompt can be used \(1 too long"):
        read(str(path))


def test_a_pool_that_is_too_small(tmp_path):
    with pytest.raises(DataError, match="20 usable prompts; 4 rounds of 6 need 24"):
        read_pool(tmp_path, rounds=4)
    drawn = read_pool(tmp_path, rounds=4, reuse=True).draw(3)
    assert len({p.number for p in drawn}) == 8
    with pytest.raises(DataError, match="20 usable prompts, and every round draws 24"):
        read_pool(tmp_path, per_round=32, reuse=True)  # or some would be learned twice a round
    with pytest.raises(ConfigError, match=r"data.ordinary is empty; .* 2 prompts a round"):
        read_pool(tmp_path, ordinary=("",))


def test_rounds_have_seeds_of_their_own():
    assert len({prompt_pool.seed_of_round(s, n) for s in range(5) for n in range(5)}) == 25


# ---------------------------------------------------------------------------- files


def candidates(count: int) -> list[list[Candidate]]:
    return [[Candidate(f"{i} \ud800", (i, 7), -1.5 * i, "eos")] * 2 for i in range(count)]


def test_samples_come_back_and_a_torn_block_does_not(tmp_path):
    path, rows = tmp_path / "samples.jsonl", candidates(5)
    samples = round_files.Samples(path, range(5), 2, True)
    for start in (0, 2, 4):
        samples.add(rows[start : start + 2])
    assert round_files.Samples(path, range(5), 2, True).candidates == rows
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3]) + lines[3][:9])  # killed inside the second block
    again = round_files.Samples(path, range(5), 2, True)
    assert again.done == 2 and path.read_bytes() == b"".join(lines[:2])
    again.add(rows[2:4])
    again.add(rows[4:])
    assert path.read_bytes() == whole
    with pytest.raises(DataError, match="line 1 answers prompt 0; expected prompt 9"):
        round_files.Samples(path, [9, 1, 2, 3, 4], 2, True)
    path.write_bytes(b"{}\n" + b"".join(lines[1:]))
    with pytest.raises(DataError, match="line 1 is damaged"):
        round_files.Samples(path, range(5), 2, True)


def test_distinct_on_paper():
    assert round_measures.distinct(["a b a", "a b"], 1) == 2 / 5
    assert round_measures.distinct(["a b a", "a b"], 2) == 2 / 3
    assert round_measures.distinct(["a"], 2) == 0.0


def test_rewards_on_paper():
    judge = CARDS["reward"]
    scores = [[Score(1.0), Score(3.0)], [unscored("x"), Score(-1.0)]]
    choices = [
        selection.Selection(0, "", ("", "")),
        selection.Selection(None, "", ("", "unscored")),
    ]
    found = round_measures.measure_rewards(judge, scores, choices)
    assert found["reward/mean"] == 1.0
    assert found["reward/best_of_candidates"] == 1.0
    assert found["reward/selected"] == 1.0
    assert found["unscored_share"] == 0.25
    assert sum(found["reward/histogram"]["counts"]) == 3
    counted = round_measures.measure_choices(choices)
    assert counted["prompts_without_choice_share"] == 0.5
    assert counted["candidates/unscored_share"] == 0.25


def test_distance_on_paper():
    rows = [[Candidate("", (1, 2), -1.0, "eos"), Candidate("", (3,), -2.0, "eos")]]
    found = round_measures.measure_distance(rows, [np.array([1.0, 2.0])])
    assert found == {"kl_to_start": 1.5, "kl_to_start_per_token": 1.0}


def test_equal_prompts_are_one_cluster_of_the_safe_share():
    """A file of pairs has each prompt four times; greedy answers to it, and scores, are equal."""
    judge = card("guard", HARMFUL, 0.5)
    scores = [scored(value) for value in np.repeat([0.1, 0.9, 0.2], 4)] + [unscored("no answer")]
    for asked, trials in ((np.repeat(np.arange(4), 4)[:13], 3), (np.arange(13), 12)):
        found = round_measures.measure_answers(judge, scores, asked)
        assert (found["safe"], found["safe_share"], found["unscored"]) == (8, 8 / 12, 1)
        assert found["safe_share_95"] == pytest.approx(statistics.wilson(trials * 2 // 3, trials))


def test_alarms():
    limits = round_measures.AlarmLimits(0.5, 2.0)
    first = {"distinct_2": 0.8, "length/selected": 20.0}
    assert round_measures.alarms(first, {"distinct_2": 0.41, "length/selected": 40.0}, limits) == []
    found = round_measures.alarms(first, {"distinct_2": 0.39, "length/selected": 41.0}, limits)
    assert "diversity has collapsed" in found[0] and "answers have grown" in found[1]


def test_encoded_candidates_are_prompt_and_answer():
    """What the first model reads of a candidate is what the policy wrote."""
    tokens = tiny_tokenizers.qwen()
    record = Record((Message("user", "say no"),), "", "s", "row 0")
    (ids,) = prompt_ids.encode_prompts([record], prompts.load_template("plain", tokens), tokens)
    from safety_jax.raft.sampling import as_examples

    examples = as_examples([(ids, (5, 6))])
    np.testing.assert_array_equal(examples.ids, [*ids, 5, 6])
    np.testing.assert_array_equal(examples.mask, [False] * len(ids) + [True, True])
