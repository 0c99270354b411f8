"""Attention to stacked arrays, block by block, up to the last block that a query needs.

Attention to some of the keys is a `Partial`, a softmax before the division; partials are added.

A CPU copies a block out of its array before it multiplies. On a CPU, rows are therefore visited in
groups whose blocks fit in its cache, and each group only up to the last block that its own rows
need. To make groups alike, prompts are sorted into slots by length, longest first.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Shaped

from safety_jax.models.attention import Rule
from safety_jax.models.decoding import caches

MASKED = -1e30  # finite: a Partial without any key adds nothing, and no NaN
GROUP_BYTES = 2**20  # of one block of a group of rows on a CPU: half the cache of a core


class Partial(NamedTuple):
    """Attention to some of the keys: softmax numerator and denominator, relative to a logit."""

    weighted: jax.Array  # [N K M E]
    total: jax.Array  # [N K M 1]
    largest: jax.Array  # [N K M 1]


def nothing(q: Float[Array, "N K M E"]) -> Partial:
    """Attention to no keys at all."""
    sums = jnp.zeros((*q.shape[:-1], 1), jnp.float32)
    return Partial(jnp.zeros(q.shape, jnp.float32), sums, jnp.full_like(sums, MASKED))


def partial(
    q: Float[Array, "N K M E"],
    keys: Shaped[Array, "N K E S"] | caches.Codes,
    values: Shaped[Array, "N K S E"] | caches.Codes,
    mask: Bool[Array, "#N 1 #M S"],
    rule: Rule,
) -> Partial:
    """Attention to some keys, in float32. The scales of `Codes` are applied to scores and weights
    instead of the codes, so that the codes enter the products as they are stored."""
    products = jnp.einsum(
        "nkme,nkes->nkms", q, caches.numbers(keys, q.dtype), preferred_element_type=jnp.float32
    )
    if isinstance(keys, caches.Codes):
        products = products * keys.scales[:, :, None]
    scores = jnp.where(mask, rule.scores(products, q.shape[-1]), MASKED)
    largest = scores.max(axis=-1, keepdims=True)
    weights = jnp.exp(scores - largest)
    factors = weights
    if isinstance(values, caches.Codes):
        factors = weights * values.scales[:, :, None]
    weighted = jnp.einsum(
        "nkms,nkse->nkme",
        factors.astype(q.dtype),
        caches.numbers(values, q.dtype),
        preferred_element_type=jnp.float32,
    )
    return Partial(weighted, weights.sum(axis=-1, keepdims=True), largest)


def add(first: Partial, second: Partial) -> Partial:
    """Attention to the keys of both; either may be masked completely."""
    largest = jnp.maximum(first.largest, second.largest)
    scales = jnp.exp(first.largest - largest), jnp.exp(second.largest - largest)
    return Partial(
        first.weighted * scales[0] + second.weighted * scales[1],
        first.total * scales[0] + second.total * scales[1],
        largest,
    )


Block = tuple[Any, Any]  # keys [N K E b] and values [N K b E]


def visit(
    q: Float[Array, "N K M E"],
    blocks: tuple[Any, Any],
    rule: Rule,
    look: Callable[[jax.Array], tuple[Block, jax.Array]],
    found: Partial | None,
) -> Partial:
    """Attention to a range of blocks, added to what was `found`. `look` returns the keys, values
    and mask of a block."""

    def one(number, found):
        (keys, values), mask = look(number)
        return add(found, partial(q, keys, values, mask, rule))

    return jax.lax.fori_loop(*blocks, one, nothing(q) if found is None else found)


def rows_together(held: Shaped[Array, "L Y N K _ _"] | caches.Codes, mesh: Mesh) -> int:
    """The number of rows in a group; a divisor of N."""
    array = held.codes if isinstance(held, caches.Codes) else held
    rows = array.shape[2]
    if mesh.size > 1 or mesh.devices.flat[0].platform != "cpu":
        return rows
    row_bytes = math.prod(array.shape[3:]) * array.dtype.itemsize
    while rows % 2 == 0 and rows * row_bytes > GROUP_BYTES:
        rows //= 2
    return rows


def of_group(x: jax.Array, start: Any, rows: int) -> jax.Array:
    """The part of an array [N ...] that belongs to a group."""
    return x if rows == len(x) else jax.lax.dynamic_slice_in_dim(x, start, rows)


def by_group(values: Int[Array, " N"], rows: int) -> Int[Array, " groups"]:
    """The largest value of each group."""
    return jnp.max(values.reshape(-1, rows), axis=1)


def visit_groups(
    q: Float[Array, "N K M E"],
    rows: int,
    blocks: tuple[Any, Int[Array, " groups"]],
    rule: Rule,
    look: Callable[[jax.Array, Any], tuple[Block, jax.Array]],
    found: Partial | None,
) -> Partial:
    """`visit`, group by group.

    Args:
        rows: in a group.
        blocks: the first block, for all groups, and the end of the range of each group.
        look: as for `visit`, but also given the group's first row.
    """
    first, behind = blocks

    def one(group: Any) -> Partial:
        start = group * rows
        of_these, before = jax.tree.map(lambda x: of_group(x, start, rows), (q, found))
        blocks = first, behind[group]
        return visit(of_these, blocks, rule, lambda number: look(number, start), before)

    if rows == len(q):
        return one(0)
    groups = jax.lax.map(one, jnp.arange(len(q) // rows))
    return Partial(*(part.reshape(-1, *part.shape[2:]) for part in groups))


def block_of(
    keys: Any,
    values: Any,
    layer: jax.Array,
    block: jax.Array,
    start: Any = 0,
    rows: int | None = None,
) -> Block:
    """One block of one layer of stacked arrays: `rows` rows from `start`, or all for None."""

    def cut(array: jax.Array) -> jax.Array:
        place: tuple[Any, ...] = (layer, block, start, *(0,) * (array.ndim - 3))
        _, _, N, *rest = array.shape
        return jax.lax.dynamic_slice(array, place, (1, 1, rows or N, *rest))[0, 0]

    return jax.tree.map(cut, (keys, values))


def blocks_for(tokens: jax.Array, block_tokens: int) -> jax.Array:
    return (tokens + block_tokens - 1) // block_tokens
