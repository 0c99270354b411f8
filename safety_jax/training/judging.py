"""Batches of answers on the mesh, and the loss around an objective.

As for preferences, the loss returns a table with one row an example, so that every metric is plain
arithmetic on the host.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from safety_jax.base import trees
from safety_jax.base.batch import Answers, Tokens
from safety_jax.data.judged import JudgedAnswers
from safety_jax.data.loader import Batch, Loader
from safety_jax.training import placement
from safety_jax.training import step as steps
from safety_jax.training.judge_model import Trainee

# (scores, targets) `[..., N]` -> losses `[...]`
JudgeObjective = Callable[[jax.Array, jax.Array], jax.Array]


def place_on(mesh: Mesh, loader: Loader, data: JudgedAnswers) -> placement.PutBatch:
    """Puts batches of answers onto the mesh; a single answer is a row of N = 1."""
    put = placement.put_rows(mesh, loader.rows_per_microbatch)
    sides, S = len(data.sides), loader.most_segments

    def place(batch: Batch) -> tuple[Answers, jax.Array]:
        tokens = batch.tokens
        if sides == 1:
            tokens = jax.tree.map(lambda x: x[:, :, None], tokens)
        rows = tokens.ids.shape[:2]
        ends = np.zeros((*rows, sides, S), np.int32)
        slots = np.full((*rows, S), -1, np.int32)
        targets = np.zeros((*rows, S, sides), np.float32)
        for k, microbatch, row in loader.here(batch.layout):
            i, s = batch.examples[k], batch.layout.segment[k] - 1
            slots[microbatch, row, s] = k
            ends[microbatch, row, :, s] = batch.layout.start[k] + loader.lengths[i] - 1
            if data.targets is not None:
                targets[microbatch, row, s] = data.targets[i]
        arrays = Answers(tokens, ends, slots, targets)
        return jax.tree.map(put, arrays), placement.put_everywhere(mesh, batch.used)

    return place


def count(batch: Answers) -> jax.Array:
    """Examples of the batch."""
    return (batch.slots >= 0).sum().astype(jnp.float32)


def make_loss(trained: Trainee, objective: JudgeObjective, *, batch_size: int) -> steps.Loss:
    """The mean of an objective over the batch's examples.

    The table "examples" has the N scores of each and its loss.

    Args:
        batch_size: rows of the table.
    """

    def loss(
        trainable: trees.Tree,
        frozen: trees.Tree,
        batch: Answers,
        total: jax.Array,
        key: jax.Array | None,
    ):
        b, N, S = batch.ends.shape
        # [b, N, T] -> [bN, T]: rows stay on their devices, both sides of a pair on one.
        tokens: Tokens = jax.tree.map(lambda x: x.reshape(b * N, -1), batch.tokens)
        scores = trained.scores(trainable, frozen, tokens, batch.ends.reshape(b * N, S), key)
        scores = scores.reshape(b, N, S).swapaxes(1, 2)
        losses = objective(scores, batch.targets)
        real = batch.slots >= 0
        rows = jnp.concatenate([scores, losses[..., None]], axis=-1).reshape(b * S, N + 1)
        slots = jnp.where(real, batch.slots, batch_size).reshape(-1)  # beyond the end: dropped
        table = jnp.zeros((batch_size, N + 1)).at[slots].add(rows, mode="drop")
        mean = jnp.where(real, losses, 0.0).sum() / total
        return {"loss": mean, "examples": jax.lax.stop_gradient(table)}

    return loss
