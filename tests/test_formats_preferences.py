"""Rows of two answers from published sets: which is preferred, and what their scores say of it."""

import re

import pytest

from safety_jax.base.errors import DataError
from safety_jax.data.records import read_labelled, read_pairs, read_prompts, read_records
from tests.row_samples import (
    AGAIN,
    ALPACA_PAIR,
    ARENA,
    ASK,
    BETTER,
    HELP_STEER,
    LAST,
    NECTAR,
    OPENAI,
    ORCA_DPO,
    SHAREGPT_PAIR,
    SHP,
    SYSTEM,
    ULTRA_FEEDBACK,
    WEBGPT,
    WORSE,
    A,
    B,
    Q,
    opener,
    turns,
)


@pytest.fixture
def rows(tmp_path):
    return opener(tmp_path)


@pytest.mark.parametrize(
    ("row", "prompt", "chosen"),
    [
        (ULTRA_FEEDBACK, (ASK,), BETTER),
        (ORCA_DPO, (SYSTEM, ASK), BETTER),
        (OPENAI, (SYSTEM, ASK), BETTER),
        (HELP_STEER, (ASK, BETTER, AGAIN), LAST),
        ({"prompt": Q, "response_1": B, "response_2": A, "preference_strength": 2}, (ASK,), BETTER),
        (HELP_STEER | {"response1": B, "response2": LAST.content, "overall_preference": 1},
         (ASK, BETTER, AGAIN), LAST),
        (SHP, (ASK,), BETTER),
        (SHP | {"human_ref_A": B, "human_ref_B": A, "labels": "0"}, (ASK,), BETTER),
        (WEBGPT, (ASK,), BETTER),
        (WEBGPT | {"question": Q}, (ASK,), BETTER),
        (ARENA, (ASK,), BETTER),
        (ALPACA_PAIR, (ASK,), BETTER),
        (SHAREGPT_PAIR, (ASK,), BETTER),
        (NECTAR, (ASK,), BETTER),
    ],
)  # fmt: skip
def test_a_preferred_answer(row, prompt, chosen, rows):
    (found,) = read_pairs(rows(row))
    assert (found.prompt, found.chosen, found.rejected) == (prompt, (chosen,), (WORSE,))


def test_pairs_whose_scores_prefer_nothing_or_the_other_answer(rows):
    names = ("score_chosen", "score_rejected"), ("chosen-rating", "rejected-rating")
    pair = {"prompt": Q, "chosen": A, "rejected": B}
    for chosen, rejected in names:
        tie = rows(pair, pair | {chosen: 8.5, rejected: "8.5"})
        assert len(read_pairs(tie)) == 1
        (left,) = tie.left_out
        assert left.unwanted and "neither answer is preferred" in left.why
        wrong = pair | {chosen: 3, rejected: 8}
        with pytest.raises(DataError, match="the scores prefer the rejected answer; add without="):
            read_pairs(rows(pair, wrong))
        with pytest.raises(DataError, match="the scores prefer the rejected answer"):
            read_labelled(rows(wrong))
        assert len(read_pairs(rows(wrong, options=f"?without={chosen},{rejected}"))) == 1
        assert len(read_pairs(rows(pair | {chosen: 8, rejected: None}))) == 1
        assert len(read_records(rows(wrong))) == 1, "its chosen answer is what is learned"


def test_both_answers_of_any_pair_to_learn_and_to_avoid(rows):
    for row in (ULTRA_FEEDBACK, ORCA_DPO, OPENAI, HELP_STEER, SHP, WEBGPT, ARENA, ALPACA_PAIR):
        better, worse = read_labelled(rows(row))
        assert better.desirable and not worse.desirable and worse.answer == (WORSE,)


def test_an_input_beside_two_answers_is_read(rows):
    (found,) = read_pairs(rows(ALPACA_PAIR))
    assert found.context == "Owl, lark."


def test_weights_do_not_part_dialogues(rows):
    """An answer of weight 0 in one of them alone is the same answer."""
    weighed = [turns(ASK)[0], turns(BETTER)[0] | {"weight": 0}, *turns(AGAIN, LAST)]
    (pair,) = read_pairs(rows({"chosen": weighed, "rejected": turns(ASK, BETTER, AGAIN, WORSE)}))
    assert len(pair.prompt) == 3 and pair.chosen == (LAST,)


def test_a_prompt_is_all_that_whole_dialogues_share(rows):
    """The column `prompt` of UltraFeedback's kind repeats only the first question."""
    chosen, rejected = (turns(ASK, BETTER, AGAIN, last) for last in (LAST, WORSE))
    for column, extra in (("prompt", {}), ("question", {}), ("prompt", {"messages": chosen})):
        row = {column: Q, "chosen": chosen, "rejected": rejected, **extra}
        (found,) = read_prompts(rows(row))
        assert found.messages == read_pairs(rows(row))[0].prompt == (ASK, BETTER, AGAIN)
    for answers in ((A, B), (None, ""), ([A, B], []), (turns(BETTER), turns(WORSE))):
        (found,) = read_prompts(rows({"prompt": Q, "chosen": answers[0], "rejected": answers[1]}))
        assert found.messages == (ASK,)


def test_a_battle_of_several_turns_parts_after_the_first_question(rows):
    (found,) = read_pairs(rows(ARENA | {
        "conversation_a": turns(ASK, BETTER, AGAIN, LAST),
        "conversation_b": turns(ASK, WORSE, AGAIN, WORSE), "winner": "model_a",
    }))  # fmt: skip
    assert found.prompt == (ASK,)
    assert (found.chosen, found.rejected) == ((BETTER, AGAIN, LAST), (WORSE, AGAIN, WORSE))


@pytest.mark.parametrize(
    "row",
    [
        *(ARENA | {"winner": winner} for winner in ("tie", "tie (bothbad)", "both_bad")),
        WEBGPT | {"score_0": 0.0, "score_1": 0.0},
        NECTAR | {"answers": [one | {"rank": 1.0} for one in NECTAR["answers"]]},
    ],
)
def test_two_answers_of_which_none_won_are_left_out(row, rows):
    decided = next(one for one in (ARENA, WEBGPT, NECTAR) if one.keys() == row.keys())
    pairs = rows(row, decided)
    assert len(read_pairs(pairs)) == 1
    (left,) = pairs.left_out
    assert left.unwanted and "neither answer is preferred" in left.why


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (SHP | {"labels": 2}, "'labels' is 2; expected 0 or 1"),
        (WEBGPT | {"score_1": None}, "'score_1' is None; expected a number"),
        (WEBGPT | {"question": {"id": "1"}}, "'full_text' is missing"),
        (ARENA | {"winner": "model_c"}, "'winner' is 'model_c'; expected model_a, model_b, tie"),
        (ARENA | {"winner": ["model_a"]}, "'winner' is ['model_a']; expected model_a, model_b"),
        (ARENA | {"conversation_b": turns(AGAIN, WORSE)}, "conversation_a and conversation_b"),
        (SHAREGPT_PAIR | {"chosen": turns(ASK, BETTER)}, "'chosen' begins with the user"),
        (NECTAR | {"answers": [{"answer": A, "rank": 1}]}, "'answers' is no list of two or more"),
        (NECTAR | {"answers": [{"answer": A, "rank": 1}, {"answer": B}]},
         "answers[1] has the rank None; expected a number, 1 the best"),
        (NECTAR | {"answers": [{"answer": A, "rank": 1}, {"answer": "", "rank": 2}]},
         "'answer' is empty"),
    ],
)  # fmt: skip
def test_an_unusable_comparison(row, why, rows):
    with pytest.raises(DataError, match=re.escape(why)):
        read_pairs(rows(row))


@pytest.mark.parametrize(
    ("row", "column"),
    [(WEBGPT, "question"), (ARENA, "winner"), (NECTAR, "answers"), (OPENAI, "input")],
)
def test_a_later_row_without_a_column_of_the_format(row, column, rows):
    short = {name: value for name, value in row.items() if name != column}
    with pytest.raises(DataError, match=re.escape(f"line 2: '{column}' is missing")):
        read_pairs(rows(row, short))


@pytest.mark.parametrize("row", [SHP, WEBGPT, ARENA, ARENA | {"winner": "tie"}, NECTAR])
def test_the_prompt_of_a_comparison(row, rows):
    (found,) = read_prompts(rows(row))
    assert found.messages == (ASK,)
