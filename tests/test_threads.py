"""Trees of messages, as OpenAssistant writes them, become dialogues."""

import pytest

from safety_jax.base.errors import DataError
from safety_jax.data.messages import Message
from safety_jax.data.records import read_prompts, read_records
from safety_jax.data.sources import open_source
from tests.row_samples import AGAIN, ASK, BETTER, LAST, A, B, Q, opener


@pytest.fixture
def rows(tmp_path):
    return opener(tmp_path)


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


def test_trees_in_a_csv_file_have_words_for_flags_and_numbers(tmp_path):
    (tmp_path / "trees.csv").write_text(
        "message_id,parent_id,text,role,rank,deleted,review_result\n"
        f"a,,{Q},prompter,,False,True\n"
        f"b,a,{B},assistant,10.0,False,True\n"
        f"c,a,{A},assistant,2.0,False,\n"
        "x,a,Hidden.,assistant,0.0,True,True\n"
        "y,a,Spam.,assistant,1.0,False,False\n"
    )
    (record,) = read_records(open_source(str(tmp_path / "trees.csv")))
    assert record.messages == (ASK, BETTER)


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
