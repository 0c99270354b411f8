"""The two programs of decoding on abstract arrays: one reads prompts, the other writes tokens."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from safety_jax.base import meshes
from safety_jax.models.decoding import attending, caches, filling, generation, programs, reading
from safety_jax.models.model import Model
from safety_jax.planning import abstract


def cache(model: Model, setup: generation.Setup, sizes: caches.CacheSizes) -> caches.Cache:
    """The keys and values of all layers."""
    shapes = jax.eval_shape(lambda: caches.zeros(model.config, sizes, setup.pace.cache_dtype))
    return caches.each_place(
        shapes,
        lambda x, axes: abstract.array(x.shape, x.dtype, meshes.sharding(model.mesh, axes)),
    )


def lower_reading(model: Model, setup: generation.Setup, held: caches.Cache) -> Any:
    """`programs.read_prompts`, with one row for each part into which the mesh divides rows."""
    host = functools.partial(abstract.replicated, model.mesh)
    B, T = meshes.row_parts(model.mesh), setup.pace.prefill_tokens
    to = filling.Destinations(host(B, T), host(B, T), host(B, T), host(T), host(T))
    ids, segments, positions = (host(B, T) for _ in range(3))
    rows = reading.PromptRows(ids, segments, positions, to, host(B), host(B), host())
    return programs.read_prompts.lower(model, held, rows)


def lower_writing(
    model: Model, setup: generation.Setup, held: caches.Cache, sizes: caches.CacheSizes
) -> Any:
    """`programs.write_tokens`; one trip of its loop writes one token in every lane."""
    host = functools.partial(abstract.replicated, model.mesh)
    R, P, C = sizes.lanes, sizes.prompts, setup.settings.candidates
    seen = sizes.own_tokens if setup.settings.frequency_penalty else 0
    lanes = programs.Lanes(host(R), host(R), host(R, dtype=jnp.bool_))
    seats = attending.Seats(host(R), host(R), host(P, C), host(P), host())
    seed, names = host(2, dtype=jnp.uint32), host(R, 2, dtype=jnp.uint32)
    return programs.write_tokens.lower(
        model, setup.settings.drawing, setup.eos_ids, setup.pace.chunk_steps, held, host(R, seen),
        lanes, seats, seed, names, host(), host(), host(),
    )  # fmt: skip
