"""Keys and values of what was read and written, and attention of one new token to them.

A prompt is read once and lies in one of P prompt slots; each of its candidates writes its own
tokens into one of R lanes. Every layer has its own four arrays:

    prompt keys, values   [P, K, E, S], [P, K, S, E]   slot p holds its first `lengths[p]` tokens
    own keys, values      [R, K, E, W], [R, K, W, E]   a ring: all lanes write the same column

The ring's column is one slice for all lanes, whenever each of them began, so the update happens in
place. A lane that has written t + 1 tokens looks at the t + 1 newest columns. The lanes of a prompt
meet its keys in one matrix product; the two softmaxes are joined by their sums.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from safety_jax.base import meshes
from safety_jax.models import llama
from safety_jax.models.attention import Rule

AXES = ("rows", "kv_heads", None, None)
MASKED = -1e30  # finite: what no lane looks at gets weight 0, and never a NaN


class LayerCache(NamedTuple):
    """One layer's arrays; a cache is a tuple of them."""

    prompt_keys: Any
    prompt_values: Any
    own_keys: Any
    own_values: Any


Cache = tuple[LayerCache, ...]


class Seats(NamedTuple):
    """Which lanes answer which prompt.

    Attributes:
        prompts: [R] the prompt slot of each lane.
        seats: [R] the lane's place among its prompt's lanes.
        lanes: [P, C] the lane on each seat; any lane where the seat is empty.
        lengths: [P] tokens in each prompt slot.
    """

    prompts: Any
    seats: Any
    lanes: Any
    lengths: Any


class CacheSizes(NamedTuple):
    """Every length that a compiled program depends on."""

    lanes: int  # R
    prompts: int  # P
    prompt_tokens: int  # S
    own_tokens: int  # W


class View(NamedTuple):
    """What each lane sees at one step, the same in all layers."""

    column: Any  # of the ring, written at this step
    own: Any  # Bool [R, W]
    prompt: Any  # Bool [P, C, S]


def zeros(config: llama.LlamaConfig, sizes: CacheSizes, dtype: DTypeLike) -> Cache:
    K, E = config.kv_heads, config.head_size
    P, S, R, W = sizes.prompts, sizes.prompt_tokens, sizes.lanes, sizes.own_tokens
    shapes = (P, K, E, S), (P, K, S, E), (R, K, E, W), (R, K, W, E)
    return tuple(
        LayerCache(*(jnp.zeros(shape, dtype) for shape in shapes)) for _ in range(config.layers)
    )


@functools.partial(jax.jit, static_argnames=("config", "sizes", "dtype", "mesh"))
def allocate(config: llama.LlamaConfig, sizes: CacheSizes, dtype: DTypeLike, mesh: Mesh) -> Cache:
    """Zeros where they will live."""
    return jax.tree.map(lambda x: meshes.constrain(x, mesh, AXES), zeros(config, sizes, dtype))


def sizes(cache: Cache) -> CacheSizes:
    P, _, S, _ = cache[0].prompt_values.shape
    R, _, W, _ = cache[0].own_values.shape
    return CacheSizes(R, P, S, W)


def insert(
    cache: Cache,
    keys: Float[Array, "L B T K E"],
    values: Float[Array, "L B T K E"],
    slots: Int[Array, " B"],
    mesh: Mesh,
) -> Cache:
    """Puts freshly read prompts into their slots; a slot beyond the last one drops its row."""

    def put(slots_array: jax.Array, fresh: jax.Array) -> jax.Array:
        fresh = fresh.astype(slots_array.dtype)
        extent = tuple(slice(0, size) for size in fresh.shape[1:])
        placed = slots_array.at[(slots, *extent)].set(fresh, mode="drop")
        return meshes.constrain(placed, mesh, AXES)

    return tuple(
        layer._replace(
            prompt_keys=put(layer.prompt_keys, jnp.transpose(keys[number], (0, 2, 3, 1))),
            prompt_values=put(layer.prompt_values, jnp.swapaxes(values[number], 1, 2)),
        )
        for number, layer in enumerate(cache)
    )


def rearrange(
    cache: Cache,
    lanes: Int[Array, " R"],
    prompts: Int[Array, " P"],
    columns: Int[Array, " W"],
    prompt_tokens: int,
    mesh: Mesh,
) -> Cache:
    """A cache of other sizes, with these lanes, prompt slots and ring columns of the old one."""

    def own(array: jax.Array, axis: int) -> jax.Array:
        return meshes.constrain(jnp.take(array[lanes], columns, axis=axis), mesh, AXES)

    def prompt(array: jax.Array, axis: int) -> jax.Array:
        kept = min(prompt_tokens, array.shape[axis])
        array = jax.lax.slice_in_dim(array[prompts], 0, kept, axis=axis)
        padding = [(0, prompt_tokens - kept if side == axis else 0) for side in range(4)]
        return meshes.constrain(jnp.pad(array, padding), mesh, AXES)

    return tuple(
        LayerCache(
            prompt(layer.prompt_keys, 3),
            prompt(layer.prompt_values, 2),
            own(layer.own_keys, 3),
            own(layer.own_values, 2),
        )
        for layer in cache
    )


def look(
    seats: Seats,
    written: Int[Array, " R"],
    column: Int[Array, ""],
    sizes: CacheSizes,
    window: int | None,
) -> View:
    """What each lane sees when the ring's `column` is written.

    Args:
        written: tokens that the lane has written before this step.
        window: each token sees so many tokens, itself included; None: all.
    """
    ages = (column - jnp.arange(sizes.own_tokens)) % sizes.own_tokens
    own: Bool[Array, "R W"] = ages[None, :] <= written[:, None]
    index = jnp.arange(sizes.prompt_tokens)
    filled = index[None, :] < seats.lengths[:, None]
    prompt = jnp.broadcast_to(filled[:, None, :], (*seats.lanes.shape, sizes.prompt_tokens))
    if window is not None:
        own = own & (ages < window)[None, :]
        position = seats.lengths[:, None] + written[seats.lanes]
        prompt = prompt & (position[:, :, None] - index[None, None, :] < window)
    return View(column, own, prompt)


def attend(
    layer: LayerCache,
    seats: Seats,
    view: View,
    rule: Rule,
    mesh: Mesh,
    q: Float[Array, "R 1 H E"],
    k: Float[Array, "R 1 K E"],
    v: Float[Array, "R 1 K E"],
    kind: int,
) -> tuple[Float[Array, "R 1 H E"], LayerCache]:
    """Writes one token of each lane into the ring, and attends to prompt and ring.

    Args:
        view, rule: of the layer's kind, whose number the layer gives as `kind`.
    """
    R, _, H, E = q.shape
    K = k.shape[2]
    dtype = layer.own_keys.dtype
    q = q[:, 0].astype(dtype).reshape(R, K, H // K, E)

    def write(ring: jax.Array, token: jax.Array, axis: int) -> jax.Array:
        token = jnp.expand_dims(token[:, 0], axis).astype(dtype)
        ring = jax.lax.dynamic_update_slice_in_dim(ring, token, view.column, axis)
        return meshes.constrain(ring, mesh, AXES)

    layer = layer._replace(
        own_keys=write(layer.own_keys, k, 3), own_values=write(layer.own_values, v, 2)
    )
    own = _partial(q, layer.own_keys, layer.own_values, view.own[:, None, None], rule)

    # [P, C] lanes of a prompt, their heads beside each other: one product over C · H/K rows.
    P, C = seats.lanes.shape
    together = jnp.swapaxes(q[seats.lanes], 1, 2).reshape(P, K, -1, E)
    mask = jnp.repeat(view.prompt, H // K, axis=1)[:, None]
    parts = _partial(together, layer.prompt_keys, layer.prompt_values, mask, rule)

    def to_lanes(part: jax.Array) -> jax.Array:
        by_seat = jnp.swapaxes(part.reshape(P, K, C, H // K, -1), 1, 2)
        return by_seat[seats.prompts, seats.seats]

    joined = _join(own, _Partial(*map(to_lanes, parts)))
    return joined.reshape(R, 1, H, E).astype(v.dtype), layer


class _Partial(NamedTuple):
    """Attention to some of the keys: softmax numerator and denominator, relative to a logit."""

    weighted: jax.Array  # [..., E]
    total: jax.Array  # [..., 1]
    largest: jax.Array  # [..., 1]


def _partial(
    q: jax.Array, keys: jax.Array, values: jax.Array, mask: jax.Array, rule: Rule
) -> _Partial:
    """Attention of q [N, K, M, E] to keys [N, K, E, S] and values [N, K, S, E]; float32 inside.

    A single query is no matrix: its products are summed where they are made, which takes a CPU half
    the time of as many small matrix products.
    """
    single = q.shape[2] == 1
    if single:
        column = q[:, :, 0, :, None].astype(jnp.float32)
        scores = (column * keys.astype(jnp.float32)).sum(axis=2)[:, :, None]
    else:
        scores = jnp.einsum("nkme,nkes->nkms", q, keys, preferred_element_type=jnp.float32)
    scores = jnp.where(mask, rule.scores(scores, q.shape[-1]), MASKED)
    largest = scores.max(axis=-1, keepdims=True)
    weights = jnp.exp(scores - largest)
    total = weights.sum(axis=-1, keepdims=True)
    if single:
        column = weights[:, :, 0, :, None]
        weighted = (column * values.astype(jnp.float32)).sum(axis=2)[:, :, None]
    else:
        weighted = jnp.einsum(
            "nkms,nkse->nkme",
            weights.astype(values.dtype),
            values,
            preferred_element_type=jnp.float32,
        )
    return _Partial(weighted, total, largest)


def _join(first: _Partial, second: _Partial) -> jax.Array:
    """The softmax over both sets of keys; one of them may be wholly masked."""
    largest = jnp.maximum(first.largest, second.largest)
    scales = [jnp.exp(part.largest - largest) for part in (first, second)]
    above = first.weighted * scales[0] + second.weighted * scales[1]
    return above / (first.total * scales[0] + second.total * scales[1])
