"""Sets of multiple choice: worded as the paper words them, read from files and from TFDS."""

import json

import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import dataset_metadata

from safety_jax.base.errors import ConfigError, DataError
from safety_jax.evaluation.sets import multiple_choice
from safety_jax.evaluation.sets.items import CHOICE
from tests.evaluation_samples import write_csv
from tests.test_sets import read

OPENBOOKQA = {
    "id": "7-1",
    "question_stem": "The sun",
    "choices": {"text": ["cools", "warms"], "label": ["A", "B"]},
    "answerKey": "B",
}
PROMPT = (
    "### Instruction: Answer the following mulitple-choice question (A/B).\n\n### Question:\n"
    "The sun\n\n### Choices: \nA) cools\nB) warms\n\n### Answer: "
)


@pytest.mark.parametrize("listed", [OPENBOOKQA["choices"], "A) cools\nB) warms\n"])
def test_openbookqa_as_it_is_distributed(tmp_path, listed):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([OPENBOOKQA | {"choices": listed}]))
    (found,) = read(f"{path}?as=OBQA")
    (item,) = found.items
    assert item.prompt[0].content == PROMPT and found.framed
    assert (item.id, item.choices, item.reference) == ("7-1", ("A", "B"), "B")


def test_choices_of_ones_own(tmp_path):
    path = tmp_path / "quiz.jsonl"
    rows = [
        {"q": "The sun", "options": ["cools", "warms"], "right": 1},
        {"q": "The sun", "options": ["cools", "warms"], "right": "b"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = f"{path}?kind=choice&columns=prompt:q,choices:options,reference:right"
    (found,) = read(spec)
    assert [(i.prompt[0].content, i.reference) for i in found.items] == [(PROMPT, "B")] * 2
    assert found.kind == CHOICE
    (item,) = read(f"{spec}&read=likelihood&rows=1")[0].items
    assert (item.prompt[0].content, item.choice_texts) == ("The sun", ("cools", "warms"))
    with pytest.raises(ConfigError, match="read=guess for a set of the kind choice; expecte"):
        read(f"{spec}&read=guess")
    for change, message in (
        ({"right": 2}, "quiz.jsonl line 1: the right choice is 2; expected one of A, B"),
        ({"right": "²"}, "quiz.jsonl line 1: the right choice is .².; expected one of A, B"),
        ({"right": None}, "the right choice is None"),
        ({"options": ["one", " "]}, "one of them empty; expected text in each"),
        ({"options": ["one"]}, "'choices' is .'one'.: 1 choices; expected 2 to 26"),
        ({"options": "B) x\nC) y"}, "expected lines A"),
        ({"options": None}, "'choices' is None: expected 2 to 26 texts"),
        ({"options": [str(i) for i in range(40)]}, "40 choices; expected 2 to 26 texts"),
        ({"q": ""}, "'prompt' is empty"),
    ):
        path.write_text(json.dumps(rows[0] | change) + "\n")
        with pytest.raises(DataError, match=message):
            read(spec)


def test_the_wording_of_the_paper_is_no_fault_of_the_rows(tmp_path):
    """It ends as templates do, in all rows, which is told where the rows themselves do."""
    path = tmp_path / "quiz.jsonl"
    row = {"prompt": "The sun", "choices": ["cools", "warms"], "reference": "B"}
    path.write_text(f"{json.dumps(row)}\n" * 3)
    assert read(f"{path}?kind=choice")[0].remarks == ()
    path.write_text(f"{json.dumps(row | {'prompt': 'The sun [/INST]'})}\n" * 3)
    for kind in ("choice&read=likelihood", "safe"):
        (line,) = read(f"{path}?kind={kind}")[0].remarks
        assert "every request of quiz ends as a template does" in line


@pytest.mark.parametrize(
    ("labels", "answer", "right"),
    [(["1", "2", "3"], "2", "B"), ([1, 2, 3], 2.0, "B"), (["C", "A", "B"], "A", "B")],
)
@pytest.mark.parametrize(
    "form", ["?as=OBQA", "?kind=choice&columns=prompt:question_stem,reference:answerKey"]
)
def test_choices_are_called_what_their_labels_say(labels, answer, right, form, tmp_path):
    """ARC labels some questions 1 to 4: the answer 2 is the second, not the third."""
    path = tmp_path / "arc.jsonl"
    row = OPENBOOKQA | {"choices": {"text": ["x", "y", "z"], "label": labels}, "answerKey": answer}
    path.write_text(json.dumps(row) + "\n")
    (found,) = read(f"{path}{form}")
    assert found.items[0].reference == right
    for change, message in (
        ({"answerKey": "4"}, "the right choice is '4'; expected one of"),
        (
            {"choices": {"text": ["x", "y"], "label": ["A", "A"]}},
            "has the labels .*expected 2 that d",
        ),
        ({"choices": {"text": ["x", "y"], "label": ["A"]}}, "has the labels .*expected 2 that d"),
    ):
        path.write_text(json.dumps(row | change) + "\n")
        with pytest.raises(DataError, match=message):
            read(f"{path}{form}")


def test_whole_numbers_of_a_column_with_gaps():
    row = {"prompt": "q", "choices": ["x", "y"], "reference": 1.0}
    assert multiple_choice.choice_row(row)["reference"] == "B"


def test_results_of_several_models_hold_one_set(tmp_path):
    row = OPENBOOKQA | {"choices": "A) cools\nB) warms\n"}
    for name in ("no_safety", "100_safety"):
        row["generated_response"] = name
        write_csv(tmp_path / f"obqa_{name}.csv", tuple(row), tuple(row.values()))
    assert len(read("OBQA", folder=tmp_path)[0].items) == 1
    row["answerKey"] = "A"
    write_csv(tmp_path / "obqa_more.csv", tuple(row), tuple(row.values()))
    with pytest.raises(ConfigError, match="OpenBookQA differs between .* and .*obqa_more.csv"):
        read("OBQA", folder=tmp_path)


def test_boolq_and_piqa_word_their_rows():
    row = multiple_choice.boolq({"passage": "P", "question": "q", "answer": "True"})
    assert row["choices"] == ("True", "False") and row["reference"] == "True"
    assert "(True/False)" in row["prompt"] and row["prompt"].endswith("q\n\n### Answer: ")
    row = multiple_choice.piqa(
        {"id": "1", "goal": "The sun", "sol1": "cools", "sol2": "warms", "label": 1}
    )
    assert row["prompt"] == PROMPT and row["reference"] == "B"


def test_choices_from_tensorflow_datasets(tmp_path):
    class Openbookqa(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("0.1.0")

        @classmethod
        def get_metadata(cls):
            return dataset_metadata.DatasetMetadata(description="one row", citation="")

        def _info(self):
            text = tfds.features.Text()
            question = {"stem": text} | {f"choice_{letter}": text for letter in "ABCD"}
            features = {
                "question": question,
                "answerKey": tfds.features.ClassLabel(names=list("ABCD")),
            }
            features = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, _):
            question = {f"choice_{letter}": f"it {letter}" for letter in "ABCD"}
            row = {"question": question | {"stem": "The sun"}, "answerKey": "C"}
            return {"test": iter([("0", row)])}

        def _generate_examples(self):
            raise AssertionError("the split has its own generator")

    tfds.display_progress_bar(False)
    Openbookqa(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    tfds.core.add_data_dir(tmp_path)
    (found,) = read("OpenBookQA")
    (item,) = found.items
    assert item.choices == ("A", "B", "C", "D") and item.reference == "C"
    assert "(A/B/C/D)" in item.prompt[0].content and "D) it D" in item.prompt[0].content
    assert found.sha256 is None and len(found.items_sha256) == 64
