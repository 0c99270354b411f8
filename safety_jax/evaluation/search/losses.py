"""Losses of suffixes and their gradients: the compiled functions of a search.

The loss of a goal is the mean negative log-probability of its target's tokens (arXiv 2307.15043,
equation 3, divided by the number of tokens as in the authors' program).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from safety_jax.base import meshes
from safety_jax.base.batch import Tokens
from safety_jax.evaluation.search.layout import RowPlan
from safety_jax.maths import logprobs
from safety_jax.models.model import Model


class Losses(NamedTuple):
    """The loss of every suffix in every row.

    Attributes:
        loss: in nats per token of the target.
        reached: whether each token of the target is the most likely one, so that greedy decoding
            would write it.
    """

    loss: Float[Array, "R n"]
    reached: Bool[Array, "R n"]


@functools.partial(jax.jit, static_argnames=("rows", "chunk_tokens"))
def candidate_losses(
    model: Model, goal: Tokens, suffixes: Int[Array, "R n S"], rows: RowPlan, chunk_tokens: int
) -> Losses:
    """The losses of many suffixes for one request; every host gets all of them.

    Args:
        goal: a row [T] by `layout.lay_out`.
        suffixes: R a multiple of `meshes.row_parts`.
        chunk_tokens: see `logprobs.token_logprobs`.
    """
    count = suffixes.shape[0]
    spread = jax.tree.map(lambda x: jnp.broadcast_to(x[None], (count, *x.shape)), goal)
    tokens = _with_suffixes(model, spread, suffixes.reshape(count, -1), rows)
    found = _losses(model, tokens, None, rows, chunk_tokens)
    return jax.tree.map(lambda x: meshes.constrain(x, model.mesh, (None, None)), found)


@functools.partial(jax.jit, static_argnames=("rows", "chunk_tokens"))
def slopes(
    model: Model,
    goals: Tokens,
    suffix: Int[Array, " S"],
    counts: Float[Array, " G"],
    rows: RowPlan,
    chunk_tokens: int,
) -> tuple[Losses, Float[Array, "S V"]]:
    """Losses of one suffix for several requests, and the sum of their gradients by its one-hot
    tokens, each normalised at every position so that no request outweighs another (algorithm 2).

    Args:
        goals: rows [G T] of one suffix each; G a multiple of `meshes.row_parts`.
        counts: 1 for rows that count, 0 for padding.
    """
    found, gradients = one_hot_gradients(model, goals, suffix, rows, chunk_tokens)
    norms = jnp.sqrt(jnp.sum(gradients**2, axis=-1, keepdims=True))
    total = jnp.einsum("gsv,g->sv", gradients / jnp.maximum(norms, 1e-30), counts)
    whole = functools.partial(meshes.constrain, mesh=model.mesh, logical=(None, None))
    return jax.tree.map(whole, found), whole(total)


def one_hot_gradients(
    model: Model, goals: Tokens, suffix: Int[Array, " S"], rows: RowPlan, chunk_tokens: int
) -> tuple[Losses, Float[Array, "G S V"]]:
    """Losses, and the gradient of each by the one-hot tokens of its suffix.

    A one-hot token reaches the model only through its embedding, so this is the gradient by the
    embedded token times the embedding table: no [S, V] input is multiplied.
    """
    count, S = goals.ids.shape[0], rows.slots
    tokens = _with_suffixes(model, goals, jnp.broadcast_to(suffix[None], (count, S)), rows)

    def total(nudge: Float[Array, "G S D"]) -> tuple[Array, Losses]:
        shift = jnp.zeros((*tokens.ids.shape, nudge.shape[-1]), nudge.dtype)
        shift = shift.at[:, rows.cells].set(nudge)
        shift = meshes.constrain(shift, model.mesh, ("rows", "tokens", "width"))
        found = _losses(model, tokens, shift, rows, chunk_tokens)
        return found.loss.sum(), found

    still = jnp.zeros((count, S, model.config.width), model.execution.compute_dtype)
    (_, found), gradient = jax.value_and_grad(total, has_aux=True)(still)
    return found, model.token_gradient(gradient)


@functools.partial(jax.jit, static_argnames="most")
def best_tokens(
    slope: Float[Array, "S V"], allowed: Bool[Array, " V"], most: int
) -> Int[Array, "S K"]:
    """For each position of the suffix, the tokens with the largest negative gradient, the best
    first."""
    downwards = jnp.where(allowed[None], -slope, -jnp.inf)
    return jax.lax.top_k(downwards, most)[1]


def _with_suffixes(
    model: Model, goals: Tokens, suffixes: Int[Array, "R nS"], rows: RowPlan
) -> Tokens:
    """Rows with the suffixes filled in, sharded over the devices."""
    ids = goals.ids.at[:, rows.cells].set(suffixes)
    filled = Tokens(ids, goals.positions, goals.segments, goals.mask, goals.prefixes)
    return jax.tree.map(lambda x: meshes.constrain(x, model.mesh, ("rows", "tokens")), filled)


def _losses(
    model: Model,
    tokens: Tokens,
    shift: Float[Array, "R T D"] | None,
    rows: RowPlan,
    chunk_tokens: int,
) -> Losses:
    targets, mask = logprobs.shift(tokens)
    hidden = model.forward(tokens, shift)
    found = logprobs.token_logprobs(hidden, model.head(), targets, mask, chunk_tokens=chunk_tokens)
    # A target's first token is predicted inside its own segment, because the suffix comes before.
    by_tail = functools.partial(logprobs.segment_sums, segments=tokens.segments, most=rows.tails)
    length = by_tail(mask.astype(jnp.float32))
    return Losses(
        -by_tail(found.logprobs) / length, by_tail(found.correct.astype(jnp.float32)) == length
    )
