"""16-bit floats that are stored as integers on a CPU.

When a loop slices a stacked array of 16-bit floats, or writes a slice into it, XLA's CPU compiler
widens the whole array to 32 bits in every iteration. It copies integers without a conversion. On a
CPU, arrays that loops slice are therefore stored as integers with the same bits, and converted to
floats where they are used. On other platforms nothing changes.
"""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike

BITS = jnp.dtype(jnp.uint16)
FLOATS = jnp.dtype(jnp.bfloat16)  # the only 16-bit floats in which models compute


def lie_as_integers(dtype: DTypeLike, mesh: Mesh) -> bool:
    """Whether numbers of this type are stored as integers on the devices of this mesh."""
    return jnp.dtype(dtype) == FLOATS and mesh.devices.flat[0].platform == "cpu"


def stored(x: jax.Array, mesh: Mesh) -> jax.Array:
    """x in the form in which it is stored on this mesh."""
    return jax.lax.bitcast_convert_type(x, BITS) if lie_as_integers(x.dtype, mesh) else x


def floats(x: jax.Array) -> jax.Array:
    """The inverse of `stored`."""
    return jax.lax.bitcast_convert_type(x, FLOATS) if x.dtype == BITS else x
