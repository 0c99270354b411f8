"""Rows and answers whose labels or weights say that they are not to be learned."""

import csv

import pytest

from safety_jax.base.errors import DataError
from safety_jax.data.messages import Message
from safety_jax.data.records import (
    read_labelled,
    read_pairs,
    read_prompts,
    read_records,
    read_responses,
)
from safety_jax.data.sources import open_source
from tests.row_samples import (
    AGAIN,
    ASK,
    BETTER,
    HELP_STEER,
    LMSYS,
    TOXIC_CHAT,
    WEBGPT,
    A,
    B,
    Q,
    opener,
    turns,
)

PLAIN = {"prompt": Q, "response": A}
PAIR = {"prompt": Q, "chosen": A, "rejected": B}
KTO = {"prompt": Q, "completion": A}


@pytest.fixture
def rows(tmp_path):
    return opener(tmp_path)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (PLAIN | {"is_safe": False}, "'is_safe' is False: not an answer to learn"),
        (PLAIN | {"is_safe": "no"}, "'is_safe' is 'no'"),
        (PLAIN | {"unsafe": 1}, "'unsafe' is 1"),
        (PLAIN | {"label": "Harmful"}, "'label' is 'Harmful'"),
        (PLAIN | {"response_harm_label": "harmful"}, "'response_harm_label' is 'harmful'"),
        (PLAIN | {"desirable": "false"}, "'desirable' is 'false'"),
        (PLAIN | {"weight": 0.0}, "its weight is 0"),
        (KTO | {"label": False}, "'label' is False"),
        (KTO | {"label": "0"}, "'label' is '0'"),
        (KTO | {"label": "rejected"}, "'label' is 'rejected'"),
        (KTO | {"train": False}, "'train' is False"),
        (PLAIN | {"exclude": True}, "'exclude' is True"),
        ({"messages": turns(ASK, BETTER), "toxic": True}, "'toxic' is True"),
        (TOXIC_CHAT | {"toxicity": 1}, "'toxicity' is 1"),
        (LMSYS | {"openai_moderation": [{"flagged": i == 3} for i in range(4)]},
         "its answer is labelled as one to avoid"),
        (HELP_STEER | {"overall_preference": 0}, "neither answer is preferred"),
        ({"prompt": Q, "chosen": A, "rejected": B, "chosen_unsafe": True, "rejected_unsafe": True},
         "its answer is labelled unsafe"),
        ({"messages": [*turns(ASK), turns(BETTER)[0] | {"weight": 0}]},
         "the weight of every answer is 0"),
    ],
)  # fmt: skip
def test_what_a_row_says_is_not_to_be_learned_is_not(row, why, rows):
    good = {name: value for name, value in row.items() if name in PLAIN or name in KTO}
    source = rows(row, row, options="")
    with pytest.raises(DataError, match="no usable row of 2; expected at least one"):
        read_records(source)
    assert [left.where for left in source.left_out] == ["rows.jsonl line 1", "rows.jsonl line 2"]
    assert all(left.unwanted and left.why.startswith(why) for left in source.left_out)
    if set(good) in (set(PLAIN), set(KTO)):
        source = rows(row, good)
        assert [record.where for record in read_records(source)] == ["rows.jsonl line 2"]


def test_a_prompt_that_its_data_set_withholds_is_left_out(rows):
    withheld = {"prompt": "REDACTED", "response": A, "response_label": "safe"}
    for read in (read_records, read_prompts, read_responses):
        source = rows(withheld, PLAIN)
        assert [record.where for record in read(source)] == ["rows.jsonl line 2"]
        assert source.left_out[0].why == "its prompt is withheld ('REDACTED')"


@pytest.mark.parametrize(
    "more",
    [
        {"is_safe": True}, {"is_safe": None}, {"unsafe": ""}, {"label": "sports"}, {"label": 7},
        {"label": "safe"}, {"weight": 1}, {"toxic": 0}, {"response_harm_label": "unharmful"},
    ],
)  # fmt: skip
def test_other_labels_keep_nothing_out(more, rows):
    assert len(read_records(rows(PLAIN | more))) == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"label": -1}, "'label' is -1, which may mean a good answer or a bad one"),
        ({"label": 1}, "which may mean a good answer or a bad one.*columns=unsafe:label.*without="),
        ({"is_safe": "maybe"}, "'is_safe' is 'maybe'; expected true or false, or add without=is_"),
        ({"toxicity": 0.93}, "'toxicity' is 0.93; expected true or false, or add without=toxicity"),
        ({"weight": 0.5}, "'weight' is 0.5; expected 0 or 1, or add without=weight"),
        ({"is_safe": ["no"]}, r"'is_safe' is \['no'\]"),
    ],
)
def test_labels_that_cannot_be_understood_are_refused(more, message, rows):
    with pytest.raises(DataError, match=message):
        read_records(rows(PLAIN | more))
    (column,) = more
    assert len(read_records(rows(PLAIN | more, options=f"?without={column}"))) == 1


def test_a_label_of_kto_is_true_or_false(rows):
    with pytest.raises(DataError, match="'label' is 'sports'; expected true or false, or add with"):
        read_records(rows(KTO | {"label": "sports"}))


def test_labels_are_for_learning_alone(rows):
    bad = PLAIN | {"is_safe": False}
    assert len(read_responses(rows(bad))) == len(read_prompts(rows(bad))) == 1
    assert not read_labelled(rows(bad))[0].desirable
    for read in (read_pairs, read_labelled):
        pair = {"prompt": Q, "chosen": A, "rejected": B}
        source = rows(pair, pair | {"weight": 0})
        assert len(read(source)) == (1 if read is read_pairs else 2)
        assert source.left_out[0].why == "its weight is 0"


def test_answers_of_weight_0_are_read_and_not_learned(rows):
    """OpenAI's rows: the dialogue goes on behind them, and ends with the last one that counts."""
    bad = {"role": "assistant", "content": B, "weight": 0}
    good = {"role": "assistant", "content": A, "weight": 1}
    ask, again = turns(ASK, AGAIN)
    (first, second) = read_records(
        rows({"messages": [ask, bad, again, good]}, {"messages": [ask, good, again, bad]})
    )
    unlearned = Message("assistant", B, learned=False)
    assert first.messages == (ASK, unlearned, AGAIN, Message("assistant", A))
    assert second.messages == (ASK, BETTER)
    (kept,) = read_prompts(rows({"messages": [ask, good, again, bad]}))
    assert kept.messages == (ASK, BETTER, AGAIN)


@pytest.mark.parametrize(
    ("more", "unsafe"),
    [
        ({}, None),
        ({"chosen_unsafe": False, "rejected_unsafe": True}, (False, True)),
        ({"chosen_safe": True, "rejected_safe": False}, (False, True)),
        ({"chosen_is_safe": "false", "rejected_is_safe": 1}, (True, False)),
        ({"is_chosen_safe": True, "is_rejected_safe": True, "chosen_unsafe": 0,
          "rejected_unsafe": 0}, (False, False)),
    ],
)  # fmt: skip
def test_both_answers_of_a_pair_may_be_called_safe_or_unsafe(more, unsafe, rows):
    (pair,) = read_pairs(rows(PAIR | more))
    assert pair.labels.unsafe == unsafe


@pytest.mark.parametrize(
    ("cell", "kinds"),
    [
        ("", ()),
        ("Theft", ("Theft",)),
        ("{'Theft': True, 'Fraud': False}", ("Theft",)),  # as pandas writes BeaverTails
        ('["Theft", "Fraud"]', ("Fraud", "Theft")),
        ("[1]", ("[1]",)),
    ],
)
def test_cells_of_a_csv_file_have_no_booleans_no_lists_and_no_null(cell, kinds, tmp_path):
    with open(tmp_path / "pairs.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "chosen", "rejected", "chosen_unsafe", "rejected_unsafe",
                         "weight", "category"])  # fmt: skip
        writer.writerow([Q, A, B, "0.0", "1.0", "1.0", cell])
        writer.writerow([Q, A, B, "", "", "", cell])
        writer.writerow([Q, A, B, "", "", "0.0", cell])
    flagged, plain = read_pairs(open_source(str(tmp_path / "pairs.csv")))
    assert (flagged.labels.unsafe, plain.labels.unsafe) == ((False, True), None)
    assert flagged.labels.categories == kinds
    records = read_records(open_source(str(tmp_path / "pairs.csv")))
    assert [record.categories for record in records] == [kinds, kinds]


def test_numbers_of_a_csv_file_are_words(rows):
    """As those of HelpSteer and WebGPT."""
    spelled = {"overall_preference": "2", "context": Q}
    (pair,) = read_pairs(rows(HELP_STEER | spelled))
    assert pair.chosen[0].content == HELP_STEER["response2"]
    (pair,) = read_pairs(rows(WEBGPT | {"score_0": "-0.5", "score_1": "0.5"}))
    assert pair.chosen[0].content == A
    with pytest.raises(DataError, match="'score_1' is 'good'; expected a number"):
        read_pairs(rows(WEBGPT | {"score_1": "good"}))


def test_labels_of_one_answer_or_two_that_differ_are_refused(rows):
    with pytest.raises(DataError, match="'rejected_is_safe' is None; expected true or false"):
        read_pairs(rows(PAIR | {"chosen_is_safe": True}))
    both = {"chosen_safe": True, "rejected_safe": False, "chosen_unsafe": 1, "rejected_unsafe": 0}
    with pytest.raises(DataError, match="chosen_unsafe and chosen_safe contradict each other"):
        read_pairs(rows(PAIR | both))


@pytest.mark.parametrize("form", ["score_{}", "{}_score", "{}-rating", "reward_{}", "{}_reward"])
def test_scores_of_a_pair_agree_with_it(form, rows):
    chosen, rejected = form.format("chosen"), form.format("rejected")
    assert len(read_pairs(rows(PAIR | {chosen: 2, rejected: 1.5}))) == 1
    with pytest.raises(DataError, match="the scores prefer the rejected answer"):
        read_pairs(rows(PAIR | {chosen: 1, rejected: "1.5"}))
