"""Reading prompts: how they are packed into rows of a fixed size, without padding, and what their
tokens attend to."""

import collections
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from safety_jax.models.attention import Rule
from safety_jax.models.decoding import caches, filling
from safety_jax.models.decoding.attending import window_of
from safety_jax.models.decoding.visiting import (
    Partial,
    add,
    block_of,
    blocks_for,
    partial,
    visit,
)

QUERY_BLOCK = 128  # tokens; a block of queries meets only the keys before its end

Prompt = tuple[int, Sequence[int]]  # its slot, and its tokens after the prefix


class PromptRows(NamedTuple):
    """Prompts that are read together, packed into rows.

    Attributes:
        ids, segments, positions: [B, T] as in `batch.Tokens`; positions count from the beginning of
            the whole text.
        to: where keys and values go.
        slots, past: [B] for a row whose first segment continues a prompt: its slot, and how many
            tokens the slot has already; past is 0 if the row begins with a new prompt.
        prefix: tokens of the shared prefix, which precede every segment.
    """

    ids: Any
    segments: Any
    positions: Any
    to: filling.Destinations
    slots: Any
    past: Any
    prefix: Any


def shared(prompts: Sequence[Sequence[int]], worth: int) -> int:
    """The length of the prefix that all prompts share, without the last token of any prompt; 0 if
    reading it once does not save more than `worth` tokens."""
    first, last = min(map(tuple, prompts)), max(map(tuple, prompts))
    most = min(map(len, prompts)) - 1
    count = next((i for i in range(most) if first[i] != last[i]), most)
    return count if count * (len(prompts) - 1) > worth else 0


def empty(sizes: caches.CacheSizes, B: int, T: int, prefix: int) -> PromptRows:
    """Rows of padding, whose keys and values are not kept."""
    ids, segments, positions, places = (np.zeros((B, T), np.int32) for _ in range(4))
    to = filling.Destinations(
        slots=np.full((B, T), sizes.prompts, np.int32),
        places=places,
        later=np.full((B, T), filling.NOWHERE, np.int32),
        prefix_places=np.zeros(T, np.int32),
        prefix_later=np.full(T, filling.NOWHERE, np.int32),
    )
    slots, past = np.zeros(B, np.int32), np.zeros(B, np.int32)
    return PromptRows(ids, segments, positions, to, slots, past, np.int32(prefix))


def pack_prefix(
    prefix: Sequence[int], sizes: caches.CacheSizes, B: int, T: int
) -> Iterator[PromptRows]:
    """The shared prefix in pieces of T tokens; each piece attends to those before it."""
    for start in range(0, len(prefix), T):
        piece = prefix[start : start + T]
        rows, here = empty(sizes, B, T, start), slice(0, len(piece))
        rows.ids[0, here], rows.segments[0, here] = piece, 1
        rows.positions[0, here] = rows.to.prefix_places[here] = start + np.arange(len(piece))
        rows.to.prefix_later[here] = np.arange(len(piece))[::-1]
        yield rows


def pack(
    prompts: Sequence[Prompt], prefix: int, sizes: caches.CacheSizes, B: int, T: int
) -> Iterator[PromptRows]:
    """Batches of B rows of T tokens. All rows are filled: a prompt that does not fit continues at
    the beginning of the same row in the next batch, where it attends to its slot.

    Args:
        prefix: the length of the shared prefix, which was read before.
    """
    waiting = collections.deque(prompt for prompt in prompts if len(prompt[1]))
    begun: list[tuple[int, Sequence[int], int] | None] = [None] * B
    while waiting or any(begun):
        rows = empty(sizes, B, T, prefix)
        for row in range(B):
            at, segment = 0, 0
            while at < T and (begun[row] or waiting):
                slot, ids, done = begun[row] or (*waiting.popleft(), 0)
                segment, count = segment + 1, min(T - at, len(ids) - done)
                here, places = slice(at, at + count), done + np.arange(count)
                rows.ids[row, here] = ids[done : done + count]
                rows.segments[row, here] = segment
                rows.positions[row, here] = prefix + places
                rows.to.slots[row, here], rows.to.places[row, here] = slot, places
                rows.to.later[row, here] = np.arange(count)[::-1]
                if done:
                    rows.slots[row], rows.past[row] = slot, done
                at, done = at + count, done + count
                begun[row] = (slot, ids, done) if done < len(ids) else None
        yield rows


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
    arrangement: caches.Arrangement,
) -> tuple[Float[Array, "B T H E"], tuple[caches.Cache, tuple[Any, Any]]]:
    """Attends to the prefix, to the part of a prompt that is in its slot, and to earlier tokens of
    the same segment. Returns the rows' keys and values in the type of the cache. A
    `llama.CachedAttend`.
    """
    B, T, H, E = q.shape
    K, dtype = k.shape[2], caches.in_products(cache, q.dtype)
    looks = _Looks(rows, rules[0], window_of(rules, kind), H // K)
    # The query heads of a key head in one axis: one product over T · H/K rows.
    q = jnp.transpose(q.astype(dtype).reshape(B, T, K, -1, E), (0, 2, 1, 3, 4)).reshape(B, K, -1, E)
    before = looks.at_cache(cache, arrangement, layer, q)
    keys = jnp.transpose(k.astype(dtype), (0, 2, 3, 1))
    values = jnp.swapaxes(v.astype(dtype), 1, 2)
    found = looks.at_segments(q, keys, values, before)
    attended = jnp.transpose(found.reshape(B, K, T, -1, E), (0, 2, 1, 3, 4)).reshape(B, T, H, E)
    kept = filling.held_as(k, cache[0].own_keys), filling.held_as(v, cache[0].own_values)
    return attended.astype(v.dtype), (cache, kept)


class _Looks(NamedTuple):
    """Attention of a layer's queries to the cache and to their own rows.

    Attributes:
        window: of the layer; None if no layer has one.
        share: query heads per key head.
    """

    rows: PromptRows
    rule: Rule
    window: jax.Array | None
    share: int

    def at_cache(
        self,
        cache: caches.Cache,
        arrangement: caches.Arrangement,
        layer: Int[Array, ""],
        q: Float[Array, "B K M E"],
    ) -> Partial:
        """Attention of all tokens to the prefix, and of each row's first segment to its slot."""
        B, K, M, E = q.shape
        everyone = jnp.swapaxes(q, 0, 1).reshape(1, K, -1, E)
        prefix = past = None
        for number, stack in enumerate(cache):
            place, sizes = arrangement.place(number, layer), caches.sizes(stack)
            filled = jnp.minimum(self.rows.prefix, sizes.prefix_tokens)
            blocks = 0, place.blocks(blocks_for(filled, sizes.block_tokens))
            look = functools.partial(self._prefix, stack, place)
            prefix = visit(everyone, blocks, self.rule, look, prefix)
            filled = jnp.minimum(jnp.max(self.rows.past), sizes.prompt_tokens)
            blocks = 0, place.blocks(blocks_for(filled, sizes.block_tokens))
            look = functools.partial(self._past, stack, place)
            past = visit(q, blocks, self.rule, look, past)
        assert prefix is not None and past is not None
        shared = (jnp.swapaxes(part.reshape(K, B, M, -1), 0, 1) for part in prefix)
        return add(Partial(*shared), past)

    def at_segments(
        self,
        q: Float[Array, "B K M E"],
        keys: Float[Array, "B K E T"],
        values: Float[Array, "B K T E"],
        before: Partial,
    ) -> Float[Array, "B K M E"]:
        """Attention to earlier tokens of the same segment, joined with that to the cache, which
        came `before`."""
        rows, T, G = self.rows, keys.shape[-1], self.share
        outputs = []
        for start in range(0, T, QUERY_BLOCK):
            stop = min(start + QUERY_BLOCK, T)
            here, seen, queries = slice(start, stop), slice(0, stop), slice(start * G, stop * G)
            mask = rows.segments[:, here, None] == rows.segments[:, None, seen]
            mask = mask & (jnp.arange(start, stop)[:, None] >= jnp.arange(stop)[None])[None]
            mask = mask & self._near(rows.positions[:, here], rows.positions[:, None, seen])
            of_block = partial(
                q[:, :, queries], keys[..., seen], values[:, :, seen], self._heads(mask), self.rule
            )
            found = add(of_block, Partial(*(part[:, :, queries] for part in before)))
            outputs.append(found.weighted / found.total)
        return jnp.concatenate(outputs, axis=2)

    def _prefix(self, stack: caches.Stack, place: caches.LayerPlace, block: jax.Array):
        places = self._places(stack, block, self.rows.prefix, caches.sizes(stack).prefix_tokens)
        mask = (places >= 0)[None, None] & self._near(self.rows.positions, places[None, None])
        held = block_of(stack.prefix_keys, stack.prefix_values, place.number, block)
        return held, jnp.repeat(mask.reshape(-1, mask.shape[-1]), self.share, axis=0)[None, None]

    def _past(self, stack: caches.Stack, place: caches.LayerPlace, block: jax.Array):
        rows = self.rows
        places = self._places(stack, block, rows.past, caches.sizes(stack).prompt_tokens)
        mask = (places >= 0)[:, None] & (rows.segments == 1)[:, :, None]
        mask = mask & self._near(rows.positions, (rows.prefix + places)[:, None])
        held = block_of(stack.prompt_keys, stack.prompt_values, place.number, block)
        return jax.tree.map(lambda part: part[rows.slots], held), self._heads(mask)

    def _places(self, stack: caches.Stack, block: jax.Array, filled: Any, tokens: int) -> jax.Array:
        """The places of the tokens that lie in a block of a ring of `tokens`, of which so many were
        `filled`; negative where none does."""
        b = caches.sizes(stack).block_tokens
        return filling.places_held(block * b + jnp.arange(b), filled, tokens)

    def _near(self, positions: jax.Array, of_keys: jax.Array) -> jax.Array:
        """Whether keys at positions `of_keys` are in the window of queries at `positions`."""
        apart = positions[..., None] - of_keys
        return jnp.ones_like(apart, bool) if self.window is None else apart < self.window

    def _heads(self, mask: Bool[Array, "B T S"]) -> Bool[Array, "B 1 M S"]:
        return jnp.repeat(mask, self.share, axis=1)[:, None]
