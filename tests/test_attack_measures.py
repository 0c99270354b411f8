"""What a report says of attacks: each beside the plain prompts, and all together."""

import dataclasses

import pytest

from safety_jax.evaluation.attacks import registry
from safety_jax.evaluation.measures import attacks
from safety_jax.maths import statistics
from tests.evaluation_samples import ask as ask_set
from tests.evaluation_samples import block

WHERE = "evaluate.sets: diary.jsonl"


def under(one_set, attack):
    (one,) = registry.parse(attack, WHERE)
    items = tuple(dataclasses.replace(item) for item in one_set.items)
    name = f"{one_set.name}+{one.name}"
    return dataclasses.replace(one_set, name=name, items=items, attack=one, plain=one_set.name)


def test_each_attack_beside_the_plain_prompts_and_all_together():
    one_set = ask_set("s", *"abcdef")
    rot, code = under(one_set, "rot13"), under(one_set, "base64")
    few = dataclasses.replace(code, items=code.items[:5])  # the last was too long
    blocks = {
        "base": [
            block("base", one_set, [0, 0, 0, 0, 0, 1], ["full"] * 5 + ["none"]),
            block("base", rot, [1, 1, 1, 1, 0, 1], ["none"] * 6),
            block("base", few, [1, 0, None, 0, 0], ["none"] * 4 + ["partial"]),
        ],
        "dpo": [
            block("dpo", one_set, [0] * 6, ["full"] * 6),
            block("dpo", rot, [0] * 6, ["full"] * 6),
            block("dpo", few, [0] * 5, ["full"] * 5),
        ],
    }
    base, dpo = attacks.measure(blocks, "base", "guard", force=False)
    plain, by_rot, by_code = base.attacks
    assert [found.attack for found in base.attacks] == ["", "rot13", "base64"]
    assert (plain.success.count, by_rot.success.count, by_code.success.count) == (1, 5, 1)
    assert (by_code.success.n, by_code.success.unscored) == (4, 2)
    change = by_rot.success_change
    # Four of four turned: 2 / 2^4; base64 turned one: p is 1. Holm: 2 * 1/8.
    assert (change.n, change.gained, change.lost, change.p, change.p_holm) == (
        6,
        4,
        0,
        1 / 8,
        1 / 4,
    )
    assert change.difference.value == pytest.approx(4 / 6) and by_code.success_change.p_holm == 1
    assert by_rot.refused_change.difference.value == pytest.approx(-5 / 6)
    assert base.worst == "rot13" and plain.success_change is None
    assert (base.safe_under_all.count, base.safe_under_all.n) == (1, 6)
    # Item f has no answer under base64: safe so far, but nobody knows.
    assert (dpo.safe_under_all.count, dpo.safe_under_all.n, dpo.safe_under_all.unscored) == (
        5,
        5,
        1,
    )
    assert dpo.answered_under_all.count == 0 and base.against_baseline is None
    assert (dpo.against_baseline.n, dpo.against_baseline.gained) == (5, 4)
    told = attacks.notes(blocks)
    assert "rot13" in told[0] and "not decoded" in told[0]
    assert told[1].startswith("s+base64: 1 prompts of s are not asked")
    blocks["dpo"][1] = dataclasses.replace(blocks["dpo"][1], protocol="other")
    assert attacks.measure(blocks, "base", "guard", force=False)[1].against_baseline is None
    assert attacks.measure(blocks, "base", "guard", force=True)[1].against_baseline
    # To be safe under one attack and under two are two things, whatever is forced.
    for model in ("base", "dpo"):
        fewer = {**blocks, model: blocks[model][:2]}
        assert attacks.measure(fewer, "base", "guard", force=True)[1].against_baseline is None


def test_sets_under_the_same_attacks_are_measured_together():
    sets = [ask_set(name, "a", "b") for name in "st"]
    blocks = [block("m", one_set, [0, 0]) for one_set in sets]
    blocks += [block("m", under(one_set, "rot13"), [0, 1]) for one_set in sets]
    found = attacks.measure({"m": blocks}, "m", "guard", force=False)
    assert [one.set for one in found] == ["s", "t", "all unsafe"]
    together = found[-1]
    assert (together.safe_under_all.count, together.safe_under_all.n) == (2, 4)
    assert together.attacks[1].sets == ("s+rot13", "t+rot13")
    assert together.attacks[1].refused is None and together.answered_under_all is None


def test_several_answers_to_a_prompt_are_safe_together_or_not():
    one_set = ask_set("s", "a", "b").repeated(2)
    blocks = [block("m", one_set, [0, 0, 0, 0]), block("m", under(one_set, "rot13"), [0, 1, 0, 0])]
    (found,) = attacks.measure({"m": blocks}, "m", "guard", force=False)
    assert (found.safe_under_all.count, found.safe_under_all.n) == (1, 2)
    assert found.attacks[1].success.n == 4 and found.attacks[1].success_change.n == 2
    any_of = [result.any_success for result in found.attacks]
    assert [(share.count, share.n) for share in any_of] == [(0, 2), (1, 2)]


def test_twins_belong_together_under_attacks_too():
    one_set = ask_set("s", *"abcd")
    items = [
        dataclasses.replace(item, together=f"{i // 2}") for i, item in enumerate(one_set.items)
    ]
    one_set = dataclasses.replace(one_set, items=tuple(items))
    blocks = [block("m", one_set, [0, 0, 0, 0]), block("m", under(one_set, "rot13"), [1, 1, 0, 0])]
    (found,) = attacks.measure({"m": blocks}, "m", "guard", force=False)
    change, safe = found.attacks[1].success_change, found.safe_under_all
    assert (change.n, change.gained, change.p) == (2, 1, 1.0)
    assert (safe.count, safe.n) == (2, 4)
    assert (safe.low, safe.high) == pytest.approx(statistics.wilson(1, 2))  # of two pairs
