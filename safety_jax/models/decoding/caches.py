"""Keys and values of what was read and written, and where they lie.

What all prompts of a call begin with is read once and kept once. The rest of a prompt lies in one
of P slots; each of its candidates writes its own tokens into one of R lanes. Layers are stacked
and tokens lie in blocks of b, so that a loop over layers updates its own part in place, and
attention visits only blocks that somebody looks at:

    prefix keys, values   [L, X, 1, K, E, b], [L, X, 1, K, b, E]   what all prompts begin with
    prompt keys, values   [L, Y, P, K, E, b], [L, Y, P, K, b, E]   slot p holds `lengths[p]` tokens
    own keys, values      [L, Z, R, K, E, b], [L, Z, R, K, b, E]   a ring: lanes write one column

With int8 (`Codes`) every array has a second one beside it, of a scale for each head of a token.

The ring's column is one slice for all lanes, whenever each of them began, so the update happens in
place. A lane that has written t + 1 tokens looks at the t + 1 newest columns.

Layers with a window keep no more tokens than it sees, in whole blocks: their arrays are rings too,
of prefix and prompts by the token's place, of lanes by the column. Layers that keep equally many
are one `Stack`, and a model with layers of several windows has several (`arrange`).
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
    return (held.codes if isinstance(held, Codes) else bits.floats(held)).astype(dtype)


def in_products(cache: "Cache", computes: DTypeLike) -> DTypeLike:
    """The type of products with this cache, of a model that computes in another."""
    held = cache[0].own_keys
    if isinstance(held, Codes):
        return computes
    return bits.FLOATS if held.dtype == bits.BITS else held.dtype


def number_bytes(dtype: DTypeLike, head_size: int) -> float:
    """Bytes of one number of a cache of this type, its share of a scale included."""
    kind = jnp.dtype(dtype)
    return kind.itemsize + (4 / head_size if kind == jnp.int8 else 0.0)


class Stack(NamedTuple):
    """The arrays of layers that keep equally many tokens; each may be `Codes`."""

    prefix_keys: Any
    prefix_values: Any
    prompt_keys: Any
    prompt_values: Any
    own_keys: Any
    own_values: Any


Cache = tuple[Stack, ...]
PLACES = Stack(SHARED_AXES, SHARED_AXES, AXES, AXES, AXES, AXES)


class CacheSizes(NamedTuple):
    """Every length that a compiled program depends on; tokens are multiples of a block."""

    lanes: int  # R
    prompts: int  # P
    prefix_tokens: int  # X b
    prompt_tokens: int  # Y b
    own_tokens: int  # Z b
    block_tokens: int  # b

    def within(self, window: int | None) -> "CacheSizes":
        """The sizes for layers with this window: a token meets `window` keys, its own included."""
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
        """Where a layer lies in a stack, if it does."""
        if len(self.layers) == 1:
            return LayerPlace(layer, 0, None)
        own = self.layers[stack]
        behind = [bisect.bisect_left(own, at) for at in range(sum(map(len, self.layers)))]
        next_own = jnp.asarray(behind)[layer]
        here = jnp.asarray([number < len(own) and own[number] == at
                            for at, number in enumerate(behind)])[layer]  # fmt: skip
        return LayerPlace(next_own % len(own), next_own // len(own), here)


class LayerPlace(NamedTuple):
    """Where a layer lies in a stack, or the next of the stack's layers to come.

    Attributes:
        number: of that layer in the stack.
        later: steps until it comes: 0, or 1 where none of the stack's is left in this one.
        here: whether it is the layer itself; None: all layers are the stack's. A layer of another
            stack looks at nothing here. It writes where the next one will, before that looks.
    """

    number: jax.Array
    later: jax.Array | int
    here: jax.Array | None

    def blocks(self, count: jax.Array) -> jax.Array:
        """How many of `count` blocks the layer visits."""
        return count if self.here is None else jnp.where(self.here, count, 0)


def arrange(config: llama.LlamaConfig, sizes: CacheSizes) -> Arrangement:
    """Stacks for layers of these windows; `sizes` are those of a layer without one."""
    of_kind = [sizes.within(kind.window) for kind in config.kinds]
    stacks = tuple(dict.fromkeys(of_kind))
    layers = tuple(
        tuple(at for at, kind in enumerate(config.layer_kinds) if of_kind[kind] == stack)
        for stack in stacks
    )
    return Arrangement(stacks, layers)


def arranged(config: llama.LlamaConfig, cache: Cache) -> Arrangement:
    """How the layers of this cache were arranged."""
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
    """Pins every array where it lives."""
    return each_place(cache, lambda part, axes: meshes.constrain(part, mesh, axes))


def each_place(cache: Cache, function: Callable[[Any, Any], Any]) -> Cache:
    """`function` of every array, and of where it lives."""

    def applied(held: Any, axes: Any) -> Any:
        return jax.tree.map(lambda part: function(part, axes[: part.ndim]), held)

    return tuple(Stack(*map(applied, stack, PLACES)) for stack in cache)


@functools.partial(jax.jit, static_argnames=("config", "sizes", "dtype", "mesh"))
def allocate(config: llama.LlamaConfig, sizes: CacheSizes, dtype: DTypeLike, mesh: Mesh) -> Cache:
    """Zeros where they will live."""
    stored = bits.BITS if bits.lie_as_integers(dtype, mesh) else dtype
    return constrain(zeros(config, sizes, stored), mesh)


def sizes(stack: Stack) -> CacheSizes:
    """The lengths of a stack, read off its arrays."""
    prefix, prompt, own = (
        (held.codes if isinstance(held, Codes) else held).shape
        for held in (stack.prefix_values, stack.prompt_values, stack.own_values)
    )
    (_, X, _, _, b, _), (_, Y, P, _, _, _), (_, Z, R, _, _, _) = prefix, prompt, own
    return CacheSizes(R, P, X * b, Y * b, Z * b, b)
