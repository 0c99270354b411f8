"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864), plain and scaled.

Every kind of scaling changes the angular frequencies. Some kinds also multiply cosine and sine, and
two depend on the length of the example. A token's example is its segment, so packing does not
change the result.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class Rope:
    """The settings of rotary position embedding. A kind leaves fields that it does not use at their
    default.

    Attributes:
        kind: a name in KINDS.
        original_max_positions: the context length of the original training; for `dynamic`, the
            length for which the model was made.
        magnitude: multiplies cosine and sine (the "attention factor" of `yarn` and `longrope`).
        beta_fast, beta_slow: of `yarn`, in turns within the original context: faster frequencies
            than beta_fast are kept, slower ones than beta_slow are divided by the factor. The
            bounds are whole dimensions if `truncate`.
        short_factors, long_factors: of `longrope`, one for each pair of dimensions.
        query_beta: if not 0, queries are multiplied by 1 + beta ln(1 + floor(position / original)),
            as in Llama 4 and Ministral 3.
    """

    theta: float
    kind: str = "default"
    factor: float = 1.0
    original_max_positions: int = 0
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 1.0
    magnitude: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()
    query_beta: float = 0.0

    @property
    def changes_beyond(self) -> int | None:
        """The longest example with the frequencies of a short one; None if all have the same."""
        return self.original_max_positions if self.kind in ("dynamic", "longrope") else None


KINDS = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")


class Turns(NamedTuple):
    """The rotation of each token's queries and keys, for N kinds of layers, or for one without the
    axis N.

    Attributes:
        cosine, sine: of the angle of each pair of dimensions.
        query_scale: multiplies queries; None for no scale.
    """

    cosine: Float[Array, "*N B T half"]
    sine: Float[Array, "*N B T half"]
    query_scale: Float[Array, "*N B T"] | None


def frequencies(
    rope: Rope, size: int, lengths: Int[Array, "B T"] | None = None
) -> Float[Array, "*BT half"]:
    """Angular frequency of each pair of dimensions, in radians per token.

    `linear` divides every frequency by the factor. `dynamic` raises theta for examples that are
    longer than the model was made for, so that the slowest frequency is divided by about the ratio
    of lengths. `llama3` (Llama 3.1) divides frequencies whose wavelength exceeds the original
    context, keeps fast ones, and blends in between. `yarn` (Peng et al. 2023, arXiv 2309.00071)
    does the same by dimension. `longrope` (Ding et al. 2024, arXiv 2402.13753) divides each
    frequency by its own factor, from one of two sets, depending on the length of the example.

    Args:
        size: the number of rotated dimensions.
        lengths: of each token's example; None if no example is longer than `changes_beyond`.
    """
    exponent = jnp.arange(0, size, 2, dtype=jnp.float32) / size
    inverse = rope.theta**-exponent
    if rope.kind == "default":
        return inverse
    if rope.kind == "linear":
        return inverse / rope.factor
    if rope.kind == "dynamic":
        if lengths is None:
            return inverse
        longer = jnp.maximum(lengths / rope.original_max_positions, 1.0)[..., None]
        grown = (rope.factor * longer - (rope.factor - 1)) ** (size / (size - 2))
        return jnp.exp(-exponent[None, None] * (math.log(rope.theta) + jnp.log(grown)))
    if rope.kind == "longrope":
        short, long = (
            inverse / jnp.asarray(factors) for factors in (rope.short_factors, rope.long_factors)
        )
        if lengths is None:
            return short
        beyond = (lengths > rope.original_max_positions)[..., None]
        return jnp.where(beyond, long[None, None], short[None, None])
    keep = _kept_by_yarn(rope, size) if rope.kind == "yarn" else _kept_by_llama3(rope, inverse)
    return keep * inverse + (1 - keep) * inverse / rope.factor


def _kept_by_llama3(rope: Rope, inverse: Float[Array, " half"]) -> Float[Array, " half"]:
    """The weight of each undivided frequency, by its turns in the original context."""
    turns = rope.original_max_positions * inverse / (2 * jnp.pi)
    low, high = rope.low_frequency_factor, rope.high_frequency_factor
    return jnp.clip((turns - low) / (high - low), 0.0, 1.0)


def _kept_by_yarn(rope: Rope, size: int) -> Float[Array, " half"]:
    """The same for `yarn`, by dimension: 1 below the dimension that turns `beta_fast` times in the
    original context, 0 above the one that turns `beta_slow` times, and linear in between."""

    def dimension(turns: float) -> float:
        length = rope.original_max_positions / (turns * 2 * math.pi)
        return size * math.log(length) / (2 * math.log(rope.theta))

    low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    high += 0.001 if low == high else 0.0  # avoids a division by zero, as transformers does
    return 1 - jnp.clip((jnp.arange(size // 2, dtype=jnp.float32) - low) / (high - low), 0.0, 1.0)


def example_lengths(positions: Int[Array, "B T"], segments: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """The length of each token's example."""

    def of_row(positions: jax.Array, segments: jax.Array) -> jax.Array:
        longest = jnp.zeros(len(segments) + 1, jnp.int32).at[segments].max(positions + 1)
        return longest[segments]

    return jax.vmap(of_row)(positions, segments)


def turns(
    ropes: Sequence[Rope | None],
    size: int,
    positions: Int[Array, "B T"],
    lengths: Int[Array, "B T"] | None,
) -> Turns:
    """The rotations of these positions under each rope; None rotates nothing.

    Args:
        size, lengths: see `frequencies`.
    """
    there = positions.astype(jnp.float32)
    cosines, sines, scales = [], [], []
    for rope in ropes:
        per_token = jnp.zeros(size // 2) if rope is None else frequencies(rope, size, lengths)
        by_token = "f" if per_token.ndim == 1 else "btf"
        angle = jnp.einsum(f"bt,{by_token}->btf", there, per_token, precision="highest")
        magnitude = 1.0 if rope is None else rope.magnitude
        cosines.append(magnitude * jnp.cos(angle))
        sines.append(magnitude * jnp.sin(angle))
        scales.append(jnp.ones_like(there))
        if rope is not None and rope.query_beta:
            windows = jnp.floor(there / rope.original_max_positions)
            scales[-1] = 1 + rope.query_beta * jnp.log1p(windows)
    scaled = any(rope is not None and rope.query_beta for rope in ropes)
    return Turns(jnp.stack(cosines), jnp.stack(sines), jnp.stack(scales) if scaled else None)


def of_kind(found: Turns, kind: int | Int[Array, ""]) -> Turns:
    """The rotations for one kind of layer."""
    return jax.tree.map(
        lambda x: jax.lax.dynamic_index_in_dim(x, kind, axis=0, keepdims=False), found
    )


def rotate(x: Float[Array, "B T H E"], turn: Turns) -> Float[Array, "B T H E"]:
    """Rotates each pair (x[i], x[i + half]) of the first 2 · half dimensions of a head by its
    angle, in float32."""
    cosine, sine = (angle[:, :, None, :] for angle in (turn.cosine, turn.sine))
    half = cosine.shape[-1]
    first, second, rest = jnp.split(x, (half, 2 * half), axis=-1)
    first, second = first.astype(jnp.float32), second.astype(jnp.float32)
    turned = (first * cosine - second * sine, second * cosine + first * sine)
    return jnp.concatenate([*(part.astype(x.dtype) for part in turned), rest], axis=-1)


def rotate_queries(q: Float[Array, "B T H E"], turn: Turns) -> Float[Array, "B T H E"]:
    """Rotates queries, and scales them by position if the rope says so."""
    turned = rotate(q, turn)
    if turn.query_scale is None:
        return turned
    return turned * turn.query_scale[:, :, None, None].astype(turned.dtype)
