"""Rows to be judged that hold texts alone, as answers to a prompt that the source names."""

import pytest

from safety_jax.base.errors import ConfigError
from safety_jax.judges import inputs
from safety_jax.judges.judge import clusters_of
from tests.set_files import write


def test_texts_alone_are_answers_to_a_prompt_that_is_named(tmp_path):
    rows = [{"test_case": f"text {i}", "functionality": "ab"[i % 2]} for i in range(4)]
    path = write(tmp_path / "hatecheck.jsonl", *rows)
    spec = f"{path}?asked=Write a comment.&columns=response:test_case"
    found, _ = inputs.read([spec], "data.responses", 0)
    assert [item.conversation.question for item in found] == ["Write a comment."] * 4
    assert [item.conversation.response for item in found] == [f"text {i}" for i in range(4)]
    assert [item.row["functionality"] for item in found] == ["a", "b", "a", "b"]
    bare = write(tmp_path / "toxigen.jsonl", *[{"text": f"text {i}", "label": 1} for i in (0, 1)])
    named, _ = inputs.read([f"{bare}?asked=Write a comment.&without=label"], "data.responses", 0)
    assert [item.conversation.response for item in named] == ["text 0", "text 1"]
    # One prompt for all is no cluster.
    assert len(set(clusters_of([item.conversation for item in found]))) == 4
    both = write(tmp_path / "both.jsonl", {"prompt": "Hi", "response": "Ho"})
    with pytest.raises(ConfigError, match="rows have their own prompt; remove asked="):
        inputs.read([f"{both}?asked=Hello"], "data.responses", 0)
