"""Killed at any moment and started again, a run ends with the bits of an uninterrupted one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from test_dpo import configure as configure_dpo
from test_dpo import write_pairs
from test_end_to_end import configure, inputs  # noqa: F401
from test_raft import assert_same as assert_same_rounds
from test_raft import configure as configure_raft
from test_raft import given  # noqa: F401
from test_reward import answers  # noqa: F401
from test_reward import configure as configure_reward

from safety_jax.training import metrics, progress, reference

ROOT = Path(__file__).parent.parent
STEPS = 14


@pytest.fixture(scope="module")
def command(inputs, tmp_path_factory):  # noqa: F811
    """The run as a command; programs are compiled once for all starts."""
    cache = tmp_path_factory.mktemp("compiled")
    config = configure(
        inputs,
        lora__dropout=0.1,
        train__max_steps=STEPS,
        checkpoint__every_steps=2,
        log__compilation_cache=str(cache),
    )
    return command_of(config)


def command_of(config) -> list[str]:
    flags = [
        f"--config.{key}={value}"
        for key, value in json.loads(config.to_json_best_effort()).items()
        if not isinstance(value, dict)
    ]
    for group, values in config.to_dict().items():
        if isinstance(values, dict):
            flags += [
                f"--config.{group}.{key}={value}"
                for key, value in values.items()
                if not isinstance(value, dict)
            ]
    flags = [flag for flag in flags if "protocol_notes" not in flag and "stage" not in flag]
    file = f"--config=configs/{config.stage}.py"
    return [sys.executable, "-m", "safety_jax.main", file, *flags]


def start(command: list[str], folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [*command, f"--workdir={folder}"], cwd=ROOT, stderr=subprocess.PIPE, text=True,
        stdout=subprocess.DEVNULL, env=os.environ,
    )  # fmt: skip


def finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


def wait_for_step(process: subprocess.Popen, folder: Path, step: int) -> None:
    """Returns once the step is in the metrics: a moment somewhere behind it, often in a save."""
    file = folder / "metrics.jsonl"
    until = time.monotonic() + 240
    while time.monotonic() < until and process.poll() is None:
        if file.exists() and any(row["step"] >= step for row in metrics.read(file)):
            return
        time.sleep(0.002)
    raise AssertionError(f"step {step} was not seen: {process.communicate()[1]}")


@pytest.fixture(scope="module")
def uninterrupted(command, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    finish(start(command, folder))
    return folder


def assert_same(
    folder: Path,
    expected: Path,
    evaluations: bool = True,
    weights: str = "adapter_model.safetensors",
) -> None:
    found, known = (load_file(f / "export" / weights) for f in (folder, expected))
    assert found.keys() == known.keys()
    for name in known:
        np.testing.assert_array_equal(found[name], known[name], err_msg=name)
    rows = [
        [
            {key: value for key, value in row.items() if key not in progress.TIMING}
            for row in metrics.read(f / "metrics.jsonl")
            if evaluations or "loss" in row
        ]
        for f in (folder, expected)
    ]
    assert rows[0] == rows[1]


@pytest.mark.slow
def test_killed_twice_and_started_again(command, uninterrupted, tmp_path):
    folder = tmp_path / "run"
    for step in (3, 8):
        process = start(command, folder)
        wait_for_step(process, folder, step)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not (folder / "export").exists()
    finish(start(command, folder))
    assert_same(folder, uninterrupted)


@pytest.mark.slow
def test_sigterm_saves_and_ends_cleanly(command, uninterrupted, tmp_path):
    folder = tmp_path / "run"
    process = start(command, folder)
    wait_for_step(process, folder, 3)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert "run the same command to go on" in errors
    finish(start(command, folder))
    # The stop does not wait for an evaluation that was due at its step.
    assert_same(folder, uninterrupted, evaluations=False)


@pytest.mark.slow
def test_a_second_start_compiles_nothing(command, uninterrupted, tmp_path):
    """Of the programs that the first start kept, the second one takes every one it needs."""
    finish(start(command, tmp_path / "run"))
    cache = next(flag for flag in command if "compilation_cache" in flag).partition("=")[2]
    before = {path.name for path in Path(cache).iterdir() if path.name.endswith("-cache")}
    finish(start(command, tmp_path / "again"))
    after = {path.name for path in Path(cache).iterdir() if path.name.endswith("-cache")}
    assert before == after and len(before) > 3


@pytest.mark.slow
def test_dpo_killed_while_the_reference_is_computed_and_while_training(inputs, tmp_path):  # noqa: F811
    many = write_pairs(tmp_path / "pairs.jsonl", 6 * reference.PAIRS_PER_SHARD)

    def command(cache: str) -> list[str]:
        config = configure_dpo(
            inputs,
            data__train=(str(many),),
            lora__dropout=0.1,
            train__max_steps=8,
            checkpoint__every_steps=2,
            log__compilation_cache=str(tmp_path / "compiled"),
            dpo__reference_folder=str(tmp_path / cache),
        )
        return command_of(config)

    whole, folder = tmp_path / "whole", tmp_path / "run"
    finish(start(command("undisturbed"), whole))

    process = start(command("reference"), folder)
    until = time.monotonic() + 240
    while not (shards := list((tmp_path / "reference").glob("*/*.npz"))):
        assert time.monotonic() < until and process.poll() is None, process.communicate()[1]
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(shards) < 6 and not (folder / "metrics.jsonl").exists()

    process = start(command("reference"), folder)
    wait_for_step(process, folder, 3)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finish(start(command("reference"), folder))
    assert_same(folder, whole)


@pytest.mark.slow
def test_a_judge_killed_twice_while_it_learns(answers, tmp_path):  # noqa: F811
    config = configure_reward(
        answers,
        train__max_steps=STEPS,
        checkpoint__every_steps=2,
        log__compilation_cache=str(tmp_path / "compiled"),
    )
    whole, folder = tmp_path / "whole", tmp_path / "run"
    finish(start(command_of(config), whole))
    for step in (3, 8):
        process = start(command_of(config), folder)
        wait_for_step(process, folder, step)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not (folder / "export").exists()
    finish(start(command_of(config), folder))
    assert_same(folder, whole, weights="model.safetensors")
    found, known = ((f / "results.json").read_bytes() for f in (folder, whole))
    assert found == known


# What tells that a phase of a round has begun.
PHASES = (
    "samples.jsonl", "judgements.jsonl", "candidates.jsonl", "checkpoints/*",
    "evaluation_samples.jsonl",
)  # fmt: skip


@pytest.mark.slow
def test_raft_killed_in_every_phase(given, tmp_path):  # noqa: F811
    """Ten times: in every phase of both rounds, a moment after it has begun."""
    cache = str(tmp_path / "compiled")
    command = command_of(configure_raft(given, log__compilation_cache=cache))
    whole, folder = tmp_path / "whole", tmp_path / "run"
    finish(start(command, whole))
    random = np.random.default_rng(0)
    for number, phase in ((n, phase) for n in ("01", "02") for phase in PHASES):
        process = start(command, folder)
        until = time.monotonic() + 240
        while not list((folder / "rounds" / number).glob(phase)):
            assert time.monotonic() < until and process.poll() is None, process.communicate()[1]
            time.sleep(0.002)
        time.sleep(random.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not (folder / "export").exists()
    finish(start(command, folder))
    assert_same_rounds(folder, whole)
