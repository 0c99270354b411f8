"""Keys and values of what was read and written, and where they lie.

What all prompts of a call begin with is read once and kept once. The rest of a prompt lies in one
of P slots; each of its candidates writes its own tokens into one of R lanes. All layers are stacked
and tokens lie in blocks of b, so that a loop over layers updates its own part in place, and
attention visits only blocks that somebody looks at:

    prefix keys, values   [L, X, 1, K, E, b], [L, X, 1, K, b, E]   what all prompts begin with
    prompt keys, values   [L, Y, P, K, E, b], [L, Y, P, K, b, E]   slot p holds `lengths[p]` tokens
    own keys, values      [L, Z, R, K, E, b], [L, Z, R, K, b, E]   a ring: lanes write one column

With int8 (`Codes`) every array has a second one beside it, of a scale for each head of a token.

The ring's column is one slice for all lanes, whenever each of them began, so the update happens in
place. A lane that has written t + 1 tokens looks at the t + 1 newest columns.
"""

import functools
from collections.abc import Callable
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


class Codes(NamedTuple):
    """Keys or values in 255 steps: number = code · scale, the largest of a token's head being 127.

    Attributes:
        codes: int8.
        scales: float32, of the same shape without E; tokens are the last axis of both keys' and
            values', for a last axis of 1 would take a TPU 128 times its memory.
    """

    codes: Any
    scales: Any

    @classmethod
    def of(cls, fresh: Float[Array, "*N E"]) -> "Codes":
        wide = fresh.astype(jnp.float32)
        scales = jnp.abs(wide).max(axis=-1) / 127
        codes = jnp.round(wide / jnp.where(scales > 0, scales, 1)[..., None])
        return cls(codes.astype(jnp.int8), scales)


def numbers(held: Any, dtype: DTypeLike) -> jax.Array:
    """Keys or values as they enter a product, scales left out."""
    return (held.codes if isinstance(held, Codes) else held).astype(dtype)


def in_products(cache: "Cache", computes: DTypeLike) -> DTypeLike:
    """The type of products with this cache, of a model that computes in another."""
    held = cache.own_keys
    return computes if isinstance(held, Codes) else held.dtype


def number_bytes(dtype: DTypeLike, head_size: int) -> float:
    """Of one number of a cache of this type, its share of a scale included."""
    kind = jnp.dtype(dtype)
    return kind.itemsize + (4 / head_size if kind == jnp.int8 else 0.0)


def _held_as(fresh: Float[Array, "*N E"], held: Any) -> Any:
    """Fresh keys or values as an array of the cache holds them."""
    return Codes.of(fresh) if isinstance(held, Codes) else fresh.astype(held.dtype)


class Cache(NamedTuple):
    """The arrays of all layers; each may be `Codes`."""

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
    b, K, E = sizes.block_tokens, config.kv_heads, config.head_size

    def pair(tokens: int, rows: int) -> tuple[Any, Any]:
        lead = (config.layers, tokens // b, rows, K)
        keys, values = jnp.zeros((*lead, E, b), dtype), jnp.zeros((*lead, b, E), dtype)
        if keys.dtype != jnp.int8:
            return keys, values
        scales = jnp.zeros((2, *lead, b), jnp.float32)
        return Codes(keys, scales[0]), Codes(values, scales[1])

    return Cache(
        *pair(sizes.prefix_tokens, 1),
        *pair(sizes.prompt_tokens, sizes.prompts),
        *pair(sizes.own_tokens, sizes.lanes),
    )


def constrain(cache: Cache, mesh: Mesh) -> Cache:
    """Pins every array where it lives."""
    return each_place(cache, lambda part, axes: meshes.constrain(part, mesh, axes))


def each_place(cache: Cache, function: Callable[[Any, Any], Any]) -> Cache:
    """`function` of every array, and of where it lives."""

    def of(held: Any, axes: Any) -> Any:
        return jax.tree.map(lambda part: function(part, axes[: part.ndim]), held)

    return Cache(*map(of, cache, PLACES))


@functools.partial(jax.jit, static_argnames=("config", "sizes", "dtype", "mesh"))
def allocate(config: llama.LlamaConfig, sizes: CacheSizes, dtype: DTypeLike, mesh: Mesh) -> Cache:
    """Zeros where they will live."""
    return constrain(zeros(config, sizes, dtype), mesh)


def sizes(cache: Cache) -> CacheSizes:
    prefix, prompt, own = (
        (held.codes if isinstance(held, Codes) else held).shape
        for held in (cache.prefix_values, cache.prompt_values, cache.own_values)
    )
    (_, X, _, _, b, _), (_, Y, P, _, _, _), (_, Z, R, _, _, _) = prefix, prompt, own
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

    def put(block, row, column, arrays: tuple[Any, ...], fresh: tuple[jax.Array, ...]) -> Any:
        def key(array: jax.Array, token: jax.Array) -> jax.Array:
            return array.at[:, block, row, ..., column].set(token, mode="drop")

        def value(array: jax.Array, token: jax.Array) -> jax.Array:
            return array.at[:, block, row, :, column].set(token, mode="drop")

        return tuple(
            jax.tree.map(into, array, _held_as(tokens, array))
            for into, array, tokens in zip((key, value), arrays, fresh, strict=True)
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

    def put(array: jax.Array, token: jax.Array, axis: int) -> jax.Array:
        place: list[Any] = [layer, block, *(0,) * (array.ndim - 2)]
        place[axis] = within
        token = jnp.expand_dims(token[None, None], axis)
        placed = jax.lax.dynamic_update_slice(array, token, place)
        return meshes.constrain(placed, mesh, AXES[: array.ndim])

    def key(array: jax.Array, token: jax.Array) -> jax.Array:
        return put(array, token, array.ndim - 1)

    def value(array: jax.Array, token: jax.Array) -> jax.Array:
        return put(array, token, 4)

    return cache._replace(
        own_keys=jax.tree.map(key, cache.own_keys, _held_as(keys, cache.own_keys)),
        own_values=jax.tree.map(value, cache.own_values, _held_as(values, cache.own_values)),
    )


def follow(cache: Cache, lanes: Int[Array, " R"], blocks: Int[Array, ""], mesh: Mesh) -> Cache:
    """Every lane goes on from what another one wrote, which lies in the first blocks."""

    def move(array: jax.Array) -> jax.Array:
        def one(block: Any, moved: jax.Array) -> jax.Array:
            old = jax.lax.dynamic_index_in_dim(moved, block, 1)
            return jax.lax.dynamic_update_index_in_dim(moved, old[:, :, lanes], block, 1)

        placed = jax.lax.fori_loop(0, blocks, one, array)
        return meshes.constrain(placed, mesh, AXES[: array.ndim])

    own = jax.tree.map(move, (cache.own_keys, cache.own_values))
    return cache._replace(own_keys=own[0], own_values=own[1])


def rearrange(
    cache: Cache, lanes: Int[Array, " R"], prompts: Int[Array, " P"], mesh: Mesh
) -> Cache:
    """A cache of these lanes and prompt slots of the old one, in this order."""
    of_prompts = jax.tree.map(lambda x: jnp.take(x, prompts, axis=2), cache[2:4])
    of_lanes = jax.tree.map(lambda x: jnp.take(x, lanes, axis=2), cache[4:])
    return constrain(Cache(*cache[:2], *of_prompts, *of_lanes), mesh)
