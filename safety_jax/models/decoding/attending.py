"""Attention of new tokens to what lies in the caches.

A token's keys lie in up to three places: what all prompts begin with, its prompt, and what was
written or read beside it. Attention to each is a `Partial`, a softmax that is not divided yet, and
partials are joined by their sums: the result is the softmax over all of them, exactly (`visiting`).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from safety_jax.models.attention import Rule
from safety_jax.models.decoding import caches
from safety_jax.models.decoding.visiting import (
    Partial,
    add,
    block_of,
    blocks_for,
    by_group,
    of_group,
    partial,
    rows_together,
    visit,
    visit_groups,
)

FAR = 2**30  # a window that nothing is beyond
QUERY_BLOCK = 128  # of tokens that are read: a block meets only the tokens before its end


def window_of(rules: Sequence[Rule], kind: Any) -> jax.Array | None:
    """The window of a layer of this kind; None where no kind has one."""
    windows = [rule.window for rule in rules]
    if not any(windows):
        return None
    return jnp.asarray([FAR if one is None else one for one in windows], jnp.int32)[kind]


# ---------------------------------------------------------------------------- writing


class Seats(NamedTuple):
    """Which lanes answer which prompt.

    Attributes:
        prompts: [R] the prompt slot of each lane.
        seats: [R] the lane's place among its prompt's lanes.
        lanes: [P, C] the lane on each seat; any lane where the seat is empty.
        lengths: [P] tokens in each prompt slot.
        prefix: tokens that all prompts begin with, before those.
    """

    prompts: Any
    seats: Any
    lanes: Any
    lengths: Any
    prefix: Any


class View(NamedTuple):
    """What is looked at in one step, in all layers.

    Attributes:
        column: of the ring, written at this step.
        written: [R] tokens that each lane has written before.
        positions: [R] of the token that each lane reads, in its whole text.
        nearest: the first position that a living lane reads.
        oldest: [groups] the most tokens that a living lane of a group has written before.
        longest: [groups] the most tokens in a slot of a group.
    """

    column: Any
    written: Any
    positions: Any
    nearest: Any
    oldest: Any
    longest: Any


def look(
    seats: Seats,
    cache: caches.Cache,
    written: Int[Array, " R"],
    alive: Bool[Array, " R"],
    column: Int[Array, ""],
    mesh: Mesh,
) -> View:
    """What lanes look at when the ring's `column` is written; only blocks that a living lane or a
    filled slot needs are visited."""
    positions = seats.prefix + seats.lengths[seats.prompts] + written
    return View(
        column,
        written,
        positions,
        jnp.min(jnp.where(alive, positions, FAR)),
        by_group(jnp.where(alive, written, 0), rows_together(cache.own_keys, mesh)),
        by_group(seats.lengths, rows_together(cache.prompt_keys, mesh)),
    )


def write(
    layer: Int[Array, ""],
    cache: caches.Cache,
    q: Float[Array, "R 1 H E"],
    k: Float[Array, "R 1 K E"],
    v: Float[Array, "R 1 K E"],
    kind: Any,
    *,
    seats: Seats,
    view: View,
    rules: Sequence[Rule],
    mesh: Mesh,
) -> tuple[Float[Array, "R 1 H E"], tuple[caches.Cache, None]]:
    """Puts one token of each lane into the ring, and attends to prefix, prompt and ring; a
    `llama.CachedAttend`.

    Args:
        rules: of the model's kinds of layers.
    """
    R, _, H, E = q.shape
    K, (P, C) = k.shape[2], seats.lanes.shape
    sizes, dtype = caches.sizes(cache), caches.in_products(cache, q.dtype)
    b, W = sizes.block_tokens, sizes.own_tokens
    cache = caches.write_column(cache, layer, view.column, k[:, 0], v[:, 0], mesh)
    q = q[:, 0].astype(dtype).reshape(R, K, H // K, E)
    index, rule, window = jnp.arange(b), rules[0], window_of(rules, kind)
    r, p = (rows_together(array, mesh) for array in (cache.own_keys, cache.prompt_keys))

    def look_own(number, start):
        block = (view.column // b - number) % (W // b)
        ages = (view.column - (block * b + index)) % W
        mask = ages[None, :] <= of_group(view.written, start, r)[:, None]
        if window is not None:
            mask = mask & (ages < window)[None, :]
        found = block_of(cache.own_keys, cache.own_values, layer, block, start, r)
        return found, mask[:, None, None]

    # [P, C] lanes of a prompt, their heads beside each other: one product over C · H/K rows.
    together = jnp.swapaxes(q[seats.lanes], 1, 2).reshape(P, K, -1, E)

    def look_prompt(block, start):
        place, lengths = block * b + index, of_group(seats.lengths, start, p)
        mask = jnp.broadcast_to((place[None] < lengths[:, None])[:, None], (p, C, b))
        if window is not None:
            here, lanes = (seats.prefix + place)[None, None], of_group(seats.lanes, start, p)
            mask = mask & (view.positions[lanes][:, :, None] - here < window)
        found = block_of(cache.prompt_keys, cache.prompt_values, layer, block, start, p)
        return found, jnp.repeat(mask, H // K, axis=1)[:, None]

    # All lanes' heads beside each other.
    everyone = jnp.swapaxes(q, 0, 1).reshape(1, K, -1, E)

    def look_prefix(block):
        place = block * b + index
        mask = jnp.broadcast_to(place < seats.prefix, (R, b))
        if window is not None:
            mask = mask & (view.positions[:, None] - place[None] < window)
        found = block_of(cache.prefix_keys, cache.prefix_values, layer, block)
        return found, jnp.repeat(mask, H // K, axis=0)[None, None]

    def from_seats(part: jax.Array) -> jax.Array:
        by_seat = jnp.swapaxes(part.reshape(P, K, C, H // K, -1), 1, 2)
        return by_seat[seats.prompts, seats.seats]

    def from_everyone(part: jax.Array) -> jax.Array:
        return jnp.swapaxes(part.reshape(K, R, H // K, -1), 0, 1)

    # Of a window, blocks that no living lane looks at any more are passed over.
    older, seen = view.oldest, jnp.int32(0)
    if window is not None:
        older = jnp.minimum(older, window - 1)
        seen = jnp.maximum(view.nearest + 1 - window, 0)
    in_ring = 1 + blocks_for(jnp.maximum(older - view.column % b, 0), b)
    own = visit_groups(q, r, (0, jnp.minimum(in_ring, W // b)), rule, look_own)
    first = jnp.maximum(seen - seats.prefix, 0) // b
    prompt = visit_groups(together, p, (first, blocks_for(view.longest, b)), rule, look_prompt)
    prefix = visit(everyone, (seen // b, blocks_for(seats.prefix, b)), rule, look_prefix)
    found = add(own, add(Partial(*map(from_seats, prompt)), Partial(*map(from_everyone, prefix))))
    return (found.weighted / found.total).reshape(R, 1, H, E).astype(v.dtype), (cache, None)


# ---------------------------------------------------------------------------- reading


class PromptRows(NamedTuple):
    """Prompts that are read together, packed into rows.

    Attributes:
        ids, segments, positions: [B, T] as of `batch.Tokens`; positions in the whole text.
        to: where keys and values go.
        slots, past: [B] the first segment of a row goes on after so many tokens in this slot;
            0 where a prompt begins.
        prefix: tokens before every segment, that lie in the prefix.
    """

    ids: Any
    segments: Any
    positions: Any
    to: caches.Destinations
    slots: Any
    past: Any
    prefix: Any


def read(
    layer: Int[Array, ""],
    cache: caches.Cache,
    q: Float[Array, "B T H E"],
    k: Float[Array, "B T K E"],
    v: Float[Array, "B T K E"],
    kind: Any,
    *,
    rows: PromptRows,
    rules: Sequence[Rule],
) -> tuple[Float[Array, "B T H E"], tuple[caches.Cache, tuple[jax.Array, jax.Array]]]:
    """Attends to prefix, to the earlier part of a prompt in its slot, and to earlier tokens of the
    same segment; keeps the rows' keys and values. A `llama.CachedAttend`."""
    B, T, H, E = q.shape
    K, G, dtype = k.shape[2], H // k.shape[2], caches.in_products(cache, q.dtype)
    b, rule, window = caches.sizes(cache).block_tokens, rules[0], window_of(rules, kind)
    index = jnp.arange(b)
    q = jnp.transpose(q.astype(dtype).reshape(B, T, K, G, E), (0, 2, 1, 3, 4))

    def near(positions: jax.Array, of_keys: jax.Array) -> jax.Array:
        apart = positions[..., None] - of_keys
        return jnp.ones_like(apart, bool) if window is None else apart < window

    def heads(mask: Bool[Array, "B T S"]) -> Bool[Array, "B 1 M S"]:
        return jnp.repeat(mask, G, axis=1)[:, None]

    everyone = jnp.swapaxes(q, 0, 1).reshape(1, K, -1, E)

    def look_prefix(block):
        place = block * b + index
        mask = (place < rows.prefix)[None, None] & near(rows.positions, place[None, None])
        found = block_of(cache.prefix_keys, cache.prefix_values, layer, block)
        return found, jnp.repeat(mask.reshape(B * T, b), G, axis=0)[None, None]

    def look_past(block):
        place = block * b + index
        mask = (place[None] < rows.past[:, None])[:, None] & (rows.segments == 1)[:, :, None]
        mask = mask & near(rows.positions, (rows.prefix + place)[None, None])
        found = block_of(cache.prompt_keys, cache.prompt_values, layer, block)
        return jax.tree.map(lambda part: part[rows.slots], found), heads(mask)

    flat = q.reshape(B, K, -1, E)
    prefix = visit(everyone, (0, blocks_for(rows.prefix, b)), rule, look_prefix)
    shared = (jnp.swapaxes(part.reshape(K, B, T * G, -1), 0, 1) for part in prefix)
    past = visit(flat, (0, blocks_for(jnp.max(rows.past), b)), rule, look_past)
    before = add(Partial(*shared), past)

    keys = jnp.transpose(k.astype(dtype), (0, 2, 3, 1))
    values = jnp.swapaxes(v.astype(dtype), 1, 2)
    outputs = []
    for start in range(0, T, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, T)
        here, seen = slice(start, stop), slice(0, stop)
        mask = rows.segments[:, here, None] == rows.segments[:, None, seen]
        mask = mask & (jnp.arange(start, stop)[:, None] >= jnp.arange(stop)[None])[None]
        mask = mask & near(rows.positions[:, here], rows.positions[:, None, seen])
        of_block = partial(
            flat[:, :, start * G : stop * G], keys[..., seen], values[:, :, seen], heads(mask), rule
        )
        found = add(of_block, Partial(*(part[:, :, start * G : stop * G] for part in before)))
        outputs.append(found.weighted / found.total)
    attended = jnp.concatenate(outputs, axis=2).reshape(B, K, T, G, E)
    attended = jnp.transpose(attended, (0, 2, 1, 3, 4)).reshape(B, T, H, E)
    return attended.astype(v.dtype), (cache, (k, v))
