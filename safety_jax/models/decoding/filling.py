"""Keys and values on their way into the caches, and lanes and prompts that change places there."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from safety_jax.base import meshes
from safety_jax.models import bits
from safety_jax.models.decoding import caches


def places_held(
    cells: Int[Array, " b"], length: Int[Array, "*N"], tokens: int
) -> Int[Array, "*N b"]:
    """The place of the token that lies in each of these cells of a ring of `tokens`, after `length`
    tokens were put into it; negative where none does."""
    turn = (length - 1) // tokens * tokens
    newest = turn[..., None] + jnp.broadcast_to(cells, (*length.shape, len(cells)))
    return jnp.where(newest < length[..., None], newest, newest - tokens)


class Destinations(NamedTuple):
    """Where keys and values of freshly read tokens go.

    Attributes:
        slots, places: [B, T] the prompt slot of each token, and its place there.
        later: [B, T] tokens of the same slot read behind it in the same row; `NOWHERE`: of a token
            that is kept nowhere.
        prefix_places, prefix_later: [T] likewise of the first row's tokens, in what all prompts
            share.
    """

    slots: Any
    places: Any
    later: Any
    prefix_places: Any
    prefix_later: Any


NOWHERE = 2**30  # more tokens than any array holds


def held_as(fresh: Float[Array, "*N E"], held: Any) -> Any:
    """Fresh keys or values as this array of a cache holds them."""
    if isinstance(held, caches.Codes):
        return caches.Codes.of(fresh)
    if held.dtype == bits.BITS:
        return jax.lax.bitcast_convert_type(fresh.astype(bits.FLOATS), bits.BITS)
    return fresh.astype(held.dtype)


def tokens_first(fresh: Any) -> Any:
    """Keys or values [L, B, T, K, E] of all rows' tokens as a scatter takes them, [N, L, K, E]."""
    return jax.tree.map(
        lambda part: jnp.moveaxis(part.reshape(part.shape[0], -1, *part.shape[3:]), 1, 0), fresh
    )


def insert(
    cache: caches.Cache,
    keys: Any,
    values: Any,
    to: Destinations,
    arrangement: caches.Arrangement,
    mesh: Mesh,
) -> caches.Cache:
    """Puts freshly read tokens into their places; where a ring is shorter than what was read, the
    last of them.

    Args:
        keys, values: [L, B, T, K, E] as the cache holds them, see `held_as`.
    """
    if len(cache) == 1:
        return caches.constrain((_insert(cache[0], keys, values, to),), mesh)

    def taken(layers: tuple[int, ...], fresh: Any) -> Any:
        return jax.tree.map(lambda part: part[np.array(layers)], fresh)

    placed = [
        _insert(stack, taken(layers, keys), taken(layers, values), to)
        for stack, layers in zip(cache, arrangement.layers, strict=True)
    ]
    return caches.constrain(tuple(placed), mesh)


def _insert(stack: caches.Stack, keys: Any, values: Any, to: Destinations) -> caches.Stack:
    here = caches.sizes(stack)
    everything = tokens_first(keys), tokens_first(values)
    of_first_row = tokens_first(jax.tree.map(lambda part: part[:, :1], (keys, values)))

    def put(arrays, fresh, row: Any, places: Any, later: Any, tokens: int) -> Any:
        block, column = jnp.divmod(places.reshape(-1) % tokens, here.block_tokens)
        block = jnp.where(later.reshape(-1) < tokens, block, NOWHERE)  # dropped

        def key(array: jax.Array, token: jax.Array) -> jax.Array:
            return array.at[:, block, row, ..., column].set(token, mode="drop")

        def value(array: jax.Array, token: jax.Array) -> jax.Array:
            return array.at[:, block, row, :, column].set(token, mode="drop")

        return tuple(
            jax.tree.map(into, array, tokens_of)
            for into, array, tokens_of in zip((key, value), arrays, fresh, strict=True)
        )

    first_row = jnp.zeros_like(to.prefix_places)
    prefix_keys, prefix_values = put(
        stack[:2], of_first_row, first_row, to.prefix_places, to.prefix_later, here.prefix_tokens
    )
    prompt_keys, prompt_values = put(
        stack[2:4], everything, to.slots.reshape(-1), to.places, to.later, here.prompt_tokens
    )
    return stack._replace(
        prefix_keys=prefix_keys,
        prefix_values=prefix_values,
        prompt_keys=prompt_keys,
        prompt_values=prompt_values,
    )


def write_column(
    stack: caches.Stack,
    place: caches.LayerPlace,
    column: Int[Array, ""],
    keys: Float[Array, "R K E"],
    values: Float[Array, "R K E"],
    mesh: Mesh,
) -> caches.Stack:
    """Puts one token of every lane into a column of the ring, in one layer.

    Of a layer that lies elsewhere, keys and values go where those of the next layer here will, in
    this step or the next, so that no write depends on what was there: it stays in place.
    """
    here = caches.sizes(stack)
    block, within = jnp.divmod((column + place.later) % here.own_tokens, here.block_tokens)

    def put(array: jax.Array, token: jax.Array, axis: int) -> jax.Array:
        start: list[Any] = [place.number, block, *(0,) * (array.ndim - 2)]
        start[axis] = within
        token = jnp.expand_dims(token[None, None], axis)
        placed = jax.lax.dynamic_update_slice(array, token, start)
        return meshes.constrain(placed, mesh, caches.AXES[: array.ndim])

    def key(array: jax.Array, token: jax.Array) -> jax.Array:
        return put(array, token, array.ndim - 1)

    def value(array: jax.Array, token: jax.Array) -> jax.Array:
        return put(array, token, 4)

    return stack._replace(
        own_keys=jax.tree.map(key, stack.own_keys, held_as(keys, stack.own_keys)),
        own_values=jax.tree.map(value, stack.own_values, held_as(values, stack.own_values)),
    )


def follow(
    cache: caches.Cache, lanes: Int[Array, " R"], written: Int[Array, ""], mesh: Mesh
) -> caches.Cache:
    """Every lane goes on from what another one wrote, which lies in the columns up to `written`."""

    def move(array: jax.Array, blocks: jax.Array) -> jax.Array:
        def one(block: Any, moved: jax.Array) -> jax.Array:
            old = jax.lax.dynamic_index_in_dim(moved, block, 1)
            return jax.lax.dynamic_update_index_in_dim(moved, old[:, :, lanes], block, 1)

        placed = jax.lax.fori_loop(0, jnp.minimum(blocks, array.shape[1]), one, array)
        return meshes.constrain(placed, mesh, caches.AXES[: array.ndim])

    def moved(stack: caches.Stack) -> caches.Stack:
        blocks = written // caches.sizes(stack).block_tokens + 1
        own = jax.tree.map(lambda part: move(part, blocks), stack[4:])
        return caches.Stack(*stack[:4], *own)

    return tuple(map(moved, cache))


def rearrange(
    cache: caches.Cache, lanes: Int[Array, " R"], prompts: Int[Array, " P"], mesh: Mesh
) -> caches.Cache:
    """A cache of these lanes and prompt slots of the old one, in this order."""

    def rearranged(stack: caches.Stack) -> caches.Stack:
        of_prompts = jax.tree.map(lambda x: jnp.take(x, prompts, axis=2), stack[2:4])
        of_lanes = jax.tree.map(lambda x: jnp.take(x, lanes, axis=2), stack[4:])
        return caches.Stack(*stack[:2], *of_prompts, *of_lanes)

    return caches.constrain(tuple(map(rearranged, cache)), mesh)
