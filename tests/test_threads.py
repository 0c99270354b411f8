"""Trees of messages, as OpenAssistant writes them, become dialogues."""

import pytest

from safety_jax.base.errors import DataError
from safety_jax.data.messages import Message
from safety_jax.data.records import read_prompts, read_records
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
