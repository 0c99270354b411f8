"""Dropout with cheap random bits (Srivastava et al. 2014).

The bits come from Threefry, as in `jax.random` (Salmon et al. 2011, "Parallel random numbers: as
easy as 1, 2, 3"), with all rounds written out. On a CPU, jax's own version is a loop that writes
and reads an array in each round. Written out, bits, mask and product with x are one pass over x.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
_DRAWS = 4  # numbers of 16 bits in a block of Threefry


def drop(x: Float[Array, "N I"], keep: Float[Array, ""], key: jax.Array) -> Float[Array, "N I"]:
    """Keeps each feature with probability `keep` (in steps of 1/65,536) and divides it by `keep`;
    all others become 0.

    Args:
        key: of `jax.random`. Equal keys drop the same features on any number of devices.
    """
    rows, features = x.shape
    drawn = draws(key, (rows, features))
    kept = drawn < jnp.round(keep * 2**16).astype(jnp.uint32)
    return jnp.where(kept, x / keep.astype(x.dtype), 0)


def draws(key: jax.Array, shape: tuple[int, ...]) -> UInt32[Array, "N I"]:
    """Uniform numbers below 65,536. A block makes four numbers of a row, a quarter row apart."""
    rows, features = shape
    blocks = (rows, -(-features // _DRAWS))
    row, column = (jax.lax.broadcasted_iota(jnp.uint32, blocks, axis) for axis in (0, 1))
    words = threefry(jax.random.key_data(key), row, column)
    halves = [half for word in words for half in (word & 0xFFFF, word >> 16)]
    return jnp.concatenate(halves, axis=1)[:, :features]


def threefry(
    key: UInt32[Array, "2"], first: UInt32[Array, "*B"], second: UInt32[Array, "*B"]
) -> tuple[UInt32[Array, "*B"], UInt32[Array, "*B"]]:
    """Threefry-2x32 with 20 rounds: the block of 64 bits at a counter of two words."""
    keys = key[0], key[1], key[0] ^ key[1] ^ jnp.uint32(_PARITY)
    first, second = first + keys[0], second + keys[1]
    for group in range(5):
        for turn in _ROTATIONS[group % 2]:
            first = first + second
            second = first ^ (second << jnp.uint32(turn) | second >> jnp.uint32(32 - turn))
        first = first + keys[(group + 1) % 3]
        second = second + keys[(group + 2) % 3] + jnp.uint32(group + 1)
    return first, second
