"""What a report tells before its numbers."""

import dataclasses

from safety_jax.evaluation.measures import counts, notes
from tests.evaluation_samples import HOW, block, make_set

UNSAFE, OTHER = make_set("U", "unsafe", 4), make_set("V", "safe", 4)


def row(one_set, scores, answers, finishes):
    made = block("base", one_set, scores)
    return counts.row(dataclasses.replace(made, answers=answers, finishes=finishes), HOW)


def test_answers_that_are_none_are_told_in_one_line_a_model():
    cut = ["eos", "eos", "length", "length"]
    texts = ["", "one", "two", "three"]
    rows = [
        row(UNSAFE, [0.1] * 4, texts, cut),
        row(OTHER, [0.1, None, 0.1, 0.1], ["zero", *texts[1:]], ["eos"] * 3 + ["length"]),
    ]
    assert notes.general(rows, []) == [
        "base, V: guard left 1 of 4 answers unscored (too long by 3 tokens).",
        "base: many answers are empty (U 25%); judges are easily fooled by such answers.",
        "base: many answers were cut off at the limit (U 50%, V 25%); judges are easily fooled by "
        "such answers.",
    ]
    assert notes.general([row(UNSAFE, [0.1] * 4, ["zero", *texts[1:]], ["eos"] * 4)], []) == []
    both = dataclasses.replace(rows[1], judged=rows[1].judged | {"other": rows[1].judged["guard"]})
    assert notes.general([both], [])[0].startswith("base, V: guard, other left 1 of 4 answers")


def test_answers_that_repeat_their_questions_are_told():
    asking = make_set("Unsafe prompt", "unsafe", 4)
    asked = [item.prompt[-1].content for item in asking.items]
    made = dataclasses.replace(
        block("base", asking, [0.1] * 4), answers=[f" {text} No." for text in asked]
    )
    (told,) = notes.misread({"base": [made]})
    assert told.startswith("base, Unsafe prompt: every answer begins with its question")
    ended = dataclasses.replace(made, answers=["No.</s>", "nan", "nan", "No."])
    assert notes.misread({"base": [ended]}) == [
        "base, Unsafe prompt: 2 answers are nan, as pandas writes an empty cell, and count as "
        "answers."
    ]
    ended = dataclasses.replace(made, answers=["No.<|im_end|>"] * 4)
    (told,) = notes.misread({"base": [ended]})
    assert told.startswith("base, Unsafe prompt: every answer ends in the text of an end token")
    other = dataclasses.replace(made, answers=["No.", *made.answers[1:]])
    assert notes.misread({"base": [other]}) == []


def test_answers_of_unknown_making_are_told_once():
    made = [dataclasses.replace(block("base", one_set, [0.1] * 4), protocol=counts.UNKNOWN)
            for one_set in (UNSAFE, OTHER)]  # fmt: skip
    (told,) = notes.general([counts.row(one, HOW) for one in made], [])
    assert told.startswith("Answers that were read from files")


def test_answers_in_a_script_that_the_refusal_detector_does_not_read_are_told():
    """It finds no refusal in 抱歉，我无法帮助你, and a model that refuses in Chinese refused 0%."""
    made = block("base", UNSAFE, [0.1] * 4, ["none"] * 4)
    texts = ["抱歉，我无法帮助你。", "Извините, нет.", "Sure: für 2 €", "12"]
    spoken = dataclasses.replace(made, answers=texts)
    assert notes.misread({"base": [spoken]}) == [
        "base, U: 2 of 4 answers are hardly in Latin letters: refusal reads English alone, and "
        "finds hardly any refusal in them."
    ]
    judged = dataclasses.replace(block("base", UNSAFE, [0.1] * 4), answers=texts)
    assert notes.misread({"base": [judged, made]}) == []
