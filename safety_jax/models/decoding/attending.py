"""Attention of newly generated tokens to the caches.

A token attends to keys in up to three places: the shared prefix, its prompt's slot, and the tokens
that its lane wrote. Attention to each place is a `Partial`, a softmax before the division. Adding
the partials gives exactly the softmax over all three (`visiting`).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from safety_jax.models.attention import Rule
from safety_jax.models.decoding import caches, filling
from safety_jax.models.decoding.visiting import (
    Partial,
    add,
    block_of,
    blocks_for,
    by_group,
    of_group,
    rows_together,
    visit,
    visit_groups,
)

FAR = 2**30  # a window so large that no token is outside


def window_of(rules: Sequence[Rule], kind: Any) -> jax.Array | None:
    """The window of a layer of this kind; None if no kind has a window."""
    windows = [rule.window for rule in rules]
    if not any(windows):
        return None
    return jnp.asarray([FAR if one is None else one for one in windows], jnp.int32)[kind]


class Seats(NamedTuple):
    """Which lanes answer which prompt.

    Attributes:
        prompts: [R] the prompt slot of each lane.
        seats: [R] the lane's place among the lanes of its prompt.
        lanes: [P, C] the lane in each seat; an arbitrary lane if the seat is empty.
        lengths: [P] tokens in each prompt slot.
        prefix: tokens of the shared prefix, which precede those.
    """

    prompts: Any
    seats: Any
    lanes: Any
    lengths: Any
    prefix: Any


class View(NamedTuple):
    """What all layers attend to in one step.

    Attributes:
        column: the number of earlier steps in this call, which is the column of the rings that this
            step writes.
        written: [R] tokens that each lane has written so far.
        positions: [R] the position of the token that each lane reads, in its whole text.
        nearest: the smallest of these positions over living lanes.
        oldest: [groups] the most tokens that a living lane of each group has written so far.
        longest: [groups] the most tokens in a slot of each group.
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
    """The view of the step that writes `column` of the rings. Attention then visits only blocks
    that a living lane or a filled slot needs."""
    positions = seats.prefix + seats.lengths[seats.prompts] + written
    return View(
        column,
        written,
        positions,
        jnp.min(jnp.where(alive, positions, FAR)),
        by_group(jnp.where(alive, written, 0), rows_together(cache[0].own_keys, mesh)),
        by_group(seats.lengths, rows_together(cache[0].prompt_keys, mesh)),
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
    arrangement: caches.Arrangement,
    mesh: Mesh,
) -> tuple[Float[Array, "R 1 H E"], tuple[caches.Cache, None]]:
    """Writes one token of each lane into the ring, and attends to prefix, prompt and ring. A
    `llama.CachedAttend`.

    Args:
        rules: one for each kind of layer of the model.
    """
    R, _, H, E = q.shape
    K, (P, C), rule = k.shape[2], seats.lanes.shape, rules[0]
    q = q[:, 0].astype(caches.in_products(cache, q.dtype)).reshape(R, K, H // K, E)
    # The heads of all C lanes of a prompt in one axis: one product over C · H/K rows.
    together = jnp.swapaxes(q[seats.lanes], 1, 2).reshape(P, K, -1, E)
    # The heads of all lanes in one axis.
    everyone = jnp.swapaxes(q, 0, 1).reshape(1, K, -1, E)
    looks = _Looks(seats, view, window_of(rules, kind), rule, H // K, mesh)

    def from_seats(part: jax.Array) -> jax.Array:
        by_seat = jnp.swapaxes(part.reshape(P, K, C, H // K, -1), 1, 2)
        return by_seat[seats.prompts, seats.seats]

    def from_everyone(part: jax.Array) -> jax.Array:
        return jnp.swapaxes(part.reshape(K, R, H // K, -1), 0, 1)

    own = prompt = prefix = None
    written = []
    for number, stack in enumerate(cache):
        place = arrangement.place(number, layer)
        stack = filling.write_column(stack, place, view.column, k[:, 0], v[:, 0], mesh)
        own = looks.at_own(stack, place, q, own)
        prompt = looks.at_prompts(stack, place, together, prompt)
        prefix = looks.at_prefix(stack, place, everyone, prefix)
        written.append(stack)
    assert own is not None and prompt is not None and prefix is not None
    found = add(own, add(Partial(*map(from_seats, prompt)), Partial(*map(from_everyone, prefix))))
    attended = (found.weighted / found.total).reshape(R, 1, H, E).astype(v.dtype)
    return attended, (tuple(written), None)


class _Looks(NamedTuple):
    """Attention of a step's queries to a stack, added to what was `found` in other stacks. Blocks
    outside the windows of all living lanes are skipped.

    Attributes:
        window: of the layer; None if no layer has one.
        share: query heads per key head.
    """

    seats: Seats
    view: View
    window: jax.Array | None
    rule: Rule
    share: int
    mesh: Mesh

    def at_own(
        self,
        stack: caches.Stack,
        place: caches.LayerPlace,
        q: Float[Array, "R K M E"],
        found: Partial | None,
    ) -> Partial:
        view, sizes, window = self.view, caches.sizes(stack), self.window
        b, W, r = sizes.block_tokens, sizes.own_tokens, rows_together(stack.own_keys, self.mesh)
        column = view.column % W

        def look(number, start):
            block = (column // b - number) % (W // b)
            ages = (column - (block * b + jnp.arange(b))) % W
            mask = ages[None, :] <= of_group(view.written, start, r)[:, None]
            if window is not None:
                mask = mask & (ages < window)[None, :]
            held = block_of(stack.own_keys, stack.own_values, place.number, block, start, r)
            return held, mask[:, None, None]

        older = view.oldest if window is None else jnp.minimum(view.oldest, window - 1)
        behind = 1 + blocks_for(jnp.maximum(older - column % b, 0), b)
        blocks = 0, place.blocks(jnp.minimum(behind, W // b))
        return visit_groups(q, r, blocks, self.rule, look, found)

    def at_prompts(
        self,
        stack: caches.Stack,
        place: caches.LayerPlace,
        q: Float[Array, "P K M E"],
        found: Partial | None,
    ) -> Partial:
        seats, view, sizes, window = self.seats, self.view, caches.sizes(stack), self.window
        b, p = sizes.block_tokens, rows_together(stack.prompt_keys, self.mesh)
        C = seats.lanes.shape[1]

        def look(block, start):
            cells, lengths = block * b + jnp.arange(b), of_group(seats.lengths, start, p)
            places = filling.places_held(cells, lengths, sizes.prompt_tokens)
            mask = jnp.broadcast_to((places >= 0)[:, None], (p, C, b))
            if window is not None:
                lanes = of_group(seats.lanes, start, p)
                apart = view.positions[lanes][:, :, None] - (seats.prefix + places)[:, None]
                mask = mask & (apart < window)
            held = block_of(stack.prompt_keys, stack.prompt_values, place.number, block, start, p)
            return held, jnp.repeat(mask, self.share, axis=1)[:, None]

        first, behind = self._filled(seats.prefix, view.longest, b, sizes.prompt_tokens)
        return visit_groups(q, p, (first, place.blocks(behind)), self.rule, look, found)

    def at_prefix(
        self,
        stack: caches.Stack,
        place: caches.LayerPlace,
        q: Float[Array, "1 K M E"],
        found: Partial | None,
    ) -> Partial:
        view, sizes, window, length = self.view, caches.sizes(stack), self.window, self.seats.prefix
        b, R = sizes.block_tokens, len(view.positions)

        def look(block):
            cells = block * b + jnp.arange(b)
            places = filling.places_held(cells, length, sizes.prefix_tokens)
            mask = jnp.broadcast_to(places >= 0, (R, b))
            if window is not None:
                mask = mask & (view.positions[:, None] - places[None] < window)
            held = block_of(stack.prefix_keys, stack.prefix_values, place.number, block)
            return held, jnp.repeat(mask, self.share, axis=0)[None, None]

        first, behind = self._filled(0, length, b, sizes.prefix_tokens)
        return visit(q, (first, place.blocks(behind)), self.rule, look, found)

    def _filled(self, begin: Any, lengths: Any, b: int, tokens: int) -> tuple[Any, jax.Array]:
        """The first block to visit in a ring of `tokens`, and the end of the range. The ring was
        given `lengths` tokens, the first of them at position `begin`."""
        behind = jnp.minimum(blocks_for(lengths, b), tokens // b)
        if self.window is None:
            return 0, behind
        unseen = jnp.maximum(self.view.nearest + 1 - self.window - begin, 0)
        # Once a ring has wrapped around, any block may hold the newest token.
        whole = jnp.max(lengths) <= tokens
        return jnp.where(whole | (unseen >= jnp.max(lengths)), unseen // b, 0), behind
