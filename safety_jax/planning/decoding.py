"""The two programs of decoding on abstract arrays: prompts are read, tokens are written."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from safety_jax.base import meshes
from safety_jax.models.decoding import caches, generation, programs
from safety_jax.models.decoding.unrolled import UnrolledModel, unroll
from safety_jax.models.model import Model
from safety_jax.planning import abstract


def cache(model: Model, setup: generation.Setup, sizes: caches.CacheSizes) -> caches.Cache:
    """Every layer's keys and values."""
    where = meshes.sharding(model.mesh, caches.AXES)
    return jax.tree.map(
        lambda x: abstract.array(x.shape, x.dtype, where),
        jax.eval_shape(lambda: caches.zeros(model.config, sizes, setup.pace.cache_dtype)),
    )


def unrolled(model: Model) -> UnrolledModel:
    """The second copy of the weights, layer by layer, that `session.Session` makes; where each
    array lies is the compiler's choice."""
    where = unroll.lower(model).compile().output_shardings
    shapes = jax.eval_shape(unroll, model)
    return jax.tree.map(lambda x, s: abstract.array(x.shape, x.dtype, s), shapes, where)


def lower_reading(
    model: Model, setup: generation.Setup, held: caches.Cache, prompt_tokens: int
) -> Any:
    """`programs.read_prompts`, for as many prompts as are read at once."""
    host = functools.partial(abstract.replicated, model.mesh)
    rows = setup.pace.prefill_prompts
    return programs.read_prompts.lower(
        model, held, host(rows, prompt_tokens), host(rows), host(rows)
    )


def lower_writing(
    model: UnrolledModel, setup: generation.Setup, held: caches.Cache, sizes: caches.CacheSizes
) -> Any:
    """`programs.write_tokens`; one trip of its loop writes one token in every lane."""
    host = functools.partial(abstract.replicated, model.execution.mesh)
    R, P, C = sizes.lanes, sizes.prompts, setup.settings.candidates
    seen = sizes.own_tokens if setup.settings.frequency_penalty else 0
    lanes = programs.Lanes(host(R), host(R), host(R, dtype=jnp.bool_))
    seats = caches.Seats(host(R), host(R), host(P, C), host(P))
    seed, names = host(2, dtype=jnp.uint32), host(R, 2, dtype=jnp.uint32)
    return programs.write_tokens.lower(
        model, setup.settings, setup.eos_ids, setup.pace.chunk_steps, held, host(R, seen), lanes,
        seats, seed, names, host(), host(), host(),
    )  # fmt: skip
