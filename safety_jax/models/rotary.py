"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864), plain and scaled."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class Rope:
    """Rotary position embedding; the last four fields are read by the kinds that scale."""

    theta: float
    kind: str  # "default", "linear" or "llama3"
    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_max_positions: int


def frequencies(rope: Rope, head_size: int) -> Float[Array, " half"]:
    """Angular frequency of each pair of dimensions, in radians per token (arXiv 2104.09864).

    `linear` divides every frequency by the factor. `llama3` (Llama 3.1) divides those whose
    wavelength exceeds the original context, keeps the short ones, and blends in between.
    """
    inverse = rope.theta ** -(jnp.arange(0, head_size, 2, dtype=jnp.float32) / head_size)
    if rope.kind == "default":
        return inverse
    if rope.kind == "linear":
        return inverse / rope.factor
    turns = rope.original_max_positions * inverse / (2 * jnp.pi)
    low, high = rope.low_frequency_factor, rope.high_frequency_factor
    keep = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
    return keep * inverse + (1 - keep) * inverse / rope.factor


def angles(
    rope: Rope, head_size: int, positions: Int[Array, "B T"]
) -> tuple[Float[Array, "B T half"], Float[Array, "B T half"]]:
    """Cosine and sine of each position's turn."""
    per_token = frequencies(rope, head_size)
    turned = jnp.einsum("bt,f->btf", positions.astype(jnp.float32), per_token, precision="highest")
    return jnp.cos(turned), jnp.sin(turned)


def rotate(
    x: Float[Array, "B T H E"], angles: tuple[Float[Array, "B T half"], Float[Array, "B T half"]]
) -> Float[Array, "B T H E"]:
    """Turns each pair (x[i], x[i + E/2]) by its angle; float32 inside."""
    cosine, sine = (angle[:, :, None, :] for angle in angles)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = (first * cosine - second * sine, second * cosine + first * sine)
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)
