"""What a report says of conversations: turn by turn, throughout, and of requests in them."""

import dataclasses

import pytest

from safety_jax.evaluation.answers.responses import CUT
from safety_jax.evaluation.measures import conversations as measures
from safety_jax.evaluation.measures import counts
from safety_jax.judges.judge import unscored
from safety_jax.report.evaluation import conversations as tables
from tests.evaluation_samples import block, make_set
from tests.report_samples import nothing
from tests.test_conversations import pets, plain, read  # noqa: F401


def judged(one_set, unsafe: str, refused: str, model="base"):
    """A block of verdicts: u unsafe, s safe, ? none; f refused, - not, an item a letter."""
    guard = [{"u": 1.0, "s": 0.0, "?": None}[letter] for letter in unsafe]
    labels = ["full" if letter == "f" else "none" for letter in refused]
    return block(model, one_set, guard, labels)


def test_measures_turn_by_turn(pets):  # noqa: F811
    #                              dog cat fox | dog cat fox | dog
    base = judged(pets, "sss" + "ssu" + "u", "--f" + "f--" + "-")
    tuned = judged(pets, "sss" + "sss" + "s", "--f" + "-ff" + "f", "tuned")
    first, second = measures.measure(
        {"base": [base], "tuned": [tuned]}, "base", "guard", force=False
    )
    assert first.conversations == 3 and first.first_unsafe == (0, 1, 1)
    assert [turn.unsafe_by.count for turn in first.turns] == [0, 1, 1]
    assert [turn.unsafe_by.n for turn in first.turns] == [3, 3, 1]
    assert (first.safe_throughout.count, first.safe_throughout.n) == (1, 3)
    # fox: asked and refused, asked again and answered, unsafely.
    assert (first.refused_after_refusal.count, first.refused_after_refusal.n) == (0, 1)
    assert first.refused_after_answer is None and first.recovered is None
    assert [turn.refused and turn.refused.count for turn in first.turns] == [1, 0, 0]
    # dog/2 is harmless and refused, before any refusal; nothing harmless stands behind one.
    assert [turn.over_refused and (turn.over_refused.count, turn.over_refused.n)
            for turn in first.turns] == [(0, 2), (1, 2), None]  # fmt: skip
    assert (first.over_refused_before.count, first.over_refused_before.n) == (1, 4)
    assert first.over_refused_after is None and first.against_baseline is None
    assert second.refused_after_refusal.count == 1 and second.over_refused_before.count == 1
    # Of dog/2, nobody knows whether it stands behind a refusal if dog/1 has no verdict.
    silent = {**base.scores, "refusal": [unscored("no"), *base.scores["refusal"][1:]]}
    unsure = dataclasses.replace(base, scores=silent)
    (found,) = measures.measure({"base": [unsure]}, "base", "guard", force=False)
    assert (found.over_refused_before.count, found.over_refused_before.n) == (0, 2)
    change = second.against_baseline
    assert (change.n, change.gained, change.lost) == (3, 2, 0)
    assert change.p == 0.5  # both of two that turned: 2 / 2^2
    assert change.difference.value == pytest.approx(2 / 3)
    shown = dataclasses.replace(
        nothing(), conversations=(first, second), models={"base": {}, "tuned": {}}, baseline="base"
    )
    table = tables.overview(shown)
    assert len(table.rows) == 2
    texts = [" ".join((cell.text, *cell.notes)) for cell in table.rows[0]]
    assert "2 2–3, of 2" in texts


def test_an_answer_without_a_verdict_is_no_safety(pets):  # noqa: F811
    found = judged(pets, "?ss" + "sss" + "s", "-------")
    (result,) = measures.measure({"base": [found]}, "base", "guard", force=False)
    assert (result.safe_throughout.count, result.safe_throughout.n) == (2, 2)
    assert result.safe_throughout.unscored == 1
    assert [turn.unsafe_by.unscored for turn in result.turns] == [1, 1, 1]
    unjudged = dataclasses.replace(found, scores={}, cards={})
    (nothing,) = measures.measure({"base": [unjudged]}, "base", "", force=False)
    assert nothing.safe_throughout is None and nothing.turns[0].unsafe_by is None


def test_a_conversation_that_was_cut_is_counted_and_never_safe(pets):  # noqa: F811
    """dog is cut before its second turn, and safe so far; cat is unsafe before it is cut."""
    found = dataclasses.replace(
        judged(pets, "sus" + "??s" + "?", "---" + "---" + "-"),
        finishes=["eos"] * 3 + [CUT, CUT, "eos", CUT],
        answers=["one", "two three", "four"] + ["", "", "five", ""],
    )
    (result,) = measures.measure({"base": [found]}, "base", "guard", force=False)
    assert (result.conversations, result.cut) == (3, 2)
    whole = result.safe_throughout
    assert (whole.count, whole.n, whole.unscored, whole.least) == (1, 2, 1, 1 / 3)
    (note,) = measures.notes([result])
    assert "2 of 3 conversations grew too long" in note
    assert measures.notes([dataclasses.replace(result, cut=0)]) == []
    shown = dataclasses.replace(
        nothing(), conversations=(result,), models={"base": {}}, baseline="base"
    )
    table = tables.overview(shown)
    assert table.rows[0][table.head.index("cut")].text == "2"
    row = counts.row(found, counts.Resampling(200, 0))
    assert row.degenerate.empty.count == 0 and row.degenerate.empty.n == 4
    assert row.degenerate.truncated.n == 4 and row.words.n == 4 and row.words.value == 1


def test_requests_alone_and_in_conversations(plain):  # noqa: F811
    alone, amid, behind = read(f"{plain}&turns=amid:2,context:50")
    base = [
        judged(alone, "ssss", "ffff"),
        judged(amid, "".join("u" if item.talk.request in ("p0", "p1", "p2") else "s"
                             for item in amid.items),
               "".join("f" if item.talk.request == "p3" or item.talk.number == 2 and
                       item.talk.talk == "p3" else "-" for item in amid.items)),
        judged(behind, "sssu", "fff-"),
    ]  # fmt: skip
    (found,) = measures.requests({"base": base}, "guard")
    assert [one.setting for one in found.results] == ["", "amid:2", "context:50"]
    assert [one.unsafe.count for one in found.results] == [0, 3, 1]
    assert [one.refused.count for one in found.results] == [4, 1, 3]
    change = found.results[1].unsafe_change
    assert change.difference.value == 0.75 and change.p == 0.25  # 2 / 2^3
    assert change.p_holm == 0.5 and found.results[2].unsafe_change.p_holm == 1.0
    # A single turn behind a context has no course; amid, one harmless turn behind p3 is refused.
    (course,) = measures.measure({"base": base}, "base", "guard", force=False)
    assert course.set == "plain+amid:2" and course.spread.difference.value == pytest.approx(1 / 16)
    assert (course.over_refused_after.count, course.over_refused_after.n) == (1, 4)


def test_single_prompts_have_no_course():
    one_set = make_set("one", "unsafe", 4)
    assert (
        one_set.as_it_stands
        and one_set.earlier == [[]] * 4
        and one_set.firsts == ["0", "1", "2", "3"]
    )
    found = judged(one_set, "susu", "----")
    assert measures.measure({"base": [found]}, "base", "guard", force=False) == []
    assert measures.requests({"base": [found]}, "guard") == []
