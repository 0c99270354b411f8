"""A judge's scores while it is trained, and on held-out examples."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from safety_jax.base import trees
from safety_jax.data import judged, loader
from safety_jax.training import judge_quality, loop, placement


def make_measure(
    evaluator: Callable[..., Any],
    kind: str,
    frozen: trees.Tree,
    batches: loader.Loader,
    place: placement.PutBatch,
    data: judged.JudgedAnswers,
) -> Callable[[trees.Tree], judge_quality.Held]:
    """A function of the trainable weights: the scores of all held-out examples."""

    def measure(trainable: trees.Tree) -> judge_quality.Held:
        tables, examples = [], []
        for number in range(batches.steps):
            batch = batches.batch(number)
            parts, _ = evaluator(trainable, frozen, *place(batch))
            tables.append(jax.device_get(parts["examples"])[: len(batch.examples)])
            examples.append(batch.examples)
        return judge_quality.held(kind, np.concatenate(tables), np.concatenate(examples), data)

    return measure


class JudgeWatch:
    """Metrics of training steps, over all examples since they were last read; see
    `journal.Watch`."""

    def __init__(self, kind: str, data: judged.JudgedAnswers):
        self._kind, self._data = kind, data
        self._tables: list[np.ndarray] = []
        self._examples: list[np.ndarray] = []

    def add(self, tables: loop.Tables, batch: loader.Batch) -> None:
        self._tables.append(tables["examples"][: len(batch.examples)])
        self._examples.append(batch.examples)

    def read(self, step: int) -> loop.Metrics:
        table, examples = np.concatenate(self._tables), np.concatenate(self._examples)
        self._tables, self._examples = [], []
        return judge_quality.summarize(judge_quality.held(self._kind, table, examples, self._data))

    def evaluated(self, step: int, metrics: loop.Metrics) -> loop.Metrics:
        return metrics
