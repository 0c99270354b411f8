"""The benchmark of sweeps (tests/benchmarks/sweep.py): its commands, and its plan by formula."""

import json
from pathlib import Path

import pytest

from safety_jax import command_line
from tests.benchmarks import sweep


def test_eight_adapters_share_what_is_gathered(capsys):
    sweep.plan("llama2-7b", "v5e:4x4", (1, 8))
    alone, together = map(json.loads, capsys.readouterr().out.splitlines()[1:])
    assert together["compute_s"] == alone["compute_s"]
    assert together["network_s"] == pytest.approx(alone["network_s"] / 8, rel=0.02)


@pytest.mark.parametrize("config", ["sft", "sweep"])
def test_its_commands_are_understood(config):
    words = sweep.command(config, ["--config.train.max_steps=24"], Path("runs/x"))
    assert command_line.parse(words[2:]).config.train.max_steps == 24
