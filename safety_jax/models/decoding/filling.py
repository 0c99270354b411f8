"""Writing keys and values into the caches, and reordering lanes and prompts in them."""

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
    """The place of the token in each of these cells of a ring of `tokens`, after `length` tokens
    were written into it; negative for an empty cell."""
    turn = (length - 1) // tokens * tokens
    newest = turn[..., None] + jnp.broadcast_to(cells, (*length.shape, len(cells)))
    return jnp.where(newest < length[..., None], newest, newest - tokens)


class Destinations(NamedTuple):
    """Where keys and values of freshly read tokens go.

    Attributes:
        slots, places: [B, T] the prompt slot of each token, and its place in the slot.
        later: [B, T] how many tokens for the same slot follow in the same row; `NOWHERE` for a
            token that is not kept.
        prefix_places, prefix_later: [T] the same for the tokens of the first row, in the shared
            prefix.
    """

    slots: Any
    places: Any
    later: Any
    prefix_places: Any
    prefix_later: Any


NOWHERE = 2**30  # more than the tokens of any array


def held_as(fresh: Float[Array, "*N E"], held: Any) -> Any:
    """Fresh keys or values in the type of this array of a cache."""
    if isinstance(held, caches.Codes):
        return caches.Codes.of(fresh)
    if held.dtype == bits.BITS:
        return jax.lax.bitcast_convert_type(fresh.astype(bits.FLOATS), bits.BITS)
    return fresh.astype(held.dtype)


def tokens_first(fresh: Any) -> Any:
    """Moves the tokens of keys or values [L, B, T, K, E] to the front, [N, L, K, E], for a
    scatter."""
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
    """Writes freshly read tokens into their places. If a ring is shorter than the text that was
    read, only the last tokens are kept.

    Args:
        keys, values: [L, B, T, K, E] in the type of the cache, see `held_as`.
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
    """Writes one token of every lane into a column of the ring, for one layer.

    If the layer belongs to another stack, the write goes to the place that the next layer of this
    stack will overwrite, in this step or the next. Every layer therefore writes unconditionally, so
    that XLA can update the array in place.
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
    """Copies to every lane what another lane wrote, in the columns up to `written`."""

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
    """A cache with these lanes and prompt slots of the old one, in this order."""

    def rearranged(stack: caches.Stack) -> caches.Stack:
        of_prompts = jax.tree.map(lambda x: jnp.take(x, prompts, axis=2), stack[2:4])
        of_lanes = jax.tree.map(lambda x: jnp.take(x, lanes, axis=2), stack[4:])
        return caches.Stack(*stack[:2], *of_prompts, *of_lanes)

    return caches.constrain(tuple(map(rearranged, cache)), mesh)
