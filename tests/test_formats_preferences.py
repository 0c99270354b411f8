"""Rows of two answers from published sets: which is preferred, and what their scores say of it."""

import pytest

from safety_jax.base.errors import DataError
from safety_jax.data.records import read_labelled, read_pairs, read_records
from tests.row_samples import (
    AGAIN,
    ASK,
    BETTER,
    HELP_STEER,
    LAST,
    OPENAI,
    ORCA_DPO,
    SYSTEM,
    ULTRA_FEEDBACK,
    WORSE,
    A,
    B,
    Q,
    opener,
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
    for row in (ULTRA_FEEDBACK, ORCA_DPO, OPENAI, HELP_STEER):
        better, worse = read_labelled(rows(row))
        assert better.desirable and not worse.desirable and worse.answer == (WORSE,)
