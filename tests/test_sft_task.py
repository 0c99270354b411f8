"""What stage `sft` takes of its sources."""

import dataclasses
import json

import pytest

from configs import sft as sft_config
from safety_jax.base.errors import ConfigError
from safety_jax.data import source_spec, sources
from safety_jax.stages import sft_task

REFUSAL = "I'm sorry, but I can't help with that."


@pytest.fixture
def given(tmp_path):
    """A config, and its source of six safety rows, of which two refuse."""
    rows = [
        {"prompt": f"Ask {i}", "response": REFUSAL if i < 2 else "With pleasure."} for i in range(6)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = sft_config.get_config()
    config.data.safety, config.data.safety_rows = str(path), 2
    config.data.safety_choice = "refusals"
    return config, dataclasses.replace(sources.open_source(str(path)), name=sft_task.SAFETY)


@pytest.mark.parametrize("spec", ["{}", "https://me:secret@host/rows.jsonl", "https://h/a b.jsonl"])
def test_refusals_are_chosen_whatever_the_source_is_shown_as(given, spec):
    config, source = given
    config.data.safety = spec.format(config.data.safety)
    source = dataclasses.replace(source, spec=source_spec.public(config.data.safety))
    found = sft_task.read_rows(config, None, source, [])
    assert [row.messages[-1].content for row in found] == [REFUSAL] * 2
    other = dataclasses.replace(source, name="train")
    assert len(sft_task.read_rows(config, None, other, [])) == 6


@pytest.mark.parametrize("option", ["rows=3", "weight=0.5"])
def test_how_many_safety_rows_is_said_once(given, option):
    config, _ = given
    config.data.safety += f"?{option}"
    with pytest.raises(ConfigError, match=r"data.safety .*number of its rows.*data.safety_rows=2"):
        sft_task.safety_rows(config)


def test_it_is_told_that_no_safety_rows_are_mixed_in(given):
    config, _ = given
    assert sft_task.remarks(config, None, []) == []
    config.data.safety_rows = 0
    assert "data.safety_rows is 0" in sft_task.remarks(config, None, [])[0]
    config.data.safety = ""
    assert sft_task.remarks(config, None, []) == []
