"""Measures the loss on held-out examples between the steps of a run."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from safety_jax.base import trees
from safety_jax.base.errors import ConfigError
from safety_jax.data.loader import Loader
from safety_jax.training import steps
from safety_jax.training.loop import Metrics
from safety_jax.training.task import TABLE, Learning, Measured

# (trainable, frozen, batch, used) -> (metrics, totals), compiled; see `steps.evaluator`.
Evaluator = Callable[..., tuple[steps.Parts, dict[str, jax.Array]]]


def make_evaluator(learning: Learning, mesh: Mesh) -> Evaluator:
    """Compiles the evaluator of `make_measure`."""
    return steps.evaluator(learning.loss, learning.count, mesh, learning.survey)


def make_measure(
    learning: Learning,
    batches: Loader,
    examples: Any,
    mesh: Mesh,
    evaluator: Evaluator | None = None,
) -> Callable[[trees.Tree], Measured]:
    """Returns a function that evaluates the loss on all `examples`, given the trainable weights.

    Args:
        evaluator: an already compiled one, of a `Learning` that computes the same.
    """
    evaluator = evaluator or make_evaluator(learning, mesh)
    place = learning.place(batches, examples)

    def measure(trainable: trees.Tree) -> Measured:
        sums: dict[str, float] = {}
        totals: dict[str, float] = {}
        tables, members = [], []
        for number in range(batches.steps):
            batch = batches.batch(number)
            parts, counts = jax.device_get(evaluator(trainable, learning.frozen, *place(batch)))
            members.append(batch.examples)
            if TABLE in parts:
                tables.append(parts[TABLE][: len(batch.examples)])
                continue
            for name, value in parts.items():
                # Scalars are means over tokens; a weighted loss is one over their weights.
                weighs = name == "loss" and "weights" in counts
                counted = float(counts["weights" if weighs else "tokens"])
                sums[name] = sums.get(name, 0.0) + float(value) * counted
                totals[name] = totals.get(name, 0.0) + counted
        means = {name: total / totals[name] for name, total in sums.items()}
        examples = np.concatenate(members)
        table = np.concatenate(tables) if tables else np.zeros((len(examples), 0), np.float32)
        return Measured(means, table, examples)

    return measure


def check_metric(metric: str, found: Metrics) -> None:
    """Raises a ConfigError if the metric that picks the best checkpoint is not measured.

    `found` is measured on the initial weights, because which metrics exist depends on the held-out
    examples: a correlation needs two that differ, a rate by kind of harm needs examples of that
    kind.
    """
    names = [f"eval/{name}" for name in found]
    if metric not in names:
        raise ConfigError(
            f"checkpoint.best_metric is {metric!r}, which these held-out examples do not give; "
            f"expected one of {', '.join(names)}"
        )
