"""The KV cache: keys and values of the prompts and of the generated tokens, and their layout.

The prefix that all prompts of a call share is read and kept once. The rest of each prompt occupies
one of P slots, and each of its candidates writes its own tokens into one of R lanes. Arrays stack
all layers and divide tokens into blocks of b. A loop over layers can therefore update its own part
in place, and attention visits only the blocks that a query needs:

    prefix keys, values   [L, X, 1, K, E, b], [L, X, 1, K, b, E]   the shared prefix
    prompt keys, values   [L, Y, P, K, E, b], [L, Y, P, K, b, E]   slot p holds `lengths[p]` tokens
    own keys, values      [L, Z, R, K, E, b], [L, Z, R, K, b, E]   a ring: lanes write one column

With int8 (`Codes`), each array has a second array with one scale for each token and head.

All lanes write the same column of the ring in a step, no matter when they began, so the update is
one slice and happens in place. A lane that has written t + 1 tokens attends to the t + 1 newest
columns.

A layer with a sliding window keeps only as many tokens as the window needs, in whole blocks. Its
arrays are rings too: prefix and prompts wrap around by the token's place, lanes by the column.
Layers that keep the same number of tokens form one `Stack`; a model whose layers have different
windows has several (`arrange`).
"""

import bisect
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from safety_jax.base import meshes
from safety_jax.models import bits, llama

AXES = (None, None, "rows", "whole_heads", None, None)
SHARED_AXES = (None, None, None, "whole_heads", None, None)


class Codes(NamedTuple):
    """Keys or values in 255 steps: number = code · scale, the largest of a token's head being 127.

    Attributes:
        codes: int8.
        scales: float32, of the same shape without E. Tokens are the last axis for keys and for
            values, because a last axis of 1 would take 128 times its memory on a TPU.
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
    """Keys or values in the type of a product, without their scales."""
    return (held.codes if isinstance(held, Codes) else bits.floats(held)).astype(dtype)


def in_products(cache: "Cache", computes: DTypeLike) -> DTypeLike:
    """The type in which products with this cache are computed, for a model that computes in type
    `computes`."""
    held = cache[0].own_keys
    if isinstance(held, Codes):
        return computes
    return bits.FLOATS if held.dtype == bits.BITS else held.dtype


def number_bytes(dtype: DTypeLike, head_size: int) -> float:
    """Bytes of one number in a cache of this type, including its share of a scale."""
    kind = jnp.dtype(dtype)
    return kind.itemsize + (4 / head_size if kind == jnp.int8 else 0.0)


class Stack(NamedTuple):
    """The arrays of all layers that keep the same number of tokens; each may be `Codes`."""

    prefix_keys: Any
    prefix_values: Any
    prompt_keys: Any
    prompt_values: Any
    own_keys: Any
    own_values: Any


Cache = tuple[Stack, ...]
PLACES = Stack(SHARED_AXES, SHARED_AXES, AXES, AXES, AXES, AXES)


class CacheSizes(NamedTuple):
    """All lengths that a compiled program depends on. Tokens are multiples of a block."""

    lanes: int  # R
    prompts: int  # P
    prefix_tokens: int  # X b
    prompt_tokens: int  # Y b
    own_tokens: int  # Z b
    block_tokens: int  # b

    def within(self, window: int | None) -> "CacheSizes":
        """The sizes for layers with this window: a token attends to `window` keys, including its
        own."""
        if window is None:
            return self
        most = -(-window // self.block_tokens) * self.block_tokens
        return self._replace(
            prefix_tokens=min(self.prefix_tokens, most),
            prompt_tokens=min(self.prompt_tokens, most),
            own_tokens=min(self.own_tokens, most),
        )


class Arrangement(NamedTuple):
    """Which stack holds which layers.

    Attributes:
        sizes: of each stack.
        layers: of each stack, in order.
    """

    sizes: tuple[CacheSizes, ...]
    layers: tuple[tuple[int, ...], ...]

    def place(self, stack: int, layer: Int[Array, ""]) -> "LayerPlace":
        """Where a layer is in a stack, if it belongs to it."""
        if len(self.layers) == 1:
            return LayerPlace(layer, 0, None)
        own = self.layers[stack]
        behind = [bisect.bisect_left(own, at) for at in range(sum(map(len, self.layers)))]
        next_own = jnp.asarray(behind)[layer]
        here = jnp.asarray([number < len(own) and own[number] == at
                            for at, number in enumerate(behind)])[layer]  # fmt: skip
        return LayerPlace(next_own % len(own), next_own // len(own), here)


class LayerPlace(NamedTuple):
    """Where a layer is in a stack. For a layer of another stack: where the stack's next layer is.

    A layer of another stack attends to nothing here. It does write, to the place that the stack's
    next layer will overwrite before it reads.

    Attributes:
        number: of that layer in the stack.
        later: steps until that layer runs: 0, or 1 if no layer of the stack is left in this step.
        here: whether that layer is the layer itself; None if all layers belong to the stack.
    """

    number: jax.Array
    later: jax.Array | int
    here: jax.Array | None

    def blocks(self, count: jax.Array) -> jax.Array:
        """How many of `count` blocks the layer visits."""
        return count if self.here is None else jnp.where(self.here, count, 0)


def arrange(config: llama.LlamaConfig, sizes: CacheSizes) -> Arrangement:
    """Assigns the layers of a model to stacks; `sizes` are those of a layer without a window."""
    of_kind = [sizes.within(kind.window) for kind in config.kinds]
    stacks = tuple(dict.fromkeys(of_kind))
    layers = tuple(
        tuple(at for at, kind in enumerate(config.layer_kinds) if of_kind[kind] == stack)
        for stack in stacks
    )
    return Arrangement(stacks, layers)


def arranged(config: llama.LlamaConfig, cache: Cache) -> Arrangement:
    """The arrangement of the layers of an existing cache."""
    found = [sizes(stack) for stack in cache]
    return arrange(config, CacheSizes(*map(max, zip(*found, strict=True))))


def zeros(config: llama.LlamaConfig, sizes: CacheSizes, dtype: DTypeLike) -> Cache:
    """An empty cache; `sizes` are those of a layer without a window."""
    K, E = config.kv_heads, config.head_size

    def pair(layers: int, tokens: int, rows: int, b: int) -> tuple[Any, Any]:
        lead = (layers, tokens // b, rows, K)
        keys, values = jnp.zeros((*lead, E, b), dtype), jnp.zeros((*lead, b, E), dtype)
        if keys.dtype != jnp.int8:
            return keys, values
        scales = jnp.zeros((2, *lead, b), jnp.float32)
        return Codes(keys, scales[0]), Codes(values, scales[1])

    def stack(one: CacheSizes, layers: int) -> Stack:
        return Stack(
            *pair(layers, one.prefix_tokens, 1, one.block_tokens),
            *pair(layers, one.prompt_tokens, one.prompts, one.block_tokens),
            *pair(layers, one.own_tokens, one.lanes, one.block_tokens),
        )

    arrangement = arrange(config, sizes)
    return tuple(map(stack, arrangement.sizes, map(len, arrangement.layers)))


def constrain(cache: Cache, mesh: Mesh) -> Cache:
    """Constrains every array to its sharding."""
    return each_place(cache, lambda part, axes: meshes.constrain(part, mesh, axes))


def each_place(cache: Cache, function: Callable[[Any, Any], Any]) -> Cache:
    """Applies `function` to every array and its axes."""

    def applied(held: Any, axes: Any) -> Any:
        return jax.tree.map(lambda part: function(part, axes[: part.ndim]), held)

    return tuple(Stack(*map(applied, stack, PLACES)) for stack in cache)


@functools.partial(jax.jit, static_argnames=("config", "sizes", "dtype", "mesh"))
def allocate(config: llama.LlamaConfig, sizes: CacheSizes, dtype: DTypeLike, mesh: Mesh) -> Cache:
    """An empty cache, allocated with its sharding."""
    stored = bits.BITS if bits.lie_as_integers(dtype, mesh) else dtype
    return constrain(zeros(config, sizes, stored), mesh)


def sizes(stack: Stack) -> CacheSizes:
    """The lengths of a stack, from the shapes of its arrays."""
    prefix, prompt, own = (
        (held.codes if isinstance(held, Codes) else held).shape
        for held in (stack.prefix_values, stack.prompt_values, stack.own_values)
    )
    (_, X, _, _, b, _), (_, Y, P, _, _, _), (_, Z, R, _, _, _) = prefix, prompt, own
    return CacheSizes(R, P, X * b, Y * b, Z * b, b)
