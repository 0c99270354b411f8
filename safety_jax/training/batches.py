"""Lays a run's examples out as batches: rows for its mesh, microbatches, sharing, packing."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

from jax.sharding import Mesh

from safety_jax.base import meshes
from safety_jax.data.examples import Examples
from safety_jax.data.loader import Loader
from safety_jax.data.prefixes import Share
from safety_jax.training.settings import Batching
from safety_jax.training.task import Task

ROW_MULTIPLE = 8  # unpacked rows have a multiple of so many tokens, which suits matrix units


def make_loader(
    task: Task, examples: Any, batching: Batching, mesh: Mesh, *, steps: int | None
) -> Loader:
    """Batches for training, or one ordered pass over everything if `steps` is None.

    If the trunk cannot keep the examples of a row apart (`Task.packs`), each row holds one example
    and is as long as the longest.
    """
    row_tokens, packing = batching.row_tokens, batching.packing and task.packs
    if not task.packs:
        longest = max(int(side.lengths.max()) for side in examples.sides)
        row_tokens = -(-longest // ROW_MULTIPLE) * ROW_MULTIPLE
    fitted = dataclasses.replace(batching, row_tokens=row_tokens, packing=packing)
    return lay_out(examples.sides, fitted, mesh, task.share)(
        batch_size=batching.batch_size,
        steps=steps,
        seed=None if steps is None else batching.seed,
        microbatches=None if steps is None else batching.most_microbatches,
        segments=batching.most_segments,
    )


def lay_out(
    sides: Sequence[Examples], batching: Batching, mesh: Mesh, share: Share
) -> Callable[..., Loader]:
    """`Loader` with these examples and the layout of its rows; the caller says which batches."""
    shared = share(sides, batching.row_tokens)
    rows = batching.rows(shared, len(sides), meshes.row_parts(mesh))
    return functools.partial(
        Loader,
        *sides,
        row_tokens=batching.row_tokens,
        rows_per_microbatch=rows,
        packing=batching.packing,
        prefetch_steps=batching.prefetch_steps,
        rows_here=meshes.rows_here(mesh, rows),
        shared=shared,
    )
