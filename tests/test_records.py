"""Rows of every known format become the same records; unusable ones are refused, or counted."""

import pytest

from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data.messages import Message
from safety_jax.data.records import Pair, Record, read_pairs, read_prompts, read_records
from safety_jax.data.sources import Source

SYSTEM = Message("system", "Be kind.")
ASK, ANSWER = Message("user", "Hello?"), Message("assistant", "Hi.")
AGAIN, LAST = Message("user", "More?"), Message("assistant", "Yes.")
WORSE, SECOND = Message("assistant", "No."), Message("user", "Why?")


def source(*rows, format=None, columns=None, skip=False):
    where = [f"a.jsonl line {i}" for i in range(1, len(rows) + 1)]
    return Source("a.jsonl", "a", rows, where, None, None, format, columns or {}, skip)


def turns(*messages, keys=("role", "content")):
    return [dict(zip(keys, (message.role, message.content), strict=True)) for message in messages]


def transcript(*messages):
    who = {"user": "Human", "assistant": "Assistant"}
    return "".join(f"\n\n{who[message.role]}: {message.content}" for message in messages)


SHAREGPT = [
    {"from": "human", "value": "Hello?"},
    {"from": "gpt", "value": "Hi."},
    {"from": "human", "value": "More?"},
    {"from": "gpt", "value": "Yes."},
]
FOUR = (ASK, ANSWER, AGAIN, LAST)


@pytest.mark.parametrize(
    ("row", "messages", "context"),
    [
        ({"instruction": "Hello?", "output": "Hi."}, (ASK, ANSWER), ""),
        ({"instruction": "Hello?", "input": "", "output": "Hi."}, (ASK, ANSWER), ""),
        ({"instruction": "Hello?", "input": None, "output": "Hi."}, (ASK, ANSWER), ""),
        ({"instruction": "Hello?", "input": "x", "output": "Hi.", "id": 3}, (ASK, ANSWER), "x"),
        ({"instructions": "Hello?", "inputs": "x", "outputs": "Hi."}, (ASK, ANSWER), "x"),
        ({"instruction": "Hello?", "context": "x", "response": "Hi."}, (ASK, ANSWER), "x"),
        ({"prompt": "Hello?", "completion": "Hi."}, (ASK, ANSWER), ""),
        ({"prompt": "Hello?", "response": "Hi."}, (ASK, ANSWER), ""),
        ({"prompt": "Hello?", "label": "Hi.", "id": 1}, (ASK, ANSWER), ""),
        ({"prompt": turns(ASK), "completion": "Hi."}, (ASK, ANSWER), ""),
        ({"messages": turns(SYSTEM, *FOUR)}, (SYSTEM, *FOUR), ""),
        ({"conversations": SHAREGPT}, FOUR, ""),
        ({"conversations": SHAREGPT, "system": "Be kind."}, (SYSTEM, *FOUR), ""),
        ({"messages": turns(SYSTEM, *FOUR), "system": "Other."}, (SYSTEM, *FOUR), ""),
        ({"prompt": "Hello?", "chosen": "Hi.", "rejected": "No."}, (ASK, ANSWER), ""),
        ({"chosen": transcript(*FOUR), "rejected": transcript(ASK, WORSE)}, FOUR, ""),
        ({"text": transcript(*FOUR)}, FOUR, ""),
    ],
)
def test_records_of_every_format(row, messages, context):
    # What a row rejects is told where both answers are one turn.
    rejected = "No." if row.get("rejected") == "No." else ""
    expected = Record(messages, context, "a", "a.jsonl line 1", rejected=rejected)
    assert read_records(source(row)) == [expected]


# As 52,000 rows of Alpaca spell it, and as pandas writes an empty cell.
NONE_SPELLED = (
    *("<noinput>", "< noinput >", "`<noinput>`", "<noinput> 8", "Noinput", "No input", "No Input."),
    *("<no input>", "{\\noinput}", "\\<noinput\\>", "nan"),
)
# A whole field may mean each of these.
MEANT = (
    "N/A",
    "None",
    "none",
    "NaN",
    "Nan",
    "no",
    "No inputs?",
    "No input was given, why?",
    "input",
)


def test_an_input_that_says_there_is_none_is_none():
    for texts, said in ((NONE_SPELLED, [""] * len(NONE_SPELLED)), (MEANT, list(MEANT))):
        rows = [{"instruction": f"{i}?", "input": t, "output": "Hi."} for i, t in enumerate(texts)]
        read = source(*rows)
        assert [record.context for record in read_records(read)] == said
        assert len(read.remarks) == (said[0] == "")
    read = source({"instruction": "a", "context": "No input", "response": "b"})
    assert read_records(read)[0].context == ""
    assert read.remarks[0].startswith("1 rows of a: the input says that there is none")


def test_a_system_message_of_an_empty_cell_is_none():
    row = {"prompt": "a", "response": "b"}
    read = source(row | {"system": "nan"}, row | {"system": ""}, row | {"system": "Be nan."})
    roles = [[message.role for message in record.messages] for record in read_records(read)]
    assert roles == [["user", "assistant"]] * 2 + [["system", "user", "assistant"]]
    assert read.remarks == [
        "1 rows of a: the system message is nan, as pandas writes an empty cell, and is not read"
    ]


def test_answers_that_begin_with_their_questions_are_told():
    """As pipelines write them, unless they are told not to."""
    asked = [f"Name bird number {i}." for i in range(3)]
    echoing = [{"prompt": text, "response": f"{text} The owl."} for text in asked]
    read = source(*echoing)
    assert len(read_records(read)) == 3
    (line,) = read.remarks
    assert line.startswith("warning: every answer of a begins with its question")
    for rows in (echoing[:2], [*echoing, {"prompt": "Another?", "response": "Yes."}]):
        read = source(*rows)
        read_records(read)
        assert read.remarks == []


@pytest.mark.parametrize(
    ("asked", "answer", "told"),
    [
        (
            "### Instruction:\nName bird {}.\n\n### Response:\n",
            "The owl.",
            "every request of a ends",
        ),
        ("[INST] Name bird {}. [/INST]", "The owl.", "every request of a ends"),
        ("USER: Name bird {}.\nAssistant:", "The owl.", "every request of a ends"),
        ("Name bird {}.", "The owl.</s>", "every answer of a ends in the text of an end token"),
        ("Name bird {}.", "The owl.<|im_end|>\n", "every answer of a ends in the text"),
        ("Name bird {}.", "nan", "3 rows of a: the request or the answer is nan, as pandas"),
    ],
)
def test_rows_that_are_worded_already_and_empty_cells_are_told(asked, answer, told):
    rows = [{"prompt": asked.format(i), "response": answer} for i in range(3)]
    read = source(*rows)
    assert len(read_records(read)) == 3
    (line,) = read.remarks
    assert line.startswith(f"warning: {told}")


def test_one_row_that_is_worded_like_a_template_is_none_of_all():
    texts = ("What is a ### Response: header?", "Say Assistant:", "Name a bird.")
    read = source(*({"prompt": text, "response": "The nan.</s>."} for text in texts))
    assert len(read_records(read)) == 3
    assert read.remarks == []


@pytest.mark.parametrize(
    ("row", "prompt", "chosen", "rejected"),
    [
        (
            {"prompt": "Hello?", "chosen": "Hi.", "rejected": "No."},
            (ASK,),
            (ANSWER,),
            (WORSE,),
        ),
        (
            {"prompt": turns(ASK), "chosen": turns(ANSWER), "rejected": turns(WORSE)},
            (ASK,),
            (ANSWER,),
            (WORSE,),
        ),
        (  # the prompt stands in all three columns, as in UltraFeedback
            {"prompt": "Hello?", "chosen": turns(ASK, ANSWER), "rejected": turns(ASK, WORSE)},
            (ASK,),
            (ANSWER,),
            (WORSE,),
        ),
        (
            {"prompt": transcript(ASK, ANSWER, AGAIN) + "\n\nAssistant:", "chosen": "Yes.",
             "rejected": "No."},
            (ASK, ANSWER, AGAIN),
            (LAST,),
            (WORSE,),
        ),
        (
            {"chosen": transcript(*FOUR), "rejected": transcript(ASK, ANSWER, AGAIN, WORSE)},
            (ASK, ANSWER, AGAIN),
            (LAST,),
            (WORSE,),
        ),
        (  # the dialogues part before their last turn
            {"chosen": transcript(*FOUR), "rejected": transcript(ASK, WORSE)},
            (ASK,),
            (ANSWER, AGAIN, LAST),
            (WORSE,),
        ),
        (  # they part at a question, so what is compared begins with the answer before it
            {"chosen": turns(*FOUR), "rejected": turns(ASK, ANSWER, SECOND, WORSE)},
            (ASK,),
            (ANSWER, AGAIN, LAST),
            (ANSWER, SECOND, WORSE),
        ),
    ],
)  # fmt: skip
def test_pairs(row, prompt, chosen, rejected):
    expected = Pair(prompt, chosen, rejected, "", "a", "a.jsonl line 1")
    assert read_pairs(source(row)) == [expected]


@pytest.mark.parametrize(
    ("row", "messages", "context"),
    [
        ({"instructions": "Hello?"}, (ASK,), ""),
        ({"instruction": "Hello?", "input": "x", "output": "Hi."}, (ASK,), "x"),
        ({"prompt": "Hello?", "type": "homonyms"}, (ASK,), ""),
        ({"messages": turns(*FOUR)}, (ASK, ANSWER, AGAIN), ""),
        ({"messages": turns(ASK, ANSWER, AGAIN)}, (ASK, ANSWER, AGAIN), ""),
    ],
)
def test_prompts(row, messages, context):
    assert read_prompts(source(row)) == [Record(messages, context, "a", "a.jsonl line 1")]


def test_text_is_kept_to_the_letter():
    row = {"instruction": " Say\t{input} ", "input": " x\n", "output": "\n a </s>  b "}
    (record,) = read_records(source(row))
    assert [message.content for message in record.messages] == [row["instruction"], row["output"]]
    assert record.context == row["input"]


def test_column_map_comes_first():
    row = {"question": "Hello?", "answer": "Hi.", "output": "unused"}
    mapped = source(row, columns={"instruction": "question", "output": "answer"})
    assert read_records(mapped)[0].messages == (ASK, ANSWER)
    # What was renamed is not found under its own name as well.
    row = {"prompt": "Hello?", "response": "Hi.", "completion": "?"}
    with pytest.raises(DataError, match="they fit completion, response: add format=NAME"):
        read_records(source(row))
    renamed = source(row, columns={"category": "completion"})
    assert read_records(renamed)[0].messages == (ASK, ANSWER)
    # A column of the file that has our name is not what was named.
    row = {"prompt": "Hello?", "response": "old", "said": "Hi."}
    second = {"prompt": "Hello?", "response": "old"}
    mapped = source(row, second, columns={"response": "said"}, skip=True)
    assert [record.messages for record in read_records(mapped)] == [(ASK, ANSWER)]
    with pytest.raises(ConfigError, match="columns=respnse:said: nothing reads a column 'respnse'"):
        read_records(source(row, columns={"respnse": "said"}))


def test_format_can_be_named():
    row = {"instruction": "Hello?", "output": "No.", "response": "Hi."}
    with pytest.raises(DataError, match="they fit alpaca, dolly: add format=NAME"):
        read_records(source(row))
    assert read_records(source(row, format="dolly"))[0].messages == (ASK, ANSWER)
    with pytest.raises(DataError, match="unknown format 'doly'; known are alpaca"):
        read_records(source(row, format="doly"))


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Hello?", "choices": "Hi."},
        {"prompt": "How can I kill a process?", "type": "homonyms", "label": "safe"},
        {"instructions": "Hello?"},
    ],
)
def test_unknown_columns_are_listed(row):
    with pytest.raises(DataError) as error:
        read_records(source(row))
    assert f"a.jsonl line 1: columns found: {', '.join(row)};" in str(error.value)
    assert "alpaca (instruction, output)" in str(error.value)


GOOD = {"instruction": "Hello?", "output": "Hi."}
BAD = [
    ({"instruction": "Hello?", "output": ""}, "'output' is empty"),
    ({"instruction": "Hello?", "output": " \n"}, "'output' is empty"),
    ({"instruction": "Hello?"}, "'output' is missing"),
    ({"instruction": "Hello?", "output": None}, "'output' is null; expected text"),
    ({"instruction": 5, "output": "Hi."}, "'instruction' is int; expected text"),
    ({"instruction": "Hello?", "input": ["x"], "output": "Hi."}, "'input' is list; expected text"),
    ({"instruction": "Hello?", "output": "Hi.", "system": 5}, "'system' is int; expected text"),
]


@pytest.mark.parametrize(("row", "message"), BAD)
def test_bad_rows_are_named(row, message):
    with pytest.raises(DataError) as error:
        read_records(source(GOOD, row))
    assert str(error.value).startswith(f"a.jsonl line 2: {message} (read as alpaca)")
    assert "bad_rows=skip" in str(error.value) and "\n" not in str(error.value)


def test_bad_rows_can_be_skipped():
    rows = [GOOD, *(row for row, _ in BAD), GOOD]
    records = read_records(source(*rows, skip=True))
    assert [record.where for record in records] == ["a.jsonl line 1", "a.jsonl line 9"]
    with pytest.raises(DataError, match="no usable row of 1"):
        read_records(source(BAD[0][0], skip=True))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": []}, "'messages' is empty"),
        ({"messages": [["Hello?"]]}, "messages[0] is list; expected role and content"),
        ({"messages": turns(ASK, Message("assistant", " "))}, "messages[1]: 'content' is empty"),
        (
            {"messages": turns(ASK, Message("tool", "5"))},
            "messages[1]: is the tool's; no template here",
        ),
        ({"messages": turns(ASK, Message("critic", "5"))}, "messages[1]: unknown role 'critic'"),
        ({"messages": turns(ASK, AGAIN, ANSWER)}, "turn 1 is the user's; expected the assistant's"),
        ({"messages": turns(ANSWER, ASK, LAST)}, "turn 0 is the assistant's; expected the user's"),
        ({"messages": turns(ASK)}, "the last turn is the user's; expected the assistant's"),
        ({"messages": turns(ASK, SYSTEM, ANSWER)}, "turn 1 is the system's"),
        ({"conversations": [{"from": "human"}]}, "conversations[0]: 'value' is missing"),
        ({"text": "Human: Hello? Assistant: Hi."}, "'text' does not begin with"),
        ({"text": transcript(ASK, ANSWER, AGAIN)}, "the last turn is the user's"),
        ({"text": "\n\nHuman:\n\nAssistant: Hi."}, "turn 0 of the transcript is empty"),
        (
            {"chosen": transcript(ASK) + "\n\nAssistant:", "rejected": transcript(ASK, WORSE)},
            "no answer to learn",
        ),
        (
            {"chosen": transcript(ASK, ANSWER), "rejected": transcript(AGAIN, WORSE)},
            "share no prompt",
        ),
    ],
)
def test_bad_dialogues(row, message):
    with pytest.raises(DataError) as error:
        read_records(source(row))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (GOOD, "no rejected answer"),
        ({"prompt": "Hello?", "chosen": "Hi.", "rejected": "Hi."}, "chosen and rejected are equal"),
        (
            {
                "prompt": "Hello?",
                "chosen": "Hi.",
                "rejected": "Hi.",
                "rejected_finish_reason": "length",
            },
            "chosen and rejected are equal",
        ),
        ({"prompt": "Hello?", "chosen": "Hi.", "rejected": ""}, "'rejected' is empty"),
        (
            {"prompt": "Hello?", "chosen": "Hi.", "rejected": turns(WORSE, WORSE)},
            "turn 2 is the assistant's",
        ),
    ],
)
def test_bad_pairs(row, message):
    with pytest.raises(DataError) as error:
        read_pairs(source(row))
    assert message in str(error.value)
