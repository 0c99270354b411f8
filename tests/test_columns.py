"""Columns that change what is asked, and columns that are spelled nearly like those that count."""

import pytest

from safety_jax.base.errors import DataError
from safety_jax.data.records import (
    read_pairs,
    read_prompts,
    read_records,
)
from tests.row_samples import (
    ASK,
    BETTER,
    OPENAI,
    A,
    Q,
    opener,
    turns,
)


@pytest.fixture
def rows(tmp_path):
    return opener(tmp_path)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"images": ["a.png"]}, "'images' holds pictures or sounds.*add without=images"),
        ({"image": {"path": "a.png"}}, "'image' holds pictures or sounds"),
        ({"tools": [{"type": "function"}]}, "'tools' offers tools, which.*add without=tools"),
        ({"tools": '[{"type": "function"}]'}, "'tools' offers tools"),
        ({"tools": "[{'type': 'function'}]"}, "'tools' offers tools"),
        ({"history": "[['Hello?', 'Hi.']]"}, "'history' holds earlier turns"),
        ({"system": "Be.", "system_prompt": "Be brief."}, "different system messages in 'system' "),
        ({"documents": [{"text": "A bird."}]}, "'documents' are texts to answer from"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "set data.enable_thinking for all"),
    ],
)
def test_what_changes_a_question_and_is_not_read_is_refused(more, message, rows):
    row = {"messages": turns(ASK, BETTER)} | more
    for read in (read_records, read_prompts):
        with pytest.raises(DataError, match=message):
            read(rows(row))
    column = next(iter(more))
    assert len(read_records(rows(row, options=f"?without={column}"))) == 1
    nested = OPENAI | {"input": OPENAI["input"] | {"tools": [{"type": "function"}]}}
    with pytest.raises(DataError, match="'tools' offers tools"):
        read_pairs(rows(nested))


def test_files_inside_a_row_are_refused_under_any_name(rows):
    picture = {"bytes": "68 bytes", "path": "a.png"}
    for more in ({"figure": picture}, {"pages": [picture, picture]}):
        (column,) = more
        row = {"messages": turns(ASK, BETTER)} | more
        with pytest.raises(DataError, match=f"'{column}' holds pictures.*without={column}"):
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


def test_empty_or_other_values_under_such_names_are_passed_over(rows):
    for more in ({"images": []}, {"images": "[]"}, {"tools": None}, {"tools": "hammer"},
                 {"tools": "[]"}, {"image": ""}, {"chat_template_kwargs": {}}):  # fmt: skip
        assert len(read_records(rows({"messages": turns(ASK, BETTER)} | more))) == 1
