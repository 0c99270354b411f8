"""Logs a run's steps and evaluations, in files and on the terminal."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from safety_jax.base import compilation, hosts
from safety_jax.maths import flops
from safety_jax.training import metrics, progress, workdir
from safety_jax.training.loop import Cadence, Metrics, Tables
from safety_jax.training.prepared import Prepared
from safety_jax.training.settings import Settings
from safety_jax.training.task import TABLE, Indices, Measured, Task


@dataclasses.dataclass
class StepLog:
    """Adds epoch, tokens and speed to a step's metrics, and logs those that are due.

    Attributes:
        tokens: real tokens seen up to the last step, over all hosts.
        steps_per_epoch: converts steps to epochs.
        summarize: computes metrics of the examples since the last log line; None for losses without
            a table.
        alarm: see `task.Learning`. It gets evaluations if there are any, because steps are noisy.
        evaluates: there are evaluations.
    """

    writer: metrics.Writer
    progress: progress.ProgressBar
    rate: progress.Throughput
    compiled: compilation.Counter
    cadence: Cadence
    steps_per_epoch: int
    tokens: int
    summarize: Callable[[Measured], Metrics] | None
    alarm: Callable[[int, Metrics], Metrics] | None
    evaluates: bool
    _steps: int = 0
    _programs: int = 0
    _tables: list[np.ndarray] = dataclasses.field(default_factory=list)
    _examples: list[Indices] = dataclasses.field(default_factory=list)

    def remember(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Shows the alarm the lines that earlier starts of the run wrote."""
        if self.alarm is None:
            return
        for row in rows:
            of_evaluation = any(name.startswith("eval/") for name in row)
            if of_evaluation == self.evaluates and None not in row.values():
                metrics = {name.removeprefix("eval/"): value for name, value in row.items()}
                self.alarm(metrics.pop("step"), metrics)

    def on_step(self, step: int, metrics: Mapping[str, float], tables: Tables, batch: Any) -> None:
        """Records a step; called after every one, in order. `batch` is a `loader.Batch`."""
        self.tokens += batch.real_tokens
        self.progress.step(step)
        self._steps += 1
        if self._steps == 1:
            self.rate.restart()  # the first step compiles
            self._programs = self.compiled.programs
        else:
            self.rate.add(batch.real_tokens)
        if self.summarize is not None:
            self._tables.append(tables[TABLE][: len(batch.examples)])
            self._examples.append(batch.examples)
        if not self.cadence.logs(step):
            return
        rates = self.rate.read()
        row = dict(metrics) | {
            "epoch": step / self.steps_per_epoch,
            "num_tokens": self.tokens,
        }
        row |= self._summary(step)
        self.writer.write(step, row | rates)
        self.progress.log(step, row | rates)

    def on_evaluation(self, step: int, metrics: Metrics) -> None:
        row = {f"eval/{name}": value for name, value in metrics.items()}
        if self.alarm is not None:
            row |= self.alarm(step, metrics)
        self.writer.write(step, row)
        self.progress.log(step, row)
        self.rate.restart()

    def recompilations(self) -> int:
        """Programs compiled since the first step; evaluation and saving need a few."""
        return self.compiled.programs - self._programs

    def _summary(self, step: int) -> Metrics:
        if self.summarize is None:
            return {}
        table, examples = np.concatenate(self._tables), np.concatenate(self._examples)
        self._tables, self._examples = [], []
        metrics = self.summarize(Measured({}, table, examples))
        if self.alarm is not None and not self.evaluates:
            metrics |= self.alarm(step, metrics)
        return metrics


def read_earlier(file: Path, done: int) -> list[dict[str, Any]]:
    """The lines of earlier starts up to step `done`. Every process must call this."""

    def read() -> list[dict[str, Any]]:
        rows = metrics.read(file) if done and file.exists() else []
        return [row for row in rows if row["step"] <= done]

    return hosts.first_says(read)


@contextlib.contextmanager
def open_log(
    task: Task,
    settings: Settings,
    place: workdir.Workdir,
    mesh: Mesh,
    compiled: compilation.Counter,
    ready: Prepared,
    done: int,
    earlier: Sequence[Mapping[str, Any]],
    *,
    quiet: bool,
) -> Iterator[StepLog]:
    """Opens the log of a run that continues after step `done`.

    Args:
        earlier: lines up to that step, see `read_earlier`.
    """
    logging, batches, summarize = settings.logging, ready.batches, ready.learning.summarize
    training, primary = task.corpus.training, jax.process_index() == 0
    with (
        metrics.Writer(
            place.path, done, logging.tensorboard, logging.wandb, place.config, primary
        ) as writer,
        contextlib.closing(progress.ProgressBar(batches.steps, done, primary and not quiet)) as bar,
    ):
        log = StepLog(
            writer=writer,
            progress=bar,
            rate=progress.Throughput(ready.flops_per_token, flops.peak_of(mesh.devices)),
            compiled=compiled,
            cadence=Cadence(
                total_steps=batches.steps,
                log_every_steps=logging.every_steps,
                eval_every_steps=logging.eval_every_steps,
                save_every_steps=settings.saving.every_steps,
            ),
            steps_per_epoch=batches.steps_per_epoch,
            tokens=batches.tokens_until(done),
            summarize=None if summarize is None else lambda found: summarize(found, training),
            alarm=ready.learning.alarm,
            evaluates=ready.measure is not None,
        )
        log.remember(earlier)
        yield log
