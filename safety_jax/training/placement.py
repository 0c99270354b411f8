"""Puts batches onto the mesh: a host's rows from the loader become global arrays for the step."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from safety_jax.base import meshes
from safety_jax.base.batch import Answers, Tokens
from safety_jax.base.errors import ConfigError
from safety_jax.data.loader import Batch, Loader
from safety_jax.maths import logprobs

PutBatch = Callable[[Batch], tuple[Any, jax.Array]]
# For each side, a value for every token, in the order of `Examples.ids`.
TokenValues = Sequence[Float[np.ndarray, "..."]]


@runtime_checkable
class Marked(Protocol):
    """Examples with known targets (`targets` may be None)."""

    @property
    def targets(self) -> Float[np.ndarray, "n N"] | None: ...


def place_tokens(mesh: Mesh, loader: Loader) -> PutBatch:
    """Returns a function that puts a batch's tokens and its number of used microbatches onto the
    mesh, see `put_rows`."""
    put = put_rows(mesh, loader.rows_per_microbatch)

    def place(batch: Batch) -> tuple[Tokens, jax.Array]:
        return jax.tree.map(put, batch.tokens), put_everywhere(mesh, batch.used)

    return place


def place_answers(
    mesh: Mesh,
    loader: Loader,
    data: Marked,
    reference: TokenValues | None = None,
    weights: TokenValues | None = None,
) -> PutBatch:
    """Returns a function that puts batches of answers onto the mesh; single answers have N = 1.

    Args:
        reference: for each side, the log-probability of every token under the reference.
        weights: for each side, the weight of every token.
    """
    put = put_rows(mesh, loader.rows_per_microbatch)
    sides, S = loader.lengths.shape[1], loader.most_segments

    def place(batch: Batch) -> tuple[Answers, jax.Array]:
        tokens = batch.tokens
        if sides == 1:
            tokens = jax.tree.map(lambda x: x[:, :, None], tokens)
        rows = tokens.ids.shape[:2]
        slots = np.full((*rows, S), -1, np.int32)
        ends = np.zeros((*rows, S, sides), np.int32)
        targets = np.zeros((*rows, S, sides), np.float32)
        for k, microbatch, row in loader.here(batch.layout):
            i, s = batch.examples[k], batch.layout.segment[k] - 1
            slots[microbatch, row, s] = k
            own = (loader.own(k, side, batch.examples, batch.layout)[1] for side in range(sides))
            ends[microbatch, row, s] = [cells.stop - 1 for cells in own]
            if data.targets is not None:
                targets[microbatch, row, s] = data.targets[i]
        by_token = (
            None if values is None else loader.per_token(values, batch.examples, batch.layout)
            for values in (reference, weights)
        )
        arrays = Answers(tokens, slots, ends, targets, *by_token)
        return jax.tree.map(put, arrays), put_everywhere(mesh, batch.used)

    return place


def put_everywhere(mesh: Mesh, number: int) -> jax.Array:
    return meshes.put(mesh, (), np.asarray(number, np.int32))


def put_rows(mesh: Mesh, rows_per_microbatch: int) -> Callable[[np.ndarray], jax.Array]:
    """Puts a host's part of `[A, b, ...]` onto its devices; b counts the rows of all hosts.

    Raises:
        ConfigError: b is no multiple of the devices that rows are divided over.
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


# ---------------------------------------------------------------------------- losses over rows


def side_rows(x: jax.Array) -> jax.Array:
    """[b, M, T] -> [bM, T]; rows stay on their devices, and all sides of an example on the same."""
    return x.reshape(-1, x.shape[-1])


def by_row(values: jax.Array, rows: int) -> jax.Array:
    """Values of examples and sides by segment of each row: [b, S, N] -> [bM, SN/M].

    Args:
        rows: M.
    """
    b, S, N = values.shape
    return values.reshape(b, S, rows, N // rows).swapaxes(1, 2).reshape(b * rows, -1)


def by_example(values: jax.Array, batch: Answers) -> jax.Array:
    """The inverse of `by_row`: [bM, SN/M] -> [b, S, N]."""
    (b, S, N), M = batch.targets.shape, batch.tokens.ids.shape[-2]
    return values.reshape(b, M, S, N // M).swapaxes(1, 2).reshape(b, S, N)


def sums_by_example(values: jax.Array, batch: Answers) -> jax.Array:
    """Sums over the tokens of each side: [bM, T] -> [b, S, N]."""
    segments = side_rows(batch.tokens.segments)
    most = batch.targets.size // len(segments)
    return by_example(logprobs.segment_sums(values.astype(jnp.float32), segments, most), batch)


def trained_tokens(batch: Answers, side: int) -> jax.Array:
    """The number of trained tokens of a side, in any number of microbatches."""
    mask, segments = batch.tokens.mask, batch.tokens.segments
    together = batch.targets.shape[-1] // mask.shape[-2]
    own = mask & ((segments - 1) % together == side % together)
    return own[..., side // together, :].sum()


def table_of(rows: jax.Array, slots: jax.Array, batch_size: int) -> jax.Array:
    """A table with one row for each example, from values by segment.

    Args:
        rows: [b, S, columns].
        slots: [b, S], see `Answers`.
        batch_size: rows of the table.
    """
    columns = rows.shape[-1]
    # Empty segments are written beyond the end, where they are dropped.
    places = jnp.where(slots >= 0, slots, batch_size).reshape(-1)
    table = jnp.zeros((batch_size, columns)).at[places].add(rows.reshape(-1, columns), mode="drop")
    return jax.lax.stop_gradient(table)
