"""What a run tells of each step: to `metrics.jsonl` and its mirrors, and to the person watching."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from safety_jax.base import compilation
from safety_jax.training.loop import Cadence, Metrics, Tables
from safety_jax.training.metrics import ProgressBar, Throughput, Writer


@runtime_checkable
class Watch(Protocol):
    """Makes metrics of what a loss returns by example, over all steps since they were last read;
    may add to those of an evaluation."""

    def add(self, tables: Tables, batch: Any) -> None: ...
    def read(self, step: int) -> Metrics: ...
    def evaluated(self, step: int, metrics: Metrics) -> Metrics: ...


@dataclasses.dataclass
class Journal:
    """Adds what only the host knows to a step's metrics, and passes them on when they are due.

    Attributes:
        tokens: real tokens seen up to the last step, over all hosts.
        steps_per_epoch: to give the step as an epoch.
        watch: for losses that return tables.
    """

    writer: Writer
    progress: ProgressBar
    rate: Throughput
    compiled: compilation.Counter
    cadence: Cadence
    steps_per_epoch: int
    tokens: int
    watch: Watch | None = None
    _steps: int = 0
    _programs: int = 0

    def on_step(self, step: int, metrics: Mapping[str, float], tables: Tables, batch: Any) -> None:
        """After every step, in order; `batch` tells its tokens."""
        self.tokens += batch.real_tokens
        self.progress.step(step)
        self._steps += 1
        if self._steps == 1:
            self.rate.restart()  # the first step compiles
            self._programs = self.compiled.programs
        else:
            self.rate.add(batch.real_tokens)
        if self.watch is not None:
            self.watch.add(tables, batch)
        if not self.cadence.logs(step):
            return
        rates = self.rate.read()
        row = dict(metrics) | {
            "epoch": step / self.steps_per_epoch,
            "num_tokens": self.tokens,
        }
        if self.watch is not None:
            row |= self.watch.read(step)
        self.writer.write(step, row | rates)
        self.progress.log(step, row | rates)

    def on_evaluation(self, step: int, metrics: Metrics) -> None:
        if self.watch is not None:
            metrics = self.watch.evaluated(step, metrics)
        self.writer.write(step, metrics)
        self.progress.log(step, metrics)
        self.rate.restart()

    def recompilations(self) -> int:
        """Programs obtained after the first step; evaluation and saving account for a few."""
        return self.compiled.programs - self._programs
