"""Between loader and compiled step: a host's rows become global arrays; validation is summed."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from safety_jax import mesh as meshes
from safety_jax import trees
from safety_jax.batch import Tokens
from safety_jax.data.loader import Batch, Loader
from safety_jax.errors import ConfigError

Place = Callable[[Batch], tuple[Tokens, jax.Array]]


def place_on(mesh: Mesh, rows_per_microbatch: int) -> Place:
    """Puts a host's part of `[A, b, T]` onto its devices, and the number of used microbatches onto
    all of them; b is counted over all hosts.

    Raises:
        ConfigError: the devices that share out rows do not divide b.
    """
    parts = int(np.prod([mesh.shape[axis] for axis in meshes.RULES["rows"]]))
    if rows_per_microbatch % parts:
        raise ConfigError(
            f"train.rows_per_microbatch {rows_per_microbatch} does not divide over mesh "
            f"{' x '.join(meshes.RULES['rows'])} = {parts}; make it a multiple of {parts}"
        )
    sharding = NamedSharding(mesh, PartitionSpec(None, *meshes.spec(("rows", "tokens"))))

    def put(local: np.ndarray) -> jax.Array:
        microbatches, _, length = local.shape
        shape = (microbatches, rows_per_microbatch, length)
        return jax.make_array_from_process_local_data(sharding, local, shape)

    def place(batch: Batch) -> tuple[Tokens, jax.Array]:
        used = jax.device_put(np.int32(batch.used), meshes.sharding(mesh, ()))
        return jax.tree.map(put, batch.tokens), used

    return place


def make_evaluate(
    measure: Callable[..., Any], frozen: trees.Tree, batches: Loader, place: Place
) -> Callable[[trees.Tree], dict[str, float]]:
    """A function of the trainable weights: every sum of `measure` over all of `batches`, divided
    by its count, as `eval/...`; and `eval/perplexity`.

    Args:
        measure: see `step.evaluator`.
    """

    def evaluate(trainable: trees.Tree) -> dict[str, float]:
        totals: dict[str, float] = {}
        count = 0.0
        for number in range(batches.steps):
            placed = place(batches.batch(number))
            sums, counted = jax.device_get(measure(trainable, frozen, *placed))
            count += float(counted)
            for name, value in sums.items():
                totals[name] = totals.get(name, 0.0) + float(value)
        metrics = {f"eval/{name}": total / count for name, total in totals.items()}
        metrics["eval/perplexity"] = math.exp(min(metrics["eval/loss"], 700.0))
        return metrics

    return evaluate
