"""Data as it lies around: rows of published sets, in their columns and our words."""

import json

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

ASK, BETTER, WORSE = (
    Message("user", "Which bird sings at night?"),
    Message("assistant", "The nightingale."),
    Message("assistant", "Birds."),
)
AGAIN, LAST = Message("user", "And by day?"), Message("assistant", "The blackbird.")
SYSTEM = Message("system", "You know birds.")
Q, A, B = ASK.content, BETTER.content, WORSE.content


def turns(*messages):
    return [{"role": message.role, "content": message.content} for message in messages]


def parts(text):
    return [{"type": "text", "text": text[:5]}, {"type": "text", "text": text[5:]}]


@pytest.fixture
def rows(tmp_path):
    """A function that writes rows and opens them."""

    def opened(*found, options=""):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in found))
        return open_source(f"{path}{options}")

    return opened


ULTRA_FEEDBACK = {
    "prompt": Q, "prompt_id": "7", "chosen": turns(ASK, BETTER), "rejected": turns(ASK, WORSE),
    "messages": turns(ASK, BETTER), "score_chosen": 8.0, "score_rejected": 2.0,
}  # fmt: skip
ORCA_DPO = {"system": "You know birds.", "question": Q, "chosen": A, "rejected": B}
OPENAI = {
    "input": {"messages": turns(SYSTEM, ASK), "tools": [], "parallel_tool_calls": True},
    "preferred_output": turns(BETTER), "non_preferred_output": turns(WORSE),
}  # fmt: skip
HELP_STEER = {
    "domain": "general", "language": "english", "context": turns(ASK, BETTER, AGAIN),
    "response1": LAST.content, "response2": B, "overall_preference": -2,
    "individual_preference": [{"score": -2, "reasoning": "more exact"}],
}  # fmt: skip
OPEN_ORCA = {"id": "1", "system_prompt": "You know birds.", "question": Q, "response": A}
SLIM_ORCA = {
    "conversations": [
        {"from": "system", "value": "You know birds.", "weight": None},
        {"from": "human", "value": Q, "weight": 0.0},
        {"from": "gpt", "value": A, "weight": 1.0},
    ]
}
TOXIC_CHAT = {
    "conv_id": "a", "user_input": Q, "model_output": A, "human_annotation": True, "toxicity": 0,
    "jailbreaking": 0, "openai_moderation": "[]",
}  # fmt: skip
LMSYS = {
    "conversation_id": "a", "model": "m", "conversation": turns(ASK, BETTER, AGAIN, LAST),
    "turn": 2, "language": "English", "openai_moderation": [{"flagged": False}] * 4,
    "redacted": False,
}  # fmt: skip
WILD = {"vanilla": "Which?", "adversarial": Q, "completion": A, "data_type": "adversarial_benign"}
OASST_TREE = {
    "message_tree_id": "1", "tree_state": "ready_for_export",
    "prompt": {
        "message_id": "1", "text": Q, "role": "prompter",
        "replies": [
            {"text": B, "role": "assistant", "rank": 1, "replies": []},
            {"text": A, "role": "assistant", "rank": 0, "replies": [
                {"text": AGAIN.content, "role": "prompter", "rank": None, "replies": []}]},
            {"text": "Bad.", "role": "assistant", "rank": None, "deleted": True, "replies": []},
        ],
    },
}  # fmt: skip


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


@pytest.mark.parametrize(
    "row",
    [
        {"messages": json.dumps(turns(ASK, BETTER))},  # a cell of a CSV file
        {"messages": json.dumps(turns(ASK, BETTER), indent=1)},
        {"conversations": json.dumps([{"from": "human", "value": Q}, {"from": "gpt", "value": A}])},
        {"prompt": json.dumps(turns(ASK)), "completion": json.dumps(turns(BETTER))},
        {"prompt": Q, "completion": turns(BETTER)[0]},
        {"prompt": turns(ASK)[0], "response": A},
    ],
)
def test_messages_spelled_as_json_or_alone(row, rows):
    (found,) = read_records(rows(row))
    assert found.messages == (ASK, BETTER)


def test_pairs_of_messages_spelled_as_json_or_alone(rows):
    for spell in (json.dumps, lambda one: one[0]):
        row = {"prompt": Q, "chosen": spell(turns(BETTER)), "rejected": spell(turns(WORSE))}
        (found,) = read_pairs(rows(row))
        assert (found.prompt, found.chosen, found.rejected) == ((ASK,), (BETTER,), (WORSE,))


@pytest.mark.parametrize(
    "spelled", [str(turns(BETTER)), '[{"role": "assistant", "role": "user", "content": "a"}]']
)
def test_messages_spelled_otherwise_are_no_text_to_learn(spelled, rows):
    with pytest.raises(DataError, match="'chosen' spells a list of messages, but not as JSON"):
        read_pairs(rows({"prompt": Q, "chosen": spelled, "rejected": B}))


def test_text_that_only_resembles_messages_is_text(rows):
    for answer in ('[{"name": "a"}]', '["role"]', "[{role: user}]"):
        (found,) = read_records(rows({"prompt": Q, "completion": answer}))
        assert found.messages[-1].content == answer


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"images": ["a.png"]}, "'images' is something to see or hear.*add without=images"),
        ({"image": {"path": "a.png"}}, "'image' is something to see or hear"),
        ({"tools": [{"type": "function"}]}, "'tools' offers tools, which.*add without=tools"),
        ({"tools": '[{"type": "function"}]'}, "'tools' offers tools"),
        ({"documents": [{"text": "A bird."}]}, "'documents' are texts to answer from"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "set data.enable_thinking for all"),
    ],
)
def test_what_changes_a_question_and_is_not_read_is_refused(more, message, rows):
    row = {"messages": turns(ASK, BETTER)} | more
    for read in (read_records, read_prompts):
        with pytest.raises(DataError, match=message):
            read(rows(row))
    (column,) = more
    assert len(read_records(rows(row, options=f"?without={column}"))) == 1
    nested = OPENAI | {"input": OPENAI["input"] | {"tools": [{"type": "function"}]}}
    with pytest.raises(DataError, match="'tools' offers tools"):
        read_pairs(rows(nested))


def test_files_inside_a_row_are_refused_under_any_name(rows):
    picture = {"bytes": "68 bytes", "path": "a.png"}
    for more in ({"figure": picture}, {"pages": [picture, picture]}):
        (column,) = more
        row = {"messages": turns(ASK, BETTER)} | more
        with pytest.raises(DataError, match=f"'{column}' is something to see.*without={column}"):
            read_records(rows(row))
        assert len(read_records(rows(row, options=f"?without={column}"))) == 1
    assert len(read_records(rows({"prompt": Q, "response": A, "size": {"bytes": 4}}))) == 1


@pytest.mark.parametrize(
    ("row", "column", "ours"),
    [
        ({"instruction": Q, "Input": "birds", "output": A}, "Input", "input"),
        ({"prompt": Q, "response": A, "System Prompt": "Be."}, "System Prompt", "system_prompt"),
        ({"prompt": Q, "response": A, "Is Safe": False}, "Is Safe", "is_safe"),
        ({"prompt": Q, "response": A, "isSafe": False}, "isSafe", "is_safe"),
        ({"prompt": Q, "completion": A, " label": False}, " label", "label"),
    ],
)
def test_a_column_that_is_nearly_one_that_counts_is_not_passed_over(row, column, ours, rows):
    with pytest.raises(DataError, match=f"column {column!r} is not read, and {ours!r} would be"):
        read_records(rows({"prompt": Q, "response": A} if "prompt" in row else
                          {"instruction": Q, "output": A}, row))  # fmt: skip
    assert len(read_records(rows(row, options=f"?without={column}"))) == 1
    renamed = rows(row, options=f"?columns={ours}:{column}")
    if row[column] is False:
        with pytest.raises(DataError, match="no usable row"):
            read_records(renamed)
    else:
        (found,) = read_records(renamed)
        assert row[column] in (found.context, found.messages[0].content)


def test_verdicts_that_do_not_count_and_other_columns_may_have_any_spelling(rows):
    row = {"prompt": Q, "response": A, "Is Safe": False, "Category": "birds", "Context": "x"}
    assert len(read_prompts(rows(row))) == 1
    both = {"prompt": Q, "response": A, "label": "x", "Label": "y"}
    assert len(read_records(rows(both))) == 1


def test_tools_under_another_spelling_are_refused_too(rows):
    row = {"messages": turns(ASK, BETTER), "Tools": [{"type": "function"}]}
    with pytest.raises(DataError, match="'Tools' is not read.*; add without=Tools to the source"):
        read_records(rows(row))


def test_columns_that_are_nearly_those_of_a_format_are_named(rows):
    row = {"Prompt": Q, "Response ": A}
    with pytest.raises(DataError, match="'Response '; add columns=prompt:Prompt,response:Respon"):
        read_records(rows(row))
    (found,) = read_records(rows(row, options="?columns=prompt:Prompt,response:Response "))
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


def test_an_answer_is_one_text(rows):
    """As turns, the first of several answers would be the user's."""
    for said in ([A], [A, B], [A, B, A]):
        with pytest.raises(DataError, match="'response' is a list of . texts; expected one text"):
            read_responses(rows({"prompt": Q, "response": said}))
        with pytest.raises(DataError, match="'chosen' is a list of . texts; expected one text"):
            read_pairs(rows({"prompt": Q, "chosen": said, "rejected": B}))
    (found,) = read_prompts(rows({"conversations": [Q]}))
    assert found.messages == (ASK,)


def test_an_answer_of_a_pair_ends_with_the_assistant(rows):
    longer = turns(ASK, BETTER, AGAIN)
    for chosen, rejected in ((longer, turns(ASK, WORSE)), (turns(ASK, BETTER), longer)):
        with pytest.raises(DataError, match="an answer ends with the user; expected the assistant"):
            read_pairs(rows({"chosen": chosen, "rejected": rejected}))


def test_empty_or_other_values_under_such_names_are_passed_over(rows):
    for more in ({"images": []}, {"tools": None}, {"tools": "hammer"}, {"tools": "[]"},
                 {"image": ""}, {"chat_template_kwargs": {}}):  # fmt: skip
        assert len(read_records(rows({"messages": turns(ASK, BETTER)} | more))) == 1


@pytest.mark.parametrize(
    "prompt",
    [Q, f" {Q}\n", turns(ASK), turns(AGAIN, ASK), f"{Q}\n{A}\n{AGAIN.content}", "", None],
)
def test_a_prompt_beside_whole_dialogues_repeats_what_they_begin_with(prompt, rows):
    both = {"chosen": turns(AGAIN, LAST, ASK, BETTER), "rejected": turns(AGAIN, LAST, ASK, WORSE)}
    (found,) = read_pairs(rows({"prompt": prompt} | both))
    assert found.prompt == (AGAIN, LAST, ASK)


@pytest.mark.parametrize("prompt", ["Another question?", turns(SYSTEM, ASK), turns(LAST)])
def test_a_prompt_that_says_something_else_is_refused(prompt, rows):
    both = {"chosen": turns(ASK, BETTER), "rejected": turns(ASK, WORSE)}
    with pytest.raises(DataError, match="'prompt' says what chosen and rejected, which are whole"):
        read_pairs(rows({"prompt": prompt} | both))
    (found,) = read_pairs(rows({"prompt": prompt} | both, options="?without=prompt"))
    assert found.prompt == (ASK,)


def test_a_transcript_may_lack_the_blank_lines_in_front(rows):
    asked, said = f"Human: {Q}\n\nAssistant:", "\n\nHuman: {}\n\nAssistant: {}"
    for begin in (0, 2):
        row = {"chosen": said.format(Q, A)[begin:], "rejected": said.format(Q, B)[begin:]}
        (found,) = read_pairs(rows(row))
        assert (found.prompt, found.chosen, found.rejected) == ((ASK,), (BETTER,), (WORSE,))
    (found,) = read_records(rows({"prompt": asked, "completion": A}))
    assert found.messages == (ASK, BETTER)


def test_an_answer_ends_with_the_assistant(rows):
    with pytest.raises(DataError, match="'completion' ends with the user; expected the assistant"):
        read_records(rows({"prompt": Q, "completion": turns(BETTER, AGAIN)}))


def test_a_thought_stands_before_its_answer(rows):
    said = [*turns(ASK), {"role": "assistant", "content": A, "reasoning_content": " Dark, so …\n"}]
    (found,) = read_records(rows({"messages": said}))
    assert found.messages[-1].content == f"<think>\nDark, so …\n</think>\n\n{A}"


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        ({"role": "assistant", "content": None, "tool_calls": [{"id": "a"}]}, "has tool_calls; no"),
        ({"role": "tool", "content": "12"}, "is the tool's; no template here writes calls of"),
        ({"from": "observation", "value": "12"}, "is the observation's; no template"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]},
         "'content' has a part of the type 'image_url'; expected text alone"),
        ({"role": "user", "content": [{"type": "image", "text": ""}, *parts(Q)]},
         "'content' has a part of the type 'image'; expected text alone"),
        ({"role": "assistant", "content": A, "thinking": [{"text": "Dark."}]},
         "its thought is list; expected text in reasoning_content, reasoning, thinking"),
        ({"role": ["user"], "content": Q}, "'role' is list; expected text"),
        ({"role": "assistant", "content": {"a": 1}}, "'content' is dict; expected text"),
        ({"role": "assistant", "content": A, "weight": 0.5}, "'weight' is 0.5; expected 0 or 1"),
        ({"role": "assistant", "content": A, "weight": [1]}, "'weight' is [1]; expected 0 or 1"),
    ],
)  # fmt: skip
def test_turns_that_have_no_place(turn, message, rows):
    good = {"messages": turns(ASK, BETTER)}
    bad = {"messages": [*turns(ASK), turn]}
    with pytest.raises(DataError) as error:
        read_records(rows(good, bad))
    assert str(error.value).startswith(f"rows.jsonl line 2: messages[1]: {message}")
    source = rows(good, bad, options="?bad_rows=skip")
    assert len(read_records(source)) == 1 and not source.left_out[0].unwanted


def test_both_answers_of_any_pair_to_learn_and_to_avoid(rows):
    for row in (ULTRA_FEEDBACK, ORCA_DPO, OPENAI, HELP_STEER):
        better, worse = read_labelled(rows(row))
        assert better.desirable and not worse.desirable and worse.answer == (WORSE,)


def test_a_dialogue_of_an_empty_system_message_is_none(rows):
    with pytest.raises(DataError, match="'messages' holds an empty system message and nothing"):
        read_records(rows({"messages": [{"role": "system", "content": ""}]}))


def test_a_row_that_no_model_could_read_is_refused(rows):
    long = {"prompt": Q, "response": "x" * 2_000_000}
    with pytest.raises(DataError, match="line 1: has 2,000,026 characters; expected at most 2,000"):
        read_records(rows(long))
    assert (
        len(read_records(rows(long, {"prompt": Q, "response": A}, options="?bad_rows=skip"))) == 1
    )


def test_rows_are_read_in_a_moment_whatever_their_shape(rows):
    many = {"conversations": ["Yes?", "Yes."] * 501}
    with pytest.raises(DataError, match="line 1: has 1,002 turns; expected at most 1,000"):
        read_records(rows(many))
    blank = "### Human: a" + " " * 500_000 + "### Assistant: b"
    assert len(read_records(rows({"text": blank}))) == 1


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


# ---------------------------------------------------------------------------- not to be learned

PLAIN = {"prompt": Q, "response": A}
KTO = {"prompt": Q, "completion": A}


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
