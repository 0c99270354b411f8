"""What a run that goes on knows of its earlier starts."""

import pytest

from safety_jax.base import compilation
from safety_jax.training import metrics, preference, progress, step_log
from safety_jax.training.loop import Cadence


def make_log(folder, done, alarm, evaluates):
    return step_log.StepLog(
        writer=metrics.Writer(folder, done, False, False, {}, primary=False),
        progress=progress.ProgressBar(9, done, primary=False),
        rate=progress.Throughput(1.0, None),
        compiled=compilation.Counter(),
        cadence=Cadence(9, 1, 1, 1),
        steps_per_epoch=9,
        tokens=0,
        summarize=None,
        alarm=alarm,
        evaluates=evaluates,
    )


@pytest.mark.parametrize("prefix", ["eval/", ""])
def test_the_alarm_remembers_what_earlier_starts_read(prefix, tmp_path):
    """Stopped after every reading, a run would never have the three in a row."""
    chosen, margins, raised = [0.0, -0.1, -0.2, -0.3], [0.0, 0.1, 0.2, 0.3], []
    rows = [
        {"step": step, f"{prefix}rewards/chosen": low, f"{prefix}rewards/margins": high}
        for step, (low, high) in enumerate(zip(chosen, margins, strict=True))
    ]
    for done in range(len(rows)):
        alarm = preference.Collapse(lambda text: None)
        log = make_log(tmp_path, done, alarm, evaluates=prefix != "")
        log.remember([{"step": 0, "eval/loss": None}, {"step": 0, "loss": None}, *rows[:done]])
        now = {name.removeprefix(prefix): value for name, value in rows[done].items()}
        raised.append(bool(alarm(now.pop("step"), now)))
    assert raised == [False, False, False, True]


def test_only_lines_of_steps_that_are_kept_are_read(tmp_path):
    file = tmp_path / "metrics.jsonl"
    assert step_log.read_earlier(file, 2) == []
    file.write_text('{"step": 1, "loss": 3.0}\n{"step": 3, "loss": 2.0}\n')
    assert step_log.read_earlier(file, 2) == [{"step": 1, "loss": 3.0}]
    assert step_log.read_earlier(file, 0) == []
