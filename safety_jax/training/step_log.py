"""What a run records of each step: in `metrics.jsonl`, its mirrors, and on the terminal."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from safety_jax.base import compilation
from safety_jax.training.loop import Cadence, Metrics, Tables
from safety_jax.training.metrics import Writer
from safety_jax.training.progress import ProgressBar, Throughput
from safety_jax.training.task import Indices, Measured

TABLE = "examples"  # the name under which a loss returns a row for each example


@dataclasses.dataclass
class StepLog:
    """Adds what only the host knows to a step's metrics, and passes them on when they are due.

    Attributes:
        tokens: real tokens seen up to the last step, over all hosts.
        steps_per_epoch: to give the step as an epoch.
        summarize: metrics of the examples since the last log line, of losses that return a table.
        alarm: reads the metrics of evaluations, or of steps where nothing is evaluated, because
            single steps are noisy; returns metrics to add.
        evaluates: whether there are evaluations.
    """

    writer: Writer
    progress: ProgressBar
    rate: Throughput
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

    def on_step(self, step: int, metrics: Mapping[str, float], tables: Tables, batch: Any) -> None:
        """After every step, in order; `batch` knows its tokens and examples."""
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
        """Programs obtained after the first step; evaluation and saving account for a few."""
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
