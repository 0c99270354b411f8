"""The compiled programs of decoding: read prompts into slots, and write tokens in lanes.

A chunk of steps runs until its steps are done or enough lanes have finished. Then the host gives
the free lanes to waiting candidates (`generation`). Answers depend neither on idle lanes nor on the
length of a chunk.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int, UInt32

from safety_jax.base import meshes
from safety_jax.models.decoding import attending, caches, filling, reading, sampling
from safety_jax.models.decoding.sampling import SamplingParams
from safety_jax.models.model import Model


class Lanes(NamedTuple):
    """The state of lanes between two steps.

    Attributes:
        tokens: [R] the token that the next step reads: the last of the prompt, or the newest of the
            answer.
        written: [R] the number of tokens of the answer so far.
        alive: [R] whether the lane is answering a candidate.
    """

    tokens: Any
    written: Any
    alive: Any


class DecodedChunk(NamedTuple):
    """The tokens of several steps: `ids` [R, steps], -1 for an idle lane, and their
    log-probabilities under the unmodified model."""

    ids: Any
    logprobs: Any
    steps: Any


@functools.partial(jax.jit, donate_argnames=("cache",))
def read_prompts(model: Model, cache: caches.Cache, rows: reading.PromptRows) -> caches.Cache:
    """Reads packed prompts, and writes their keys and values into their slots."""
    arrangement = caches.arranged(model.config, cache)
    attend = functools.partial(
        reading.read, rows=rows, rules=model.config.rules, arrangement=arrangement
    )
    _, cache, (keys, values) = model.cached(rows.ids, rows.positions, attend, cache)
    return filling.insert(cache, keys, values, rows.to, arrangement, model.mesh)


def next_logits(
    model: Model,
    cache: caches.Cache,
    seats: attending.Seats,
    lanes: Lanes,
    column: Int[Array, ""],
) -> tuple[Float[Array, "R V"], caches.Cache]:
    """One step of every lane: reads its token, and returns the logits of the next one."""
    view = attending.look(seats, cache, lanes.written, lanes.alive, column, model.mesh)
    attend = functools.partial(
        attending.write, seats=seats, view=view, rules=model.config.rules,
        arrangement=caches.arranged(model.config, cache), mesh=model.mesh,
    )  # fmt: skip
    tokens, positions = lanes.tokens[:, None], view.positions[:, None]
    hidden, cache, _ = model.cached(tokens, positions, attend, cache)
    logits = model.logits(hidden)[:, 0]
    return meshes.regroup(logits, model.mesh, ("stream", "vocab"), ("rows", "drawn")), cache


@functools.partial(
    jax.jit,
    static_argnames=("settings", "eos_ids", "steps"),
    donate_argnames=("cache",),
)
def write_tokens(
    model: Model,
    settings: SamplingParams,
    eos_ids: tuple[int, ...],
    steps: int,
    cache: caches.Cache,
    history: Int[Any, "R W"],
    lanes: Lanes,
    seats: attending.Seats,
    seed: UInt32[Any, " 2"],
    names: UInt32[Any, "R 2"],
    most: Int[Any, ""],
    column: Int[Any, ""],
    enough: Int[Any, ""],
) -> tuple[caches.Cache, DecodedChunk]:
    """Writes until `steps` steps are done or `enough` lanes have finished.

    Args:
        settings: see `SamplingParams.drawing`.
        history: the token that each lane read in each column of the ring; [R, 0] without a penalty.
        seed: key data.
        names: the prompt id and candidate number of each lane, which are folded into the seed.
        most: the most tokens of an answer.
        column: the number of earlier steps in this call; modulo its length, the column of the ring
            that the first step writes.
    """
    rows, W = history.shape
    began, keys = lanes.alive, sampling.candidate_keys(seed, names)
    ends = jnp.asarray(eos_ids, jnp.int32)

    def go_on(state):
        lanes, chunk = state[2:]
        finished = jnp.sum(began & ~lanes.alive)
        return (chunk.steps < steps) & (finished < enough)

    def step(state):
        cache, history, lanes, chunk = state
        now = column + chunk.steps
        logits, cache = next_logits(model, cache, seats, lanes, now)
        modified = logits
        if settings.frequency_penalty:
            history = jax.lax.dynamic_update_slice(history, lanes.tokens[:, None], (0, now % W))
            ages = (now - jnp.arange(W)) % W
            generated = ages[None, :] < lanes.written[:, None]
            modified = sampling.penalise(logits, history, generated, settings.frequency_penalty)
        tokens = sampling.draw(modified, keys, lanes.written, settings)
        logprobs = sampling.logprob(logits, tokens)
        place = (0, chunk.steps)
        ids = jnp.where(lanes.alive, tokens, -1)[:, None]
        chunk = DecodedChunk(
            jax.lax.dynamic_update_slice(chunk.ids, ids, place),
            jax.lax.dynamic_update_slice(chunk.logprobs, logprobs[:, None], place),
            chunk.steps + 1,
        )
        written = lanes.written + lanes.alive
        ended = (tokens[:, None] == ends[None, :]).any(axis=1)
        alive = lanes.alive & ~ended & (written < most)
        return cache, history, Lanes(tokens, written, alive), chunk

    shape = (rows, steps)
    empty = DecodedChunk(jnp.full(shape, -1, jnp.int32), jnp.zeros(shape), jnp.int32(0))
    cache, _, _, chunk = jax.lax.while_loop(go_on, step, (cache, history, lanes, empty))
    whole = jax.NamedSharding(model.mesh, PartitionSpec())
    chunk = jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, whole), chunk)
    return cache, chunk
