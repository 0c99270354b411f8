"""Keys and values of what was read and written, and where they lie.

What all prompts of a call begin with is read once and kept once. The rest of a prompt lies in one
of P slots; each of its candidates writes its own tokens into one of R lanes. All layers are stacked
and tokens lie in blocks of b, so that a loop over layers updates its own part in place, and
attention visits only blocks that somebody looks at:

    prefix keys, values   [L, X, 1, K, E, b], [L, X, 1, K, b, E]   what all prompts begin with
    prompt keys, values   [L, Y, P, K, E, b], [L, Y, P, K, b, E]   slot p holds `lengths[p]` tokens
    own keys, values      [L, Z, R, K, E, b], [L, Z, R, K, b, E]   a ring: lanes write one column

The ring's column is one slice for all lanes, whenever each of them began, so the update happens in
place. A lane that has written t + 1 tokens looks at the t + 1 newest columns.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from safety_jax.base import meshes
from safety_jax.models import llama

AXES = (None, None, "rows", "whole_heads", None, None)
SHARED_AXES = (None, None, None, "whole_heads", None, None)


class Cache(NamedTuple):
    """The arrays of all layers."""

    prefix_keys: Any
    prefix_values: Any
    prompt_keys: Any
    prompt_values: Any
    own_keys: Any
    own_values: Any


PLACES = Cache(SHARED_AXES, SHARED_AXES, AXES, AXES, AXES, AXES)


class CacheSizes(NamedTuple):
    """Every length that a compiled program depends on; tokens are multiples of a block."""

    lanes: int  # R
    prompts: int  # P
    prefix_tokens: int  # X b
    prompt_tokens: int  # Y b
    own_tokens: int  # Z b
    block_tokens: int  # b


def zeros(config: llama.LlamaConfig, sizes: CacheSizes, dtype: DTypeLike) -> Cache:
    b, head = sizes.block_tokens, (config.kv_heads, config.head_size)

    def pair(tokens: int, rows: int) -> tuple[jax.Array, jax.Array]:
        lead, (K, E) = (config.layers, tokens // b, rows), head
        return jnp.zeros((*lead, K, E, b), dtype), jnp.zeros((*lead, K, b, E), dtype)

    return Cache(
        *pair(sizes.prefix_tokens, 1),
        *pair(sizes.prompt_tokens, sizes.prompts),
        *pair(sizes.own_tokens, sizes.lanes),
    )


def constrain(cache: Cache, mesh: Mesh) -> Cache:
    """Pins every array where it lives."""
    return Cache(*(meshes.constrain(x, mesh, axes) for x, axes in zip(cache, PLACES, strict=True)))


@functools.partial(jax.jit, static_argnames=("config", "sizes", "dtype", "mesh"))
def allocate(config: llama.LlamaConfig, sizes: CacheSizes, dtype: DTypeLike, mesh: Mesh) -> Cache:
    """Zeros where they will live."""
    return constrain(zeros(config, sizes, dtype), mesh)


def sizes(cache: Cache) -> CacheSizes:
    _, X, _, _, b, _ = cache.prefix_values.shape
    _, Y, P, _, _, _ = cache.prompt_values.shape
    _, Z, R, _, _, _ = cache.own_values.shape
    return CacheSizes(R, P, X * b, Y * b, Z * b, b)


class Destinations(NamedTuple):
    """Where keys and values of freshly read tokens go; what lies beyond an array is dropped.

    Attributes:
        slots, places: [B, T] the prompt slot of each token, and its place there.
        prefix_places: [T] of the first row's tokens, their place in what all prompts share.
    """

    slots: Any
    places: Any
    prefix_places: Any


def tokens_first(fresh: Float[Array, "L B T K E"]) -> Float[Array, "N L K E"]:
    """Keys or values of all rows' tokens, as a scatter takes them."""
    return jnp.moveaxis(fresh.reshape(fresh.shape[0], -1, *fresh.shape[3:]), 1, 0)


def insert(
    cache: Cache,
    keys: Float[Array, "L B T K E"],
    values: Float[Array, "L B T K E"],
    to: Destinations,
    mesh: Mesh,
) -> Cache:
    """Puts freshly read tokens into their places."""
    b = sizes(cache).block_tokens
    slots, (block, column) = to.slots.reshape(-1), jnp.divmod(to.places.reshape(-1), b)
    shared_block, shared_column = jnp.divmod(to.prefix_places, b)

    everything = tokens_first(keys), tokens_first(values)
    of_first_row = tokens_first(keys[:, :1]), tokens_first(values[:, :1])

    def put(block, row, column, arrays: tuple[jax.Array, ...], fresh: tuple[jax.Array, ...]) -> Any:
        into_keys = arrays[0].at[:, block, row, :, :, column]
        into_values = arrays[1].at[:, block, row, :, column, :]
        return tuple(
            at.set(tokens.astype(array.dtype), mode="drop")
            for at, tokens, array in zip((into_keys, into_values), fresh, arrays, strict=True)
        )

    first_row = jnp.zeros_like(shared_block)
    prefix_keys, prefix_values = put(
        shared_block, first_row, shared_column, cache[:2], of_first_row
    )
    prompt_keys, prompt_values = put(block, slots, column, cache[2:4], everything)
    placed = cache._replace(
        prefix_keys=prefix_keys,
        prefix_values=prefix_values,
        prompt_keys=prompt_keys,
        prompt_values=prompt_values,
    )
    return constrain(placed, mesh)


def write_column(
    cache: Cache,
    layer: Int[Array, ""],
    column: Int[Array, ""],
    keys: Float[Array, "R K E"],
    values: Float[Array, "R K E"],
    mesh: Mesh,
) -> Cache:
    """Puts one token of every lane into a column of the ring, in one layer."""
    block, within = jnp.divmod(column, sizes(cache).block_tokens)

    def put(array: jax.Array, token: jax.Array, place: tuple[Any, Any], axis: int) -> jax.Array:
        token = jnp.expand_dims(token.astype(array.dtype), axis)[None, None]
        placed = jax.lax.dynamic_update_slice(array, token, (layer, block, 0, 0, *place))
        return meshes.constrain(placed, mesh, AXES)

    return cache._replace(
        own_keys=put(cache.own_keys, keys, (0, within), 3),
        own_values=put(cache.own_values, values, (within, 0), 2),
    )


def follow(cache: Cache, lanes: Int[Array, " R"], blocks: Int[Array, ""], mesh: Mesh) -> Cache:
    """Every lane goes on from what another one wrote, which lies in the first blocks."""

    def move(array: jax.Array) -> jax.Array:
        def one(block: Any, moved: jax.Array) -> jax.Array:
            old = jax.lax.dynamic_index_in_dim(moved, block, 1)
            return jax.lax.dynamic_update_index_in_dim(moved, old[:, :, lanes], block, 1)

        return meshes.constrain(jax.lax.fori_loop(0, blocks, one, array), mesh, AXES)

    return cache._replace(own_keys=move(cache.own_keys), own_values=move(cache.own_values))


def rearrange(
    cache: Cache, lanes: Int[Array, " R"], prompts: Int[Array, " P"], mesh: Mesh
) -> Cache:
    """A cache of these lanes and prompt slots of the old one, in this order."""
    taken = cache._replace(
        prompt_keys=jnp.take(cache.prompt_keys, prompts, axis=2),
        prompt_values=jnp.take(cache.prompt_values, prompts, axis=2),
        own_keys=jnp.take(cache.own_keys, lanes, axis=2),
        own_values=jnp.take(cache.own_values, lanes, axis=2),
    )
    return constrain(taken, mesh)
