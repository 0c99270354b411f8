"""Between loader and compiled step: a host's rows become global arrays; validation is summed."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from safety_jax.base import mesh as meshes
from safety_jax.base import trees
from safety_jax.base.batch import Tokens
from safety_jax.base.errors import ConfigError
from safety_jax.data.loader import Batch, Loader

PutBatch = Callable[[Batch], tuple[Any, jax.Array]]


def place_on(mesh: Mesh, rows_per_microbatch: int) -> PutBatch:
    """Puts a batch's tokens and its number of used microbatches onto the mesh, see `put_rows`."""
    put = put_rows(mesh, rows_per_microbatch)

    def place(batch: Batch) -> tuple[Tokens, jax.Array]:
        return jax.tree.map(put, batch.tokens), put_everywhere(mesh, batch.used)

    return place


def put_everywhere(mesh: Mesh, number: int) -> jax.Array:
    return meshes.put(mesh, (), np.asarray(number, np.int32))


def put_rows(mesh: Mesh, rows_per_microbatch: int) -> Callable[[np.ndarray], jax.Array]:
    """Puts a host's part of `[A, b, ...]` onto its devices; b is counted over all hosts.

    Raises:
        ConfigError: the devices that share out rows do not divide b.
    """
    parts = meshes.row_parts(mesh)
    if rows_per_microbatch % parts:
        raise ConfigError(
            f"train.rows_per_microbatch {rows_per_microbatch} does not divide over mesh "
            f"{' x '.join(meshes.RULES['rows'])} = {parts}; make it a multiple of {parts}"
        )

    def put(local: np.ndarray) -> jax.Array:
        logical = (None, "rows", *[None] * (local.ndim - 2))
        return meshes.put_rows(mesh, logical, local, rows_per_microbatch)

    return put


def make_evaluate(
    measure: Callable[..., Any], frozen: trees.Tree, batches: Loader, place: PutBatch
) -> Callable[[trees.Tree], dict[str, float]]:
    """A function of the trainable weights: the mean of every metric of `measure` over all of
    `batches`, as `eval/...`; and `eval/perplexity`.

    Args:
        measure: see `step.evaluator`.
    """

    def evaluate(trainable: trees.Tree) -> dict[str, float]:
        totals: dict[str, float] = {}
        count = 0.0
        for number in range(batches.steps):
            placed = place(batches.batch(number))
            means, counted = jax.device_get(measure(trainable, frozen, *placed))
            count += float(counted)
            for name, value in means.items():
                totals[name] = totals.get(name, 0.0) + float(value) * float(counted)
        metrics = {f"eval/{name}": total / count for name, total in totals.items()}
        metrics["eval/perplexity"] = math.exp(min(metrics["eval/loss"], 700.0))
        return metrics

    return evaluate
