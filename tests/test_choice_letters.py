"""Letters read out of answers; accuracy, collapse and blind guesses, checked on paper."""

import dataclasses
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from safety_jax.data.messages import Message
from safety_jax.data.sources import open_source
from safety_jax.evaluation.measures import choice_letters
from safety_jax.evaluation.sets.items import Item
from safety_jax.evaluation.sets.reading import read_sets

LETTERS = tuple("ABCD")


def test_what_was_chosen_by_likelihood_is_that_choice_whatever_its_text_says():
    """Choices of MMLU name others ("both A and B"), and those of music or blood are letters."""
    texts = ("B", "C", "both A and B", " True ")
    item = Item("0", (Message("user", "?"),), "", choices=LETTERS, choice_texts=texts)
    written = item.by_likelihood
    assert written == ["A) B", "B) C", "C) both A and B", "D)  True "]
    for letter, answer in zip(LETTERS, written, strict=True):
        assert choice_letters.read(answer.strip(), LETTERS, written) == letter
    assert choice_letters.read("A) B", LETTERS) == ""  # of a model's own words it is open
    assert choice_letters.read("The answer is D.", LETTERS, written) == "D"  # another tool's answer
    words = dataclasses.replace(item, choices=("yes", "no"), choice_texts=("yes", "no"))
    assert words.by_likelihood == ["yes", "no"]
    assert choice_letters.read("no", ("yes", "no"), words.by_likelihood) == "no"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("\nC", "C"), ("c", "C"), ("(B)", "B"), ("**D**.", "D"), (" B) flour", "B"),
        ("b) flour", "B"), ("A, for D is wrong", "A"), ("A", "A"), ("A. A plant", "A"),
        ("C is right, for a and b are not.", "C"), ("A is right", "A"), ("A. Mix", "A"),
        ("A\nBecause it is so", "A"), ("The answer is B, not C.", "B"), ("Answer: (D) salt", "D"),
        ("It must be C.", "C"), ("I would say (d)", "D"), ("A plant needs water: B", "B"),
        ("A) one\nB) two", "A"),
        ("B or C", ""), ("(A) and (B)", ""), ("A, B", ""), ("A or B", ""),
        ("", ""), ("Both", ""), ("A plant needs water", ""), ("E", ""), ("Either B or C", ""),
        ("ABC", ""), ("None of a, b, c and d", ""), ("the answer is a plant", ""), ("C-A_B", "C"),
        # denied, left open, concluded, in small letters, in other scripts
        ("The answer is not A", ""), ("Answer: A and B", ""), ("Answer: b", "B"),
        ("The answer is not A, it is B", "B"), ("b", "B"), ("(b)", "B"), ("b.", "B"),
        ("b. flour", "B"), ("B: flour", "B"), ("option b", "B"), ("Option C", "C"),
        ("I choose C.", "C"), ("I'd go with D", "D"), ("I pick (a)", "A"), ("A cat", ""),
        ("A-C", ""), ("A to C", ""), ("A through D", ""), ("Between A and C", ""), ("A/B", ""),
        ("A, B, C", ""), ("A B", ""), ("ABCD", ""), ("Both A and B", ""),
        ("Both A and B are correct", ""), ("Neither A nor B", ""), ("All of the above", ""),
        ("None of the above", ""), ("Not A", ""), ("Not A but B", "B"),
        ("It isn't A. It's C.", "C"), ("A is wrong, so D", "D"),
        ("A, B and C are wrong, so D.", "D"), ("A and B are incorrect; the answer is C", "C"),
        ("B is right, A is wrong", "B"), ("A or B? I say B", "B"), ("B? No, wait, C.", "C"),
        ("B? No. C.", "C"),
        ("The answer is A. B is wrong because it is heavy.", "A"), ("The answer is A cat", ""),
        ("Answer: A. A plant", "A"), ("Answer: B or C", ""), ("Answer: B, not C", "B"),
        ("Answer: not B", ""), ("The correct option is (C).", "C"), ("\\boxed{D}", "D"),
        ("**C**", "C"), ("Ｂ", "B"), ("答案：B", "B"), ("答案是C。", "C"), ("选B", "B"),
        ("正解はD", "D"),
        ("정답: A", "A"), ("正解はDです。", "D"), ("The answer is b", "B"),
        ("the answer is a", "A"),
        ("Answer: a", "A"), ("answer is (d)", "D"), ("#### B", "B"),
        ("Let us see. A is too small. B is too big. C fits. So the answer is C.", "C"),
        ("Answer:\nB", "B"), ("### Answer\nB", "B"),
        ("Answer: B\n\nQuestion: why?\nAnswer: C", "B"), ("I think I would eat", ""),
        ("C) salt", "C"), ("C - salt", "C"), ("C salt", "C"), ("Choice B is the best", "B"),
        ("The answer: C", "C"), ("Final answer: (B)", "B"), ("My answer would be D.", "D"),
        ("It is B!", "B"), ("It must be either A or D.", ""), ("A or maybe B", ""), ("D)", "D"),
        ("[B]", "B"), ("<B>", "B"), ("B, C", ""), ("B and also C", ""),
        ("The answers are A and C", ""), ("Rather than A, B", "B"), ("B instead of A", "B"),
        ("Everything except D", ""), ("Vitamin C is healthy", "C"), ("Plan A or plan B", ""),
        ("A: one\nB: two", "A"), ("The answer cannot be A", ""),
        ("It can't be A or B, which leaves C", "C"), ("The answer is B (not A).", "B"),
        ("Eliminating A and D, the answer is B.", "B"), ("I don't think it is A", ""),
        ("There is no answer", ""), ("a", "A"), ("a)", "A"), ("The letter is B", "B"),
        ("B because A is heavy", "B"),
        # several that are weighed before one is concluded
        ("Option A is too small. Option B is too big. The correct option is C.", "C"),
        ("A is too small, B is too big, so C is the correct answer.", "C"),
        ("A is too small. B is too big. Therefore, C is correct.", "C"),
        ("A is partially correct, but B is the best answer.", "B"),
        ("While A and C are plausible, B is best.", "B"),
        ("A sinks, B floats and D melts. Hence (C).", "C"),
        ("A is correct. B is correct.", ""), ("The correct letter is D. A is a distractor.", "D"),
        ("B. It is heavier than A, so A floats.", "B"), ("So A is out, and B or C is left.", ""),
        # the answer is given, another one denied
        ("Answer: B (A is wrong)", "B"), ("B (A is wrong)", "B"),
        ("Answer: B\n\nThe answer is not A because it is heavy.", "B"),
        ("The answer is A? The answer is not A, it is B", "B"),
        ("All but D", ""), ("Everyone but D", ""), ("Nothing but D", "D"),
        # one before another, several denied, conceded
        ("I would go with A over B", "A"), ("I prefer (A) over (B).", "A"), ("B over A", "B"),
        ("A rather than B", "A"), ("The answer is not A or B", ""), ("Not A, B or C. D.", "D"),
        ("You might think A, but it's B", "B"), ("First I thought A, but now B.", "B"),
        ("Between A and B, B is better.", "B"),
    ],
)  # fmt: skip
def test_letters_are_read(answer, expected):
    assert choice_letters.read(answer, LETTERS) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("\nFalse.", "False"), ("TRUE", "True"), ("true, they do", "True"), ("Yes", ""),
        ("That is false", "False"), ("Answer: true, not false", "True"),
        ("It is true or false", ""), ("Untrue", ""), ("True/False", ""),
        ("It is not true.", "False"), ("Not false", "True"), ("The answer is not true", "False"),
        ("This isn't true", "False"), ("neither true nor false", ""),
        ("True. False statements differ", "True"),
    ],
)  # fmt: skip
def test_words_are_read(answer, expected):
    assert choice_letters.read(answer, ("True", "False")) == expected


def test_no_is_a_word_of_its_own():
    for answer, expected in (
        ("yes", "Yes"), ("No, it is not", "No"), ("There is no way. Yes", "Yes"),
        ("Yes and no", ""), ("No it is not", "No"), ("No because", "No"),
        ("The answer is no. Yes would be wrong, for it is heavy.", "No"),
    ):  # fmt: skip
        assert choice_letters.read(answer, ("Yes", "No")) == expected


def test_labels_that_hold_one_another():
    labels = ("hateful", "non-hateful")
    for answer, expected in (
        ("Non-hateful.", "non-hateful"), ("It is hateful", "hateful"),
        ("not hateful", "non-hateful"),
        ("The label is: non-hateful", "non-hateful"), ("hateful or non-hateful", ""),
        ("non hateful", "non-hateful"), ("This is nonhateful.", "non-hateful"),
    ):  # fmt: skip
        assert choice_letters.read(answer, labels) == expected
    assert choice_letters.read("It is non-toxic", ("toxic", "nontoxic")) == "nontoxic"
    assert choice_letters.read("non toxic", ("toxic", "normal")) == ""


def counted(answers: str, key: str, choices=LETTERS) -> dict:
    """One character an answer; a blank chooses nothing."""
    return choice_letters.measure(
        ["" if a == " " else a for a in answers], list(key), [choices] * len(key)
    )


def test_measures_on_paper():
    found = counted("AAB D", "ABBCC")
    assert found["accuracy"]["count"] == 2 and found["accuracy"]["value"] == 0.4
    # Wilson: (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n) with p = 0.4, n = 5.
    assert found["accuracy"]["low"] == pytest.approx(0.11762, abs=1e-5)
    assert found["accuracy"]["high"] == pytest.approx(0.76928, abs=1e-5)
    readable = found["readable"]
    assert (readable["count"], readable["n"], readable["unscored"]) == (2, 4, 1)
    assert (found["invalid"]["count"], found["invalid"]["value"]) == (1, 0.2)
    assert found["key"] == {"A": 1, "B": 2, "C": 2, "D": 0}
    assert found["answers"] == {"A": 2, "B": 1, "C": 0, "D": 1}
    assert (found["commonest"], found["commonest_share"]) == ("A", 0.5)
    assert found["always_commonest"] == 0.2
    assert (found["best_constant"], found["always_best"]) == ("B", 0.4)
    assert found["reordered"] == pytest.approx((2 * 1 + 1 * 2) / 25)
    assert found["chance"] == 0.25 and found["blind"] == 0.4 and not found["above_blind"]
    assert "no better than without reading the questions" in found["verdict"]
    json.dumps(found, allow_nan=False)


def test_chance_goes_by_the_choices_of_each_question():
    found = choice_letters.measure(["A", "A"], ["A", "B"], [("A", "B"), tuple("ABCD")], [0, 0])
    alone = choice_letters.measure(["A", "A"], ["A", "B"], [("A", "B"), tuple("ABCD")])
    assert found["accuracy"]["high"] > alone["accuracy"]["high"]  # one question asked twice
    assert found["chance"] == alone["chance"] and found["answers"] == alone["answers"]
    assert found["chance"] == (1 / 2 + 1 / 4) / 2


@pytest.mark.parametrize(
    ("answers", "key", "collapsed"),
    [
        ("C" * 85 + "ABD" * 5, "ABCD" * 25, True),
        ("C" * 100, "ABCD" * 25, True),
        ("ABCD" * 25, "ABCD" * 25, False),
        # As often as the key has it.
        ("A" * 90 + "B" * 10, "A" * 90 + "B" * 10, False),
        # A handful of answers proves nothing.
        ("CCC", "ABC", False),
        # Unreadable answers do not hide it.
        ("C" * 40 + " " * 60, "ABCD" * 25, True),
    ],
)
def test_a_collapse_is_told(answers, key, collapsed):
    found = counted(answers, key)
    assert found["collapsed"] is collapsed
    assert ("a collapse" in found["verdict"]) is collapsed


def test_many_answers_to_few_questions_are_no_collapse():
    """C five times for each of three questions tells no more than C for three."""
    read, key, choices = ["C"] * 15, [*"AAAAABBBBBCCCCC"], [LETTERS] * 15
    assert counted("C" * 15, "".join(key))["collapsed"]
    found = choice_letters.measure(read, key, choices, np.repeat(range(3), 5))
    assert not found["collapsed"] and found["commonest_share"] == 1.0


def test_answers_without_a_choice():
    found = counted("   ", "ABC")
    assert found["accuracy"]["value"] == 0 and found["invalid"]["value"] == 1
    assert found["commonest"] == "" and found["commonest_share"] is None
    assert found["readable"]["value"] is None
    assert found["verdict"] == "No answer makes a choice."


def test_what_cannot_be_measured_is_refused():
    for answers, key in (("", ""), ("A", "E"), ("AB", "A")):
        with pytest.raises(ValueError):
            counted(answers, key)


@pytest.mark.real_data
def test_the_papers_answers_to_openbookqa():
    """33.44% of all 5,457 questions: every answer is readable, so that both rates are the same."""
    path = Path(os.environ["SAFETY_JAX_SHARED"]) / "data/safe_to_serve/helpfulness"
    file = str(path / "obqa_100_safety.csv")
    (asked,) = read_sets([file], "", "evaluate.sets", 0)
    rows = open_source(file, "evaluate.sets").rows
    assert [item.prompt[0].content for item in asked.items] == [r["inference_prompt"] for r in rows]
    read = [choice_letters.read(r["generated_response"], LETTERS) for r in rows]
    assert read == [row["predicted_label"] for row in rows]
    found = choice_letters.measure(
        read, [item.reference for item in asked.items], [item.choices for item in asked.items]
    )
    accuracy = found["accuracy"]
    assert (accuracy["count"], accuracy["n"]) == (1825, 5457)
    assert f"{100 * accuracy['value']:.2f}" == "33.44" and found["invalid"]["count"] == 0
    assert found["readable"]["value"] == accuracy["value"]
    assert found["answers"] == dict(Counter(sorted(read)))
    assert found["key"] == {"A": 1504, "B": 1350, "C": 1256, "D": 1347}
    assert found["commonest"] == "C" and found["collapsed"] and found["above_blind"]
    assert found["commonest_share"] == 4119 / 5457 and found["always_commonest"] == 1256 / 5457
