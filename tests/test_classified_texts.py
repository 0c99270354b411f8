"""Texts to be classified, as evaluation sets: multiple choice among their labels."""

import json

import pytest

from safety_jax.base.errors import DataError
from safety_jax.evaluation.sets.items import CHOICE
from safety_jax.evaluation.sets.reading import read_sets
from tests.evaluation_samples import write_csv


def read(*specs, folder=""):
    return read_sets(specs, str(folder), "evaluate.sets", 0)


def test_labels_of_a_column_with_gaps_are_whole_numbers(tmp_path):
    """Which pandas makes floats; a model would have to answer 1.0."""
    file = tmp_path / "hate.jsonl"
    rows = [{"text": "a", "label": 1.0}, {"text": "b", "label": 0.0}, {"text": "c", "label": 0.5}]
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (found,) = read(f"{file}?kind=label")
    assert found.items[0].choices == ("0", "0.5", "1")
    assert [item.reference for item in found.items] == ["1", "0", "0.5"]


def test_texts_to_be_classified_are_multiple_choice_among_their_labels(tmp_path):
    head, rows = ("text", "label", "functionality"), [("I like tea.", "non-hateful", "taste"),
                                                      ("I hate tea.", "hateful", "taste"),
                                                      ("Tea!", "hateful", "shouts")]  # fmt: skip
    (found,) = read(f"{write_csv(tmp_path / 'mine.csv', head, *rows)}?kind=label")
    assert (found.kind, found.framed) == (CHOICE, True)
    assert {item.choices for item in found.items} == {("hateful", "non-hateful")}
    assert [item.reference for item in found.items] == ["non-hateful", "hateful", "hateful"]
    assert [item.category for item in found.items] == ["taste", "taste", "shouts"]
    assert "as hateful or non-hateful" in found.items[0].prompt[0].content
    assert "\nI like tea.\n" in found.items[0].prompt[0].content
    # By its own name, and under other names of columns.
    own = ("functionality", "case_id", "test_case", "label_gold")
    write_csv(tmp_path / "hatecheck_cases.csv", own, ("shouts", "7", "Tea!", "hateful"),
              ("taste", "9", "I like tea.", "non-hateful"))  # fmt: skip
    (named,) = read("HateCheck", folder=tmp_path)
    assert [(i.id, i.category, i.reference) for i in named.items] == [
        ("7", "shouts", "hateful"), ("9", "taste", "non-hateful"),
    ]  # fmt: skip
    # Ratings become labels: 3 + 2.5 is the limit.
    own = ("text", "target_group", "toxicity_ai", "toxicity_human")
    path = write_csv(tmp_path / "annotated_test.csv", own, ("Tea!", "drinkers", "3", "2.5"),
                     ("No tea!", "drinkers", "3.0", "2.6"))  # fmt: skip
    for spec in ("ToxiGen", str(path)):
        (rated,) = read(spec, folder=tmp_path)
        assert [(i.category, i.reference) for i in rated.items] == [
            ("drinkers", "not hateful"), ("drinkers", "hateful"),
        ]  # fmt: skip
    path = write_csv(tmp_path / "unrated.csv", own, ("Tea!", "drinkers", "3", ""))
    with pytest.raises(DataError, match="line 2: 'toxicity_ai' and 'toxicity_human' are not two"):
        read(f"{path}?as=ToxiGen")
    path = write_csv(tmp_path / "other.csv", ("body", "toxic"), ("a", "0"), ("b", "1"))
    (other,) = read(f"{path}?kind=label&columns=prompt:body,reference:toxic")
    assert other.items[1].choices == ("0", "1") and other.items[1].reference == "1"
    # Answers are read in any case, so that two spellings of a label could not be told apart.
    mixed = [("a", "Hate"), ("b", "hate"), ("c", "hate"), ("d", "none")]
    (cased,) = read(f"{write_csv(tmp_path / 'cased.csv', ('text', 'label'), *mixed)}?kind=label")
    assert [i.reference for i in cased.items] == ["hate", "hate", "hate", "none"]
    assert cased.items[0].choices == ("hate", "none")


@pytest.mark.parametrize(
    ("head", "rows", "message"),
    [
        (("text", "label"), [("a", "x"), ("b", "x")], "1 different labels .*'x'.*expected 2 to 26"),
        (("text", "label"), [("a", "x"), ("b", "")], "line 3: the label is ''; expected a word"),
        (("text", "mark"), [("a", "x"), ("b", "y")], "no column of reference, label"),
        (("body", "label"), [("a", "x"), ("b", "y")], "no column of prompt, text"),
    ],
)
def test_texts_without_labels_are_told(tmp_path, head, rows, message):
    path = write_csv(tmp_path / "mine.csv", head, *rows)
    with pytest.raises(DataError, match=message):
        read(f"{path}?kind=label")
