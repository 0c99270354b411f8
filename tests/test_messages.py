"""What the messages of a row may look like, and what is refused: whatever the row's format."""

import json

import pytest

from safety_jax.base.errors import DataError
from safety_jax.data.records import (
    read_pairs,
    read_prompts,
    read_records,
    read_responses,
)
from tests.row_samples import (
    AGAIN,
    ASK,
    BETTER,
    LAST,
    SYSTEM,
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
    "row",
    [
        {"messages": json.dumps(turns(ASK, BETTER))},  # a cell of a CSV file
        {"messages": json.dumps(turns(ASK, BETTER), indent=1)},
        {"conversations": json.dumps([{"from": "human", "value": Q}, {"from": "gpt", "value": A}])},
        {"prompt": json.dumps(turns(ASK)), "completion": json.dumps(turns(BETTER))},
        {"prompt": json.dumps([{"id": 1, "name": None} | turns(ASK)[0]]), "response": A},
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
    "spelled",
    [
        str(turns(BETTER)),
        str([{"id": 1} | turns(BETTER)[0]]),
        '[{"role": "assistant", "role": "user", "content": "a"}]',
    ],
)
def test_messages_spelled_otherwise_are_no_text_to_learn(spelled, rows):
    with pytest.raises(DataError, match="'chosen' spells a list of messages, but not as JSON"):
        read_pairs(rows({"prompt": Q, "chosen": spelled, "rejected": B}))


def test_text_that_only_resembles_messages_is_text(rows):
    for answer in ('[{"name": "a"}]', '["role"]', "[{role: user}]", '[{"id": "user"}]', "[user]"):
        (found,) = read_records(rows({"prompt": Q, "completion": answer}))
        assert found.messages[-1].content == answer


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
    with pytest.raises(DataError, match="'prompt' differs from the prompt with which"):
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


def test_a_transcript_may_have_the_line_ends_of_windows(rows):
    """Such as in a cell that Excel has saved; read as a text, its labels would be learned."""
    asked = f"\r\n\r\nHuman: {Q}\r\n\r\nAssistant:"
    for begin in (0, 2, 4):
        row = {"prompt": asked[begin:], "chosen": A, "rejected": B}
        (found,) = read_pairs(rows(row))
        assert (found.prompt, found.chosen, found.rejected) == ((ASK,), (BETTER,), (WORSE,))
    marked = f"<|im_start|>user\r\n{Q}<|im_end|>\r\n<|im_start|>assistant\r\n{A}<|im_end|>\r\n"
    (found,) = read_records(rows({"text": marked}))
    assert found.messages == (ASK, BETTER)


def test_an_answer_ends_with_the_assistant(rows):
    with pytest.raises(DataError, match="'completion' ends with the user; expected the assistant"):
        read_records(rows({"prompt": Q, "completion": turns(BETTER, AGAIN)}))


@pytest.mark.parametrize("calls", [None, [], "", "[]", "null"])
def test_no_calls_of_tools_are_none_in_any_spelling(calls, rows):
    said = [*turns(ASK), {"role": "assistant", "content": A, "tool_calls": calls}]
    (found,) = read_records(rows({"messages": said}))
    assert found.messages == (ASK, BETTER)


def test_a_thought_stands_before_its_answer(rows):
    said = [*turns(ASK), {"role": "assistant", "content": A, "reasoning_content": " Dark, so …\n"}]
    (found,) = read_records(rows({"messages": said}))
    assert found.messages[-1].content == f"<think>\nDark, so …\n</think>\n\n{A}"


def test_a_thought_in_an_answer_and_in_a_field_is_learned_once(rows):
    """Servers that split thoughts off leave them in the answer, too, or an empty one."""
    for written, learned in (
        (f"<think>Dark.</think>{A}", f"<think>Dark.</think>{A}"),
        (f"<think>\n\n</think>\n\n{A}", f"<think>\nDark.\n</think>\n\n{A}"),
    ):
        said = {"role": "assistant", "content": written, "reasoning": "Dark."}
        (found,) = read_records(rows({"messages": [*turns(ASK), said]}))
        assert found.messages[-1].content == learned
    with pytest.raises(DataError, match="holds a thought, and a field of it holds another one"):
        read_records(
            rows({"messages": [*turns(ASK), said | {"content": "<think>Light.</think>A"}]})
        )


def test_a_system_message_without_text_is_none(rows):
    chatml = f"<|im_start|>system\n<|im_end|>\n<|im_start|>user\n{Q}<|im_end|>\n" + (
        f"<|im_start|>assistant\n{A}<|im_end|>\n"
    )
    for row in (
        {"messages": [{"role": "system", "content": None}, *turns(ASK, BETTER)]},
        {"conversations": [{"from": "system", "value": None}, *turns(ASK, BETTER)]},
        {"text": chatml},
    ):
        (found,) = read_records(rows(row))
        assert found.messages == (ASK, BETTER)
    with pytest.raises(DataError, match="turn 0 of the transcript is empty"):
        read_records(rows({"text": "<|im_start|>system\n<|im_end|>\n"}))


def test_answers_that_were_cut_off_in_the_words_of_other_tools(rows):
    for column, why, cut in (
        ("finish_reason", "MAX_TOKENS", True),
        ("stop_reason", "max_tokens", True),
        ("stop_reason", "end_turn", False),
    ):
        (found,) = read_records(rows({"prompt": Q, "response": A, column: why}))
        assert found.cut is cut


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        ({"role": "assistant", "content": None, "tool_calls": [{"id": "a"}]}, "has tool_calls; no"),
        ({"role": "tool", "content": "12"}, "is the tool's; no template here writes tool calls"),
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


EARLIER = [["Which bird?", "The owl."]]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"instruction": Q, "output": A, "history": EARLIER}, "'history' holds earlier turns"),
        ({"instruction": Q, "output": A, "history": json.dumps(EARLIER)}, "'history' holds"),
        ({"prompt": Q, "response": A, "context": "A wood."},
         "'context' is a text that the format response does not read; put it into the prompt, or "
         "add without=context"),
        ({"instruction": Q, "response": A, "input": "A wood."},
         "'input' is a text that the format dolly does not read; add columns=context:input"),
        ({"instruction": Q, "output": A, "context": "A wood."}, "add columns=input:context"),
        ({"input": Q, "chosen": A, "rejected": B}, "add columns=prompt:input"),
    ],
)  # fmt: skip
def test_what_a_row_is_about_is_not_passed_over(row, message, rows):
    read = read_pairs if "chosen" in row else read_records
    with pytest.raises(DataError, match="rows.jsonl line 1: ") as error:
        read(rows(row))
    assert message in str(error.value)
    column = next(name for name in ("history", "context", "input") if name in row)
    if "chosen" not in row:
        (found,) = read(rows(row, options=f"?without={column}"))
        assert (found.messages, found.context) == ((ASK, BETTER), "")


def test_what_only_looks_like_it_is_passed_over(rows):
    for more in ({"history": []}, {"history": "of birds"}, {"context": " "}, {"input": None}):
        assert len(read_records(rows({"prompt": Q, "response": A, **more}))) == 1


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
