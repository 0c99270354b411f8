"""What the loss says of held-out examples: the measurements between the steps of a run."""

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

# What `make_measure` compiles.
Evaluator = Callable[..., tuple[steps.Parts, dict[str, jax.Array]]]


def make_evaluator(learning: Learning, mesh: Mesh) -> Evaluator:
    """Compiles what `make_measure` measures by."""
    return steps.evaluator(learning.loss, learning.count, mesh, learning.survey)


def make_measure(
    learning: Learning,
    batches: Loader,
    examples: Any,
    mesh: Mesh,
    evaluator: Evaluator | None = None,
) -> Callable[[trees.Tree], Measured]:
    """A function of the trainable weights: what the loss says of all of `examples`.

    Args:
        evaluator: of a learning that computes the same, if there is one.
    """
    evaluator = evaluator or make_evaluator(learning, mesh)
    place = learning.place(batches, examples)

    def measure(trainable: trees.Tree) -> Measured:
        sums: dict[str, float] = {}
        count = 0.0
        tables, members = [], []
        for number in range(batches.steps):
            batch = batches.batch(number)
            parts, totals = jax.device_get(evaluator(trainable, learning.frozen, *place(batch)))
            # What a loss counts first is what its scalars are means over.
            counted = float(next(iter(totals.values())))
            count += counted
            table = parts.pop(TABLE, np.zeros((len(batch.examples), 0), np.float32))
            tables.append(table[: len(batch.examples)])
            members.append(batch.examples)
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + float(value) * counted
        means = {name: total / count for name, total in sums.items()}
        return Measured(means, np.concatenate(tables), np.concatenate(members))

    return measure


def check_metric(metric: str, found: Metrics) -> None:
    """Refuses to begin a run whose best checkpoint nobody could tell.

    Some metrics hang on the held-out examples: a correlation takes two that differ, a rate by kind
    of harm takes examples of that kind. So the weights at the start are measured.
    """
    names = [f"eval/{name}" for name in found]
    if metric not in names:
        raise ConfigError(
            f"checkpoint.best_metric is {metric!r}, which these held-out examples do not give; "
            f"expected one of {', '.join(names)}"
        )
