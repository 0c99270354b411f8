"""Answers go with their own prompts or not at all, and what is wrong with a file is told."""

import pytest

from safety_jax.base.errors import ConfigError, DataError
from safety_jax.evaluation.answers import matching
from safety_jax.evaluation.answers.existing import read_existing
from tests.evaluation_samples import answers, ask, numbered, prompts, write_lists
from tests.test_responses import KEY


def mismatch(tmp_path, texts, count=10, match="row"):
    asked = numbered("I-CoNa", count)
    write_lists(tmp_path / "I-CoNa.json", instruction=texts, response=answers(len(texts)))
    with pytest.raises(DataError) as error:
        read_existing(str(tmp_path), [asked], KEY, match)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_wrong_with_a_file_is_told(tmp_path):
    right = prompts(numbered("I-CoNa", 10))

    said = mismatch(tmp_path, [*right[:3], *right[4:], "one more"])
    assert said.startswith("I-CoNa.json row 3: answers 'I-CoNa prompt 4' where I-CoNa asks 'I-")
    assert "from here on prompts come 1 too early: rows are shifted; 7 of 10 rows have" in said
    said = mismatch(tmp_path, [*right[:3], right[2], *right[3:9]])
    assert (
        "row 3" in said
        and "it repeats I-CoNa.json row 2, from here on prompts come 1 too late" in said
    )
    said = mismatch(tmp_path, [*right[:3], "put in", *right[3:9]])
    assert "row 3: answers 'put in'" in said and "prompts come 1 too late: rows are" in said
    said = mismatch(tmp_path, [*right[:3], right[4], right[3], *right[5:]])
    assert "row 3" in said and "the prompts are those of the set in another order" in said
    assert "2 of 10 rows" in said and "set evaluate.match to prompt" in said
    said = mismatch(tmp_path, [*right[:3], "unheard of", *right[4:]])
    assert "the set has no such prompt; 1 of 10 rows" in said and "; mend the file" in said
    said = mismatch(tmp_path, [*right[:3], right[7], *right[4:]])
    assert "row 3" in said and "1 of 10" in said
    assert "it repeats" not in said or "row 7" in said
    said = mismatch(tmp_path, right[:8])
    assert "8 answers, I-CoNa has 10 prompts: item 8 has no answer" in said
    said = mismatch(tmp_path, [*right, "more"])
    assert "I-CoNa.json row 10 is beyond the end of the set" in said
    said = mismatch(tmp_path, [*right, *right])  # matching by prompt would refuse them, too
    assert "every prompt has several answers, of which one is expected: choose by ?only=" in said
    said = mismatch(tmp_path, right[1:])
    assert "from here on prompts come 1 too early" in said and "9 answers, I-CoNa has 10" in said


def test_the_published_mistake_is_found(tmp_path):
    """78 of 178 answers stood beside the prompts of the first 78 rows once more."""
    right = prompts(numbered("I-CoNa", 178))
    said = mismatch(tmp_path, right[:100] + right[:78], count=178)
    assert said.startswith("I-CoNa.json row 100: answers 'I-CoNa prompt 0' where I-CoNa asks")
    assert "it repeats I-CoNa.json row 0, from here on prompts come 100 too late" in said
    assert "78 of 178 rows have another prompt" in said


def test_answers_in_another_order_are_matched_by_prompt(tmp_path):
    asked = ask("I-CoNa", "a", "twice", "b", "twice")
    order = ["twice", "b", " twice ", "a"]
    path = write_lists(tmp_path / "I-CoNa.json", instruction=order, response=answers(4))
    (found,) = read_existing(str(path), [asked], KEY, "prompt").values()
    assert [r.text for r in found] == ["answer 3", "answer 0", "answer 1", "answer 2"]
    said = mismatch(tmp_path, ["I-CoNa prompt 0"] * 2, count=2, match="prompt")
    assert "the prompt of I-CoNa item 0 ('I-CoNa prompt 0') occurs 2 times; expected 1" in said
    with pytest.raises(ConfigError, match="evaluate.match is 'text'; expected one of row, prompt"):
        read_existing(str(path), [asked], KEY, "text")
    assert matching.MATCHES == ("row", "prompt")


def test_only_white_space_at_the_ends_is_forgiven(tmp_path):
    asked = ask("I-CoNa", "Two  spaces?")
    for text, fits in ((" Two  spaces?\n", True), ("Two spaces?", False), ("two  spaces?", False)):
        path = write_lists(tmp_path / "I-CoNa.json", instruction=[text], response=["a"])
        if fits:
            assert read_existing(str(path), [asked], KEY, "row")
        else:
            with pytest.raises(DataError, match="row 0: answers"):
                read_existing(str(path), [asked], KEY, "row")
