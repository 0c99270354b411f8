"""How prompts are packed into rows of fixed size to be read: without padding, and in pieces."""

import collections
from collections.abc import Iterator, Sequence

import numpy as np

from safety_jax.models.decoding import caches
from safety_jax.models.decoding.attending import PromptRows

Prompt = tuple[int, Sequence[int]]  # its slot, and its tokens behind the prefix


def shared(prompts: Sequence[Sequence[int]], worth: int) -> int:
    """Tokens that all prompts begin with, the last one of each left out; 0 where reading them once
    saves fewer tokens than `worth`."""
    first, last = min(map(tuple, prompts)), max(map(tuple, prompts))
    most = min(map(len, prompts)) - 1
    count = next((i for i in range(most) if first[i] != last[i]), most)
    return count if count * (len(prompts) - 1) > worth else 0


def empty(sizes: caches.CacheSizes, B: int, T: int, prefix: int) -> PromptRows:
    """Rows of padding, whose keys and values go nowhere."""
    ids, segments, positions, places = (np.zeros((B, T), np.int32) for _ in range(4))
    nowhere = np.full((B, T), sizes.prompts, np.int32)
    beyond = np.full(T, sizes.prefix_tokens, np.int32)
    to = caches.Destinations(nowhere, places, beyond)
    slots, past = np.zeros(B, np.int32), np.zeros(B, np.int32)
    return PromptRows(ids, segments, positions, to, slots, past, np.int32(prefix))


def pack_prefix(
    prefix: Sequence[int], sizes: caches.CacheSizes, B: int, T: int
) -> Iterator[PromptRows]:
    """What all prompts begin with, T tokens at a time: each piece meets those before it."""
    for start in range(0, len(prefix), T):
        piece = prefix[start : start + T]
        rows, here = empty(sizes, B, T, start), slice(0, len(piece))
        rows.ids[0, here], rows.segments[0, here] = piece, 1
        rows.positions[0, here] = rows.to.prefix_places[here] = start + np.arange(len(piece))
        yield rows


def pack(
    prompts: Sequence[Prompt], prefix: int, sizes: caches.CacheSizes, B: int, T: int
) -> Iterator[PromptRows]:
    """B rows of T tokens at a time. Every row is filled: a prompt that does not fit goes on at the
    beginning of the same row of the next batch, where it meets what its slot holds.

    Args:
        prefix: tokens before every prompt, which are read already.
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
                if done:
                    rows.slots[row], rows.past[row] = slot, done
                at, done = at + count, done + count
                begun[row] = (slot, ids, done) if done < len(ids) else None
        yield rows
