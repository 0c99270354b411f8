"""Rows of published sets, in their columns and our words; how their formats are recognised."""

import pytest

from safety_jax.base.errors import DataError
from safety_jax.data.formats import catalogue, verdicts
from safety_jax.data.records import (
    read_prompts,
    read_records,
    read_responses,
)
from tests.row_samples import (
    AGAIN,
    ASK,
    BETTER,
    HELP_STEER,
    LAST,
    LMSYS,
    OASST_TREE,
    OPEN_ORCA,
    OPENAI,
    ORCA_DPO,
    SLIM_ORCA,
    SYSTEM,
    TOXIC_CHAT,
    ULTRA_FEEDBACK,
    WILD,
    A,
    B,
    Q,
    opener,
    parts,
    turns,
)


@pytest.fixture
def rows(tmp_path):
    return opener(tmp_path)


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        (ULTRA_FEEDBACK, (ASK, BETTER)),
        (ORCA_DPO, (SYSTEM, ASK, BETTER)),
        (ORCA_DPO | {"system": ""}, (ASK, BETTER)),
        (ORCA_DPO | {"system": " "}, (ASK, BETTER)),
        (OPENAI, (SYSTEM, ASK, BETTER)),
        (HELP_STEER, (ASK, BETTER, AGAIN, LAST)),
        (OPEN_ORCA, (SYSTEM, ASK, BETTER)),
        (SLIM_ORCA, (SYSTEM, ASK, BETTER)),
        (TOXIC_CHAT, (ASK, BETTER)),
        (LMSYS, (ASK, BETTER, AGAIN, LAST)),
        (WILD, (ASK, BETTER)),
        (WILD | {"vanilla": Q, "adversarial": ""}, (ASK, BETTER)),
        (OASST_TREE, (ASK, BETTER)),
        ({"conversations": [Q, A], "source": "forum"}, (ASK, BETTER)),  # LIMA
        # tatsu-lab/alpaca says all of it again in a column of its own
        ({"instruction": Q, "input": "", "output": A, "text": f"### {Q}\n{A}"}, (ASK, BETTER)),
        ({"prompt": turns(SYSTEM, ASK), "completion": turns(BETTER)}, (SYSTEM, ASK, BETTER)),
        ({"messages": [{"role": "system", "content": ""}, *turns(ASK, BETTER)]}, (ASK, BETTER)),
        ({"messages": [{"role": "developer", "content": "You know birds."}, *turns(ASK, BETTER)]},
         (SYSTEM, ASK, BETTER)),
        ({"messages": [{"role": "user", "content": parts(Q)},
                       {"role": "assistant", "content": parts(A)}]}, (ASK, BETTER)),
        ({"messages": [*turns(ASK), {"role": "assistant", "content": None, "refusal": A}]},
         (ASK, BETTER)),
        ({"text": f"### Human: {Q}### Assistant: {A}### Human: {AGAIN.content}### Assistant: "
                  f"{LAST.content}"}, (ASK, BETTER, AGAIN, LAST)),
        ({"text": f"<|im_start|>system\n{SYSTEM.content}<|im_end|>\n<|im_start|>user\n{Q}<|im_end|>"
                  f"\n<|im_start|>assistant\n{A}<|im_end|>\n"}, (SYSTEM, ASK, BETTER)),
    ],
)  # fmt: skip
def test_an_answer_to_learn(row, messages, rows):
    (found,) = read_records(rows(row))
    assert found.messages == messages and found.where == "rows.jsonl line 1"


DO_NOT_ANSWER = {"id": 1, "risk_area": "birds", "types_of_harm": "none", "question": Q,
                 "GPT4_response": A, "GPT4_harmful": 0}  # fmt: skip


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        (ULTRA_FEEDBACK, (ASK,)),
        (ORCA_DPO, (SYSTEM, ASK)),
        (OPENAI, (SYSTEM, ASK)),
        (HELP_STEER, (ASK, BETTER, AGAIN)),
        (OPEN_ORCA, (SYSTEM, ASK)),
        (TOXIC_CHAT, (ASK,)),
        (LMSYS, (ASK, BETTER, AGAIN)),
        (WILD, (ASK,)),
        ({"adversarial": Q, "label": 1, "data_type": "adversarial_harmful"}, (ASK,)),
        ({"vanilla": Q, "adversarial": "nan", "completion": A}, (ASK,)),
        ({"vanilla": Q, "adversarial": " "}, (ASK,)),
        (DO_NOT_ANSWER, (ASK,)),
        (OASST_TREE, (ASK,)),
        ({"chosen": f"\n\nHuman: {Q}\n\nAssistant: {A}",
          "rejected": f"\n\nHuman: {Q}\n\nAssistant: {B}"}, (ASK,)),
        ({"text": f"\n\nHuman: {Q}\n\nAssistant: {A}"}, (ASK,)),
    ],
)  # fmt: skip
def test_a_prompt(row, messages, rows):
    assert [record.messages for record in read_prompts(rows(row))] == [messages]


def test_answers_to_judge(rows):
    for row in (OPEN_ORCA, TOXIC_CHAT, LMSYS, WILD, SLIM_ORCA):
        (found,) = read_responses(rows(row))
        assert found.messages[-1].role == "assistant"
    (found,) = read_responses(rows(TOXIC_CHAT | {"model_output": ""}))
    assert found.messages[-1].content == ""
    # One of the columns of answers has to be named.
    with pytest.raises(DataError, match="columns found: id, risk_area.*add columns=ours:theirs"):
        read_responses(rows(DO_NOT_ANSWER))
    named = "?columns=prompt:question,response:GPT4_response"
    (found,) = read_responses(rows(DO_NOT_ANSWER, options=named))
    assert found.messages == (ASK, BETTER)


def test_what_dollys_rows_are_about_belongs_to_their_prompts(rows):
    (found,) = read_prompts(rows({"instruction": Q, "context": "A forest.", "response": A}))
    assert (found.messages, found.context) == ((ASK,), "A forest.")
    (found,) = read_prompts(rows({"instruction": Q, "input": "", "context": "x", "output": A}))
    assert found.context == ""


def test_an_input_of_spaces_is_none(rows):
    (found,) = read_records(rows({"instruction": Q, "input": " \n", "output": A}))
    assert found.context == ""


# ---------------------------------------------------------------------------- recognition


def names(row, formats=catalogue.FORMATS):
    return [known.name for known in catalogue.fitting(row, formats)]


def test_a_row_is_recognised_by_its_columns():
    assert names(OPENAI) == ["openai_preference"]
    assert names({"instruction": Q, "output": A, "id": 1}) == ["alpaca"]
    assert names({"prompt": Q, "label": "safe", "id": 1}) == ["label"]
    assert names({"prompt": Q, "label": "safe", "type": "homonyms"}) == []


def test_the_format_that_explains_more_columns_wins():
    assert names({"chosen": A, "rejected": B}) == ["implicit_preference"]
    assert names({"prompt": Q, "chosen": A, "rejected": B}) == ["preference"]
    assert names(ULTRA_FEEDBACK) == ["ultra_feedback"]


def test_a_format_that_yields_counts_alone():
    text = f"\n\nHuman: {Q}\n\nAssistant: {A}"
    assert names({"text": text}) == ["transcript"]
    assert names({"text": text, "prompt": Q, "response": A}) == ["response"]


@pytest.mark.parametrize(
    "formats",
    [
        catalogue.FORMATS,
        catalogue.PROMPTS,
        catalogue.RESPONSES,
        verdicts.RATINGS,
        verdicts.LABELS,
        verdicts.DESIRABLE,
    ],
)
def test_format_names_one_format(formats):
    assert len({known.name for known in formats}) == len(formats)
