"""Two processes with four devices each: the numbers of one process with eight, and a killed one.

Floats of two processes differ from those of one in their last bits, because Gloo adds over devices
in another order than XLA does inside a process. Adam with its usual epsilon amplifies this where a
gradient is almost zero, so the configs here have a larger one. Between runs of two processes there
is no such difference: what was killed and started again ends with the same bits.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file

from safety_jax.stages import dpo, evaluate, raft, reward, score, sft, tamper
from safety_jax.training import metrics, progress
from tests import (
    evaluation_runs,
    test_dpo,
    test_end_to_end,
    test_raft,
    test_reward,
    test_score,
    test_tamper,
)
from tests.children import command_of, end, wait_for_step, wait_until
from tests.children import start as launch
from tests.test_end_to_end import inputs  # noqa: F401
from tests.test_raft import given  # noqa: F401
from tests.test_reward import answers  # noqa: F401
from tests.test_score import model  # noqa: F401
from tests.test_tamper import rows  # noqa: F401

PROCESSES, DEVICES, STEPS = 2, 8, 16
COUNTS = ("num_tokens", "epoch")
STAGES = {"sft": sft.run, "dpo": dpo.run, "raft": raft.run, "reward": reward.run,
          "evaluate": evaluate.run, "score": score.run, "tamper": tamper.run}  # fmt: skip
ENVIRONMENT = {
    "XLA_FLAGS": os.environ["XLA_FLAGS"].replace(
        f"device_count={DEVICES}", f"device_count={DEVICES // PROCESSES}"
    ),
    "JAX_CPU_ENABLE_ASYNC_DISPATCH": "false",
}


@pytest.fixture(scope="module")
def configs(inputs, given, answers, model, rows, tmp_path_factory) -> dict:  # noqa: F811
    folder = tmp_path_factory.mktemp("given")
    test_dpo.write_pairs(inputs / "pairs.jsonl", 40)
    scored = test_score.write(folder / "rows.jsonl")
    made = {
        "sft": test_end_to_end.configure(
            inputs,
            lora__dropout=0.1,
            train__max_steps=STEPS,
            checkpoint__every_steps=2,
            log__eval_every_steps=4,
            checkpoint__export_merged=True,
        ),
        "dpo": test_dpo.configure(inputs, train__max_steps=3, dpo__reference_folder=""),
        "raft": test_raft.configure(given, raft__rounds=1),
        "reward": test_reward.configure(answers, train__max_steps=4, checkpoint__every_steps=4),
        "evaluate": evaluation_runs.configure(
            given,
            **{
                "evaluate.models": f"base={given}/model",
                "evaluate.sets": (f"{given}/held_out.jsonl?name=unsafe&kind=unsafe",),
            },
        ),
        "score": test_score.configure(scored, {"reward": test_score.reward(model)}),
        "tamper": test_tamper.configure(
            inputs,
            rows,
            **{
                "tamper.steps": (3,),
                "tamper.keep_weights": True,
                "tamper.sets": (f"{rows}/unsafe.jsonl?kind=unsafe",),
                "answer.max_new_tokens": 8,
            },
        ),
    }
    for config in made.values():
        if "optim" in config:
            config.optim.epsilon = 1e-3
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
                str(folder / "jobs.json")], **ENVIRONMENT)
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


def start(config, folder: Path) -> list[subprocess.Popen]:
    """The command on every host."""
    place = free_place()
    return [
        launch([*command_of(config), f"--workdir={folder}", "--distributed",
                f"--coordinator={place}", f"--processes={PROCESSES}", f"--process={number}"],
               **ENVIRONMENT)
        for number in range(PROCESSES)
    ]  # fmt: skip


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


def assert_same_weights(stage: str, alone: Path, together: Path, weights: str):
    found, expected = (load_file(f / stage / "export" / weights) for f in (together, alone))
    assert found.keys() == expected.keys()
    for name, leaf in expected.items():
        np.testing.assert_allclose(found[name], leaf, atol=1e-5, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "weights"),
    [
        ("sft", "adapter_model.safetensors"),
        ("dpo", "adapter_model.safetensors"),
        ("reward", "model.safetensors"),
    ],
)
def test_training_is_the_same(stage, weights, alone, together):
    one, two = numbers(alone / stage), numbers(together / stage)
    assert [row.keys() for row in two] == [row.keys() for row in one]
    for mine, theirs in zip(two, one, strict=True):
        assert [mine.get(name) for name in COUNTS] == [theirs.get(name) for name in COUNTS]
        # Sums over two processes are taken in another order, and the weights then drift apart.
        for name in {"loss", "eval/loss", "grad_norm"} & mine.keys():
            np.testing.assert_allclose(mine[name], theirs[name], rtol=1e-4, err_msg=name)
    assert_same_weights(stage, alone, together, weights)


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
    assert_same_weights("raft", alone, together, "adapter_model.safetensors")


@pytest.mark.slow
def test_an_evaluation_is_the_same(alone, together):
    one, two = (evaluation_runs.report(folder / "evaluate") for folder in (alone, together))
    for mine, theirs in zip(two["rows"], one["rows"], strict=True):
        assert mine["judged"]["harm"]["safe"] == theirs["judged"]["harm"]["safe"]
        assert mine["refused"] == theirs["refused"]
    found, expected = (evaluation_runs.kept(folder / "evaluate") for folder in (together, alone))
    assert found.keys() == expected.keys() and expected
    for name, content in expected.items():
        if name.startswith("responses"):
            assert found[name] == content, name


@pytest.mark.slow
def test_a_tampering_is_the_same(alone, together):
    one, two = (test_tamper.curves(folder / "tamper") for folder in (alone, together))
    assert two == one
    written = [sorted(f.glob("tamper/responses/*/*.jsonl")) for f in (alone, together)]
    assert len(written[0]) == 2  # before and after
    for mine, theirs in zip(*written, strict=True):
        assert mine.read_bytes() == theirs.read_bytes(), mine.name
    weights = [next(f.glob("tamper/tampering/*/export/*.safetensors")) for f in (alone, together)]
    found, expected = map(load_file, weights)
    for name, leaf in expected.items():
        np.testing.assert_allclose(found[name], leaf, atol=1e-5, err_msg=name)
    assert not list(together.glob("tamper/tampering/*/checkpoints"))


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


REASON = "killed by SIGKILL; the system does so when memory runs out"


@pytest.mark.slow
def test_killed_then_stopped_then_finished_it_ends_with_the_same_bits(configs, together, tmp_path):
    config, folder = configs["sft"], tmp_path / "run"
    pair = start(config, folder)
    wait_for_step(pair[0], folder, 1)
    psutil.Process(pair[1].pid).children()[0].kill()
    ends = [end(process) for process in pair]
    assert [code for code, _ in ends] == [1, 1]
    assert complaint(ends[1][1]) == f"error: {REASON}"
    assert complaint(ends[0][1]) == f"error: process 1 on {socket.gethostname()}: {REASON}"
    assert not (folder / "export").exists()

    pair = start(config, folder)
    wait_for_step(pair[0], folder, 5)
    pair[1].send_signal(signal.SIGTERM)  # of one, and both save
    ends = [end(process) for process in pair]
    assert [code for code, _ in ends] == [0, 0], ends
    assert "run the same command to continue" in ends[0][1]
    stopped = metrics.read(folder / "metrics.jsonl")[-1]["step"]
    assert 5 <= stopped < STEPS and (folder / "checkpoints" / str(stopped)).is_dir()

    for process in start(config, folder):
        code, errors = end(process)
        assert code == 0, errors
    assert numbers(folder) == numbers(together / "sft")
    for name in ("export/adapter_model.safetensors", "merged/model.safetensors"):
        assert (folder / name).read_bytes() == (together / "sft" / name).read_bytes()


MEETS = """
import sys
from pathlib import Path
from safety_jax.base import supervisor

def work(joined):
    from safety_jax.base import hosts
    joined(hosts.join(hosts.Place(sys.argv[1], 2, int(sys.argv[2]))))
    while True:
        hosts.first_says(lambda: 0)
        (Path(sys.argv[3]) / f"met.{sys.argv[2]}").touch()

supervisor.CAUSE_SECONDS = 1.0  # nobody is left to write the cause down
sys.exit(supervisor.run(work, lambda error: None, Path(sys.argv[3])))
"""


@pytest.mark.slow
def test_a_host_that_vanishes_with_its_supervisor_ends_the_other(tmp_path):
    """Nobody can tell; what jax noticed is the reason."""
    place = free_place()
    pair = [
        launch([sys.executable, "-c", MEETS, place, str(number), str(tmp_path)], **ENVIRONMENT)
        for number in range(PROCESSES)
    ]
    wait_until(lambda: len(list(tmp_path.glob("met.*"))) == PROCESSES, pair[0])
    pair[0].kill()
    assert end(pair[0])[0] == -signal.SIGKILL
    code, errors = end(pair[1])
    assert code == 1 and complaint(errors) != f"error: {REASON}"
