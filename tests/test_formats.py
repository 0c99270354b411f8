"""Rows of published sets, in their columns and our words; trees of messages."""

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
    WORSE,
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


@pytest.mark.parametrize(
    ("row", "prompt", "chosen"),
    [
        (ULTRA_FEEDBACK, (ASK,), BETTER),
        (ORCA_DPO, (SYSTEM, ASK), BETTER),
        (OPENAI, (SYSTEM, ASK), BETTER),
        (HELP_STEER, (ASK, BETTER, AGAIN), LAST),
        (HELP_STEER | {"response1": B, "response2": LAST.content, "overall_preference": 1},
         (ASK, BETTER, AGAIN), LAST),
    ],
)  # fmt: skip
def test_a_preferred_answer(row, prompt, chosen, rows):
    (found,) = read_pairs(rows(row))
    assert (found.prompt, found.chosen, found.rejected) == (prompt, (chosen,), (WORSE,))


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


# ---------------------------------------------------------------------------- trees


def message(number, parent, text, role="assistant", rank=None, **others):
    return {"message_id": number, "parent_id": parent, "text": text, "role": role, "rank": rank,
            "deleted": False, "review_result": True, **others}  # fmt: skip


def test_trees_of_messages_become_dialogues(rows):
    source = rows(
        message("a", None, Q, "prompter"),
        message("b", "a", B, rank=1),
        message("e", "d", LAST.content, rank=0),  # before what it answers
        message("c", "a", A, rank=0),
        message("x", "a", "Hidden.", rank=-1, deleted=True),
        message("y", "a", "Spam.", rank=-1, review_result=False),
        message("d", "c", AGAIN.content, "prompter", rank=0),
        message("f", "e", "Thanks!", "prompter"),
        message("g", None, "Who?", "prompter"),
        message("h", "g", "I.", rank=None),
    )
    found = read_records(source)
    assert [record.messages for record in found] == [
        (ASK, BETTER, AGAIN, LAST),
        (Message("user", "Who?"), Message("assistant", "I.")),
    ]
    assert [record.where for record in found] == ["rows.jsonl line 1", "rows.jsonl line 9"]
    assert [len(record.messages) for record in read_prompts(source)] == [3, 1]


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ([message("a", None, Q, "prompter")], "no answer in the tree"),
        ([message("a", "a", Q, "prompter")], "no message without a parent"),
        ([message("a", None, Q, "prompter"), message("b", "a", A, "judge")], "'role' is 'judge'"),
        ([message(["a"], None, 5, {}), message({}, "['a']", A)], "'role' is {}"),
    ],
)
def test_broken_trees(found, reason, rows):
    with pytest.raises(DataError, match=reason):
        read_records(rows(*found))
