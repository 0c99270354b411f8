"""16-bit floats that are stored as integers on a CPU.

To slice a layer or a block out of a stacked array of 16-bit floats, or to write one into it, XLA's
CPU compiler first widens the whole array to 32 bits, and does so again in every iteration of a
loop. It copies integers as they are. So arrays that a loop slices are stored as integers with the
same bits there, and are read as floats where they are used. On other platforms nothing changes.
"""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike

BITS = jnp.dtype(jnp.uint16)
FLOATS = jnp.dtype(jnp.bfloat16)  # the only floats of 16 bits that models compute in


def lie_as_integers(dtype: DTypeLike, mesh: Mesh) -> bool:
    """Whether numbers of this type are stored as integers on the devices of this mesh."""
    return jnp.dtype(dtype) == FLOATS and mesh.devices.flat[0].platform == "cpu"


def stored(x: jax.Array, mesh: Mesh) -> jax.Array:
    """x as it is stored on this mesh."""
    return jax.lax.bitcast_convert_type(x, BITS) if lie_as_integers(x.dtype, mesh) else x


def floats(x: jax.Array) -> jax.Array:
    """What was `stored`, as floats again."""
    return jax.lax.bitcast_convert_type(x, FLOATS) if x.dtype == BITS else x
