"""Two processes with four devices each: the numbers of one process with eight, and a killed one.

Floats of two processes differ from those of one in their last bits, because Gloo adds over devices
in another order than XLA does inside a process. Between runs of two processes there is no such
difference: what was killed and started again ends with the same bits.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import test_dpo
import test_end_to_end
import test_evaluate
import test_raft
import test_reward
import test_score
from safetensors.numpy import load_file
from test_end_to_end import inputs  # noqa: F401
from test_raft import given  # noqa: F401
from test_resume import command_of, wait_for_step
from test_reward import answers  # noqa: F401
from test_score import model  # noqa: F401

from safety_jax.stages import dpo, evaluate, raft, reward, score, sft
from safety_jax.training import metrics, progress

ROOT = Path(__file__).parent.parent
PROCESSES, DEVICES = 2, 8
SECONDS = 600  # for anything, on a machine with other work
COUNTS = ("num_tokens", "epoch")
STAGES = {"sft": sft.run, "dpo": dpo.run, "raft": raft.run, "reward": reward.run,
          "evaluate": evaluate.run, "score": score.run}  # fmt: skip
ENVIRONMENT = {
    **os.environ,
    "XLA_FLAGS": os.environ["XLA_FLAGS"].replace(
        f"device_count={DEVICES}", f"device_count={DEVICES // PROCESSES}"
    ),
    "JAX_CPU_ENABLE_ASYNC_DISPATCH": "false",
}


@pytest.fixture(scope="module")
def configs(inputs, given, answers, model, tmp_path_factory) -> dict:  # noqa: F811
    folder = tmp_path_factory.mktemp("given")
    test_dpo.write_pairs(inputs / "pairs.jsonl", 40)
    rows = test_score.write(folder / "rows.jsonl")
    made = {
        "sft": test_end_to_end.configure(
            inputs, lora__dropout=0.1, checkpoint__every_steps=2, checkpoint__export_merged=True
        ),
        "dpo": test_dpo.configure(inputs, train__max_steps=3, dpo__reference_folder=""),
        "raft": test_raft.configure(given, raft__rounds=1),
        "reward": test_reward.configure(answers, train__max_steps=4, checkpoint__every_steps=4),
        "evaluate": test_evaluate.configure(
            given,
            **{
                "evaluate.models": f"base={given}/model",
                "evaluate.sets": (f"{given}/held_out.jsonl?name=unsafe&kind=unsafe",),
            },
        ),
        "score": test_score.configure(rows, {"reward": test_score.reward(model)}),
    }
    for config in made.values():
        with config.unlocked():
            config.log.compilation_cache = str(folder / "compiled")
    return made


@pytest.fixture(scope="module")
def alone(configs, tmp_path_factory) -> Path:
    """Every stage in this process, on its eight devices."""
    folder = tmp_path_factory.mktemp("alone")
    for stage, config in configs.items():
        STAGES[stage](config, str(folder / stage))
    return folder


@pytest.fixture(scope="module")
def together(configs, tmp_path_factory) -> Path:
    """Every stage on two processes, which meet once."""
    folder = tmp_path_factory.mktemp("together")
    jobs = [(s, json.dumps(c.to_dict()), str(folder / s)) for s, c in configs.items()]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    place = free_place()
    pair = [
        launch([sys.executable, "-m", "tests.hosts_worker", place, str(PROCESSES), str(number),
                str(folder / "jobs.json")])
        for number in range(PROCESSES)
    ]  # fmt: skip
    for process in pair:
        code, errors = end(process)
        assert code == 0, errors
    return folder


def free_place() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def launch(command: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def start(config, folder: Path) -> list[subprocess.Popen]:
    """The command on every host."""
    place = free_place()
    return [
        launch([*command_of(config), f"--workdir={folder}", "--distributed",
                f"--coordinator={place}", f"--processes={PROCESSES}", f"--process={number}"])
        for number in range(PROCESSES)
    ]  # fmt: skip


def end(process: subprocess.Popen) -> tuple[int, str]:
    _, errors = process.communicate(timeout=SECONDS)
    return process.returncode, errors


def complaint(errors: str) -> str:
    """The one line of a failure."""
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert errors.endswith(f"{line}\n") and "Traceback" not in errors, errors
    return line


def numbers(folder: Path) -> list[dict]:
    return [
        {key: value for key, value in row.items() if key not in progress.TIMING}
        for row in metrics.read(folder / "metrics.jsonl")
    ]


def assert_same_weights(stage: str, alone: Path, together: Path, weights: str, atol: float):
    found, expected = (load_file(f / stage / "export" / weights) for f in (together, alone))
    assert found.keys() == expected.keys()
    for name, leaf in expected.items():
        np.testing.assert_allclose(found[name], leaf, atol=atol, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "weights", "atol"),
    [
        ("sft", "adapter_model.safetensors", 1e-5),
        # Adam divides by the root of second moments, which are next to nothing in the first steps.
        ("dpo", "adapter_model.safetensors", 5e-4),
        ("reward", "model.safetensors", 5e-4),
    ],
)
def test_training_is_the_same(stage, weights, atol, alone, together):
    one, two = numbers(alone / stage), numbers(together / stage)
    assert [row.keys() for row in two] == [row.keys() for row in one]
    for mine, theirs in zip(two, one, strict=True):
        assert [mine.get(name) for name in COUNTS] == [theirs.get(name) for name in COUNTS]
        # Sums over two processes are taken in another order, and the weights then drift apart.
        for name in {"loss", "eval/loss", "grad_norm"} & mine.keys():
            np.testing.assert_allclose(mine[name], theirs[name], rtol=1e-4, err_msg=name)
    assert_same_weights(stage, alone, together, weights, atol)


@pytest.mark.slow
def test_a_round_of_raft_is_the_same(alone, together):
    one, two = (
        [
            test_raft.read_lines(folder / "raft" / "rounds" / name)
            for name in ("00/evaluation_samples.jsonl", "01/samples.jsonl", "01/candidates.jsonl")
        ]
        for folder in (alone, together)
    )
    for mine, theirs in zip(two, one, strict=True):
        for row, expected in zip(mine, theirs, strict=True):
            if "candidates" in row:
                assert [c[:2] for c in row["candidates"]] == [c[:2] for c in expected["candidates"]]
            else:
                assert row["choice"] == expected["choice"]
                for name in ("responses", "prompt_number"):
                    assert row[name] == expected[name]
    assert_same_weights("raft", alone, together, "adapter_model.safetensors", 5e-4)


@pytest.mark.slow
def test_an_evaluation_is_the_same(alone, together):
    one, two = (test_evaluate.report(folder / "evaluate") for folder in (alone, together))
    for mine, theirs in zip(two["rows"], one["rows"], strict=True):
        assert mine["judged"]["harm"]["safe"] == theirs["judged"]["harm"]["safe"]
        assert mine["refused"] == theirs["refused"]
    found, expected = (test_evaluate.kept(folder / "evaluate") for folder in (together, alone))
    assert found.keys() == expected.keys() and expected
    for name, content in expected.items():
        if name.startswith("responses"):
            assert found[name] == content, name


@pytest.mark.slow
def test_scores_are_the_same(alone, together):
    one, two = (test_score.lines(folder / "score") for folder in (alone, together))
    for mine, theirs in zip(two, one, strict=True):
        for name, score_of in theirs.pop("scores").items():
            found = mine["scores"][name]
            values = found.pop("value"), score_of.pop("value")
            assert found == score_of and (values[0] is None) == (values[1] is None)
            if values[0] is not None:
                np.testing.assert_allclose(*values, rtol=1e-5)
        assert {key: value for key, value in mine.items() if key != "scores"} == theirs


@pytest.mark.slow
def test_killed_and_started_again_it_ends_with_the_same_bits(configs, together, tmp_path):
    folder = tmp_path / "run"

    def start_and_kill(step: int, victim: int, whole_host: bool) -> list[tuple[int, str]]:
        pair = start(configs["sft"], folder)
        wait_for_step(pair[0], folder, step)
        process = psutil.Process(pair[victim].pid)
        (process if whole_host else process.children()[0]).kill()
        began = time.monotonic()
        ends = [end(process) for process in pair]
        assert time.monotonic() - began < 300  # by the heartbeat at worst
        assert not (folder / "export").exists()
        return ends

    reason = "killed by SIGKILL; the system does so when memory runs out"
    ends = start_and_kill(3, victim=1, whole_host=False)
    assert [code for code, _ in ends] == [1, 1]
    assert complaint(ends[1][1]) == f"error: {reason}"
    assert complaint(ends[0][1]) == f"error: process 1 on {socket.gethostname()}: {reason}"

    # With its supervisor gone nobody can tell; what jax noticed is the reason.
    ends = start_and_kill(5, victim=0, whole_host=True)
    assert ends[1][0] == 1 and complaint(ends[1][1])

    for process in start(configs["sft"], folder):
        code, errors = end(process)
        assert code == 0, errors
    assert numbers(folder) == numbers(together / "sft")
    for name in ("export/adapter_model.safetensors", "merged/model.safetensors"):
        assert (folder / name).read_bytes() == (together / "sft" / name).read_bytes()


@pytest.mark.slow
def test_sigterm_of_one_host_saves_on_all(configs, together, tmp_path):
    config = configs["sft"].copy_and_resolve_references()
    with config.unlocked():
        config.train.max_steps = config.checkpoint.every_steps = 2000
        config.log.eval_every_steps = 2000
    pair = start(config, tmp_path / "run")
    wait_for_step(pair[0], tmp_path / "run", 1)
    pair[1].send_signal(signal.SIGTERM)
    ends = [end(process) for process in pair]
    assert [code for code, _ in ends] == [0, 0], ends
    assert "run the same command to go on" in ends[0][1]
    last = metrics.read(tmp_path / "run" / "metrics.jsonl")[-1]["step"]
    assert last < 2000 and (tmp_path / "run" / "checkpoints" / str(last)).is_dir()
