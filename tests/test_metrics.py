"""Metric lines survive kills; speed and FLOPs against numbers worked out by hand."""

import json
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from safety_jax.base.errors import ConfigError, DataError
from safety_jax.maths import flops
from safety_jax.training import metrics, progress


def writer(folder, resume_step=0, tensorboard=False, wandb=False, primary=True):
    return metrics.Writer(folder, resume_step, tensorboard, wandb, {"seed": 0}, primary)


def strict(text: str):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def test_lines_hold_numbers_from_any_array(tmp_path):
    with writer(tmp_path) as out:
        out.write(10, {"loss": jnp.float32(0.5), "tokens": 2**40, "norm": np.float64(0.1)})
        # Readable at once, by whoever watches the run.
        (line,) = metrics.read(tmp_path / "metrics.jsonl")
    assert line == {"step": 10, "loss": 0.5, "tokens": 2**40, "norm": 0.1}


def test_values_that_are_not_finite_are_null_and_named(tmp_path):
    with writer(tmp_path) as out:
        out.write(1, {"loss": jnp.nan, "norm": -np.inf, "rate": 1.0})
    (line,) = strict((tmp_path / "metrics.jsonl").read_text())
    assert line == {
        "step": 1, "loss": None, "norm": None, "rate": 1.0,
        "non_finite": {"loss": "nan", "norm": "-inf"},
    }  # fmt: skip


def test_metric_that_is_no_number_is_named(tmp_path):
    with writer(tmp_path) as out, pytest.raises(TypeError, match="'loss' is \\[1\\]"):
        out.write(1, {"loss": [1]})


@pytest.mark.parametrize("torn", ["", '{"step": 6, "lo', '{"step": 3, "loss": 9.0}'])
def test_resumed_file_equals_an_uninterrupted_one(tmp_path, torn):
    def run(folder, first, last, resume_step):
        with writer(folder, resume_step) as out:
            for step in range(first, last):
                out.write(step, {"loss": 1 / (step + 3)})
                out.write(step, {"eval/loss": 2.0})

    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    run(tmp_path / "whole", 1, 9, 0)
    run(tmp_path / "killed", 1, 6, 0)
    with open(tmp_path / "killed" / "metrics.jsonl", "a") as file:
        file.write(torn)
    run(tmp_path / "killed", 4, 9, 3)
    files = [tmp_path / name / "metrics.jsonl" for name in ("whole", "killed")]
    assert files[0].read_bytes() == files[1].read_bytes()
    run(tmp_path / "killed", 1, 9, 0)
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    "line",
    ["hello", "[1]", '{"step": 2, "eval/loss": "low"}', '{"step": 2, "loss": [1]}',
     '{"step": 2, "loss": ' + "[" * 100_000],
    ids=["text", "list", "word", "numbers", "deep"],
)  # fmt: skip
def test_file_of_something_else_is_one_line_and_stays(line, tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text(f'{{"step": 1}}\n{line}\n')
    with pytest.raises(DataError, match="metrics.jsonl line 2 is not a metric line"):
        writer(tmp_path)
    assert file.read_text() == f'{{"step": 1}}\n{line}\n'


def test_other_processes_write_nothing(tmp_path):
    with writer(tmp_path, primary=False, tensorboard=True, wandb=True) as out:
        out.write(1, {"loss": 1.0})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name, library", [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_missing_library_names_the_extra_and_changes_nothing(tmp_path, monkeypatch, name, library):
    monkeypatch.setitem(sys.modules, library, None)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(ConfigError, match=f"log.{name} is on.*safety_jax\\[{name}\\]"):
        writer(tmp_path, **{name: True})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'


def test_tensorboard_holds_the_same_numbers(tmp_path):
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    with writer(tmp_path, tensorboard=True) as out:
        out.write(3, {"eval/loss": 0.25})
    (file,) = (tmp_path / "tensorboard").iterdir()
    data, events = file.read_bytes(), []
    while data:
        length = int.from_bytes(data[:8], "little")
        record, crc = data[12 : 12 + length], data[12 + length : 16 + length]
        assert int.from_bytes(crc, "little") == masked_crc32c(record)
        events.append(Event.FromString(record))
        data = data[16 + length :]
    values = [(e.step, v.tag, v.simple_value) for e in events for v in e.summary.value]
    assert values == [(3, "eval/loss", 0.25)]


def test_wandb_run_keeps_its_id_over_a_resume(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    ids = []
    for resume_step in (0, 1):
        with writer(tmp_path, resume_step, wandb=True) as out:
            out.write(resume_step + 1, {"loss": 1.0})
        ids.append((tmp_path / "wandb_id").read_text())
    assert ids[0] == ids[1]
    assert len(list((tmp_path / "wandb").glob(f"offline-run-*-{ids[0]}"))) >= 1


def test_wandb_without_a_key_is_told_in_one_line(tmp_path, monkeypatch):
    import wandb

    wandb.teardown()  # its settings are those of the first run of a process
    monkeypatch.setenv("HOME", str(tmp_path))  # no netrc
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(ConfigError, match="log.wandb is on, but W&B does not start .*wandb login"):
        writer(tmp_path, wandb=True)
    wandb.teardown()


def test_flops_per_token_by_hand():
    numbers = dict(matmul_weights=1000, layers=2, heads=3, head_size=5, example_tokens=10.0)
    attention = 2 * 10 * 3 * 5 * 2  # forward: 2 matmuls, 2 FLOPs, half of the 10 keys on average
    full = flops.flops_per_token(adapter_weights=0, trains_base=True, **numbers)
    assert full == 3 * 2 * 1000 + 3 * attention
    adapted = flops.flops_per_token(adapter_weights=10, trains_base=False, **numbers)
    assert adapted == 2 * 2 * 1000 + 3 * 2 * 10 + 3 * attention


@pytest.mark.parametrize(
    "kind, peak",
    [
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("TPU v6 lite", 918e12),
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),  # no L4
        ("cpu", None),
        ("TPU v99", None),
    ],
)
def test_peak_by_device_kind(kind, peak):
    assert flops.peak_flops(kind) == peak


def test_rate_by_hand():
    now = [0.0]
    rate = progress.Throughput(flops_per_token=100.0, peak=4000.0, clock=lambda: now[0])
    assert rate.read() == {}
    rate.add(1_000_000)
    now[0] = 3.0
    rate.restart()
    for tokens in (30, 50):
        now[0] += 2.0
        rate.add(tokens)
    assert rate.read() == {"tokens_per_second": 20.0, "seconds_per_step": 2.0, "mfu": 0.5}
    assert rate.read() == {}
    unknown = progress.Throughput(100.0, None, clock=lambda: now[0])
    unknown.add(5)
    now[0] += 1.0
    assert set(unknown.read()) < set(progress.TIMING) and "mfu" not in unknown.read()


def test_progress_off_a_terminal_is_one_line_per_log(capsys):
    bar = progress.ProgressBar(40, 10)
    for step in range(11, 31):
        bar.step(step)
        if step % 10 == 0:
            bar.log(step, {"loss": 1.5, "tokens_per_second": 12345.6, "mfu": 0.4125, "x": 1})
    bar.print("eval")
    bar.close()
    first, second, third = capsys.readouterr().err.splitlines()
    assert first.startswith("step 20/40  loss 1.5000  12,346 tokens/s  MFU 41.2%  left 00:0")
    assert second.startswith("step 30/40") and third == "eval"


def test_time_left_forgets_a_slow_beginning(capsys):
    now = [0.0]
    bar = progress.ProgressBar(total_steps=24, done_steps=4, clock=lambda: now[0])
    for step, seconds, left in [
        (5, 100, "unknown"),  # the first step compiles
        (6, 101, "00:18"),  # one step of 1 s
        (12, 107, "00:12"),
        (14, 127, "00:32"),  # since step 6, 8 steps in 26 s, and 10 to go
    ]:
        now[0] = float(seconds)
        bar.step(step)
        bar.log(step, {})
        assert capsys.readouterr().err == f"step {step}/24  left {left}\n"


def test_progress_on_a_terminal_is_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    bar = progress.ProgressBar(40, 10)
    bar.step(20)
    bar.log(20, {"loss": 1.5})
    bar.close()
    shown = capsys.readouterr().err
    assert "20/40" in shown and "loss 1.5000" in shown and "step 20" not in shown


def test_a_narrow_bar_shows_the_loss_and_the_time_left(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr("tqdm.std._screen_shape_wrapper", lambda: lambda file: (40, 20))
    now = [0.0]
    bar = progress.ProgressBar(100, 0, clock=lambda: now[0])
    for step in range(1, 4):
        bar.step(step)
        now[0] += 10
    bar.log(3, {"loss": 1.5, "tokens_per_second": 12345.6, "mfu": 0.4125})
    bar.close()
    last = capsys.readouterr().err.split("\r")[-1].rstrip()
    assert last.startswith("3/100, loss 1.5000  left 24:15") and len(last) <= 40


def test_other_processes_show_nothing(capsys):
    bar = progress.ProgressBar(4, 0, primary=False)
    bar.log(1, {"loss": 1.0})
    bar.print("x")
    bar.close()
    assert capsys.readouterr().err == ""
