"""Killed at any moment and started again, a run ends with the bits of an uninterrupted one.

Here processes are killed; what starts again, and other cuts, run in this process (`test_loop.py`,
`test_reward.py`). RAFT's phases are in `test_raft.py`.
"""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from safety_jax.stages import dpo, evaluate, sft
from safety_jax.training import metrics, progress, reference
from tests.children import command_of, end, kill, start, wait_for_step, wait_until
from tests.evaluation_runs import configure as configure_report
from tests.evaluation_runs import kept, report
from tests.test_dpo import configure as configure_dpo
from tests.test_dpo import write_pairs
from tests.test_end_to_end import configure, inputs  # noqa: F401

pytestmark = pytest.mark.slow


def logged(folder: Path) -> list[dict]:
    return [
        {key: value for key, value in row.items() if key not in progress.TIMING}
        for row in metrics.read(folder / "metrics.jsonl")
    ]


def assert_same(folder: Path, expected: Path) -> None:
    """The same weights and the same metrics."""
    found, known = (load_file(f / "export/adapter_model.safetensors") for f in (folder, expected))
    assert found.keys() == known.keys()
    for name in known:
        np.testing.assert_array_equal(found[name], known[name], err_msg=name)
    assert logged(folder) == logged(expected)


def test_killed_then_stopped_then_finished(inputs, tmp_path):  # noqa: F811
    """Each start finds every program that it needs in the cache."""
    config = configure(
        inputs, lora__dropout=0.1, train__max_steps=24, checkpoint__every_steps=2,
        log__eval_every_steps=2,
    )  # fmt: skip
    whole, folder = tmp_path / "whole", tmp_path / "run"
    sft.run(config, str(whole))
    command = [*command_of(config), f"--workdir={folder}"]

    process = start(command)
    wait_for_step(process, folder, 3)
    kill(process)
    assert metrics.read(folder / "metrics.jsonl")[-1]["step"] < 24

    process = start(command, JAX_EXPLAIN_CACHE_MISSES="1")
    wait_for_step(process, folder, 8)
    process.send_signal(signal.SIGTERM)
    code, errors = end(process)
    assert code == 0 and "run the same command to continue" in errors, errors
    assert "TRACING CACHE MISS" in errors  # it does explain them
    assert "PERSISTENT COMPILATION CACHE MISS" not in errors
    assert not (folder / "export").exists()

    stopped = metrics.read(folder / "metrics.jsonl")[-1]["step"]
    assert 8 <= stopped < 24 and (folder / "checkpoints" / str(stopped)).is_dir()
    sft.run(config, str(folder))
    # Also the evaluation that the stop did not wait for.
    assert_same(folder, whole)


def test_killed_while_the_reference_is_computed(inputs, tmp_path):  # noqa: F811
    # Four shards: a process that is killed when it sees the first has not written the last.
    many = write_pairs(tmp_path / "pairs.jsonl", 4 * reference.EXAMPLES_PER_SHARD)

    def config(cache: str):
        return configure_dpo(
            inputs, data__train=(str(many),), train__max_steps=2,
            dpo__reference_folder=str(tmp_path / cache),
        )  # fmt: skip

    whole, folder, shards = tmp_path / "whole", tmp_path / "run", tmp_path / "reference"
    dpo.run(config("undisturbed"), str(whole))
    process = start([*command_of(config("reference")), f"--workdir={folder}"])
    wait_until(lambda: any(shards.glob("*/*.npz")), process)
    kill(process)
    before = {path: path.stat().st_mtime_ns for path in shards.glob("*/*.npz")}
    assert 0 < len(before) < 4 and not (folder / "metrics.jsonl").exists()
    dpo.run(config("reference"), str(folder))
    assert_same(folder, whole)
    assert {path: path.stat().st_mtime_ns for path in before} == before  # none computed twice


def lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


def test_killed_in_the_middle_of_conversations(inputs, tmp_path):  # noqa: F811
    """What a run had before it died is not made again, and the rest is the same."""
    talks = tmp_path / "talks.jsonl"
    turns = ["red bread?", "blue water?", "and salt?", "bread and water?"]
    said = [{"turns": [f"{i} {turn}" for turn in turns], "unsafe": [2, 4]} for i in range(9)]
    talks.write_text("".join(json.dumps(row) + "\n" for row in said))
    asks = configure_report(
        inputs,
        **{
            "evaluate.models": f"base={inputs}/model",
            "evaluate.sets": (f"{talks}?name=talks&kind=conversation",),
            "evaluate.judges": ("refusal",),
            "answer.max_new_tokens": 4,
        },
    )
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    evaluate.run(asks, str(whole / "asked"))

    answers = killed / "asked" / "responses" / "base" / "talks.jsonl"
    process = start([*command_of(asks), f"--workdir={killed / 'asked'}"])
    wait_until(lambda: lines(answers) > len(said), process)  # some have had their second turn
    kill(process)
    before = answers.read_bytes()
    assert len(said) < before.count(b"\n") < len(said) * len(turns)

    evaluate.run(asks, str(killed / "asked"))
    assert answers.read_bytes().startswith(before[: before.rindex(b"\n") + 1])
    assert kept(killed / "asked") == kept(whole / "asked")
    found, known = (report(folder / "asked") for folder in (killed, whole))
    assert {key for key in known if found[key] != known[key]} <= {"facts"}  # when, and how started
    assert found["conversations"][0]["conversations"] == len(said)
