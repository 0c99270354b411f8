"""Questions with known answers."""

import pytest

from safety_jax.evaluation.measures import known_answers


@pytest.mark.parametrize(
    ("answer", "text", "right"),
    [
        ("A dog has FOUR legs.", "four", True),
        ("A dog has four legs.", "our", False),
        ("It lives on a farm, mostly.", "on a farm", True),
        ("Zoë", "zoe", True),
        ("2 legs", "two|2", True),
        ("", "four", False),
        ("anything", "|", False),
        ("a-b", "a b", True),
    ],
)
def test_right_contains_the_known_answer_as_whole_words(answer, text, right):
    assert known_answers.right(answer, text) is right


def test_accuracy_has_an_interval():
    found = known_answers.measure(["four legs", "two legs"], ["four", "four"])["accuracy"]
    assert (found["count"], found["n"], found["value"]) == (1, 2, 0.5)
    assert 0 < found["low"] < 0.5 < found["high"] < 1
