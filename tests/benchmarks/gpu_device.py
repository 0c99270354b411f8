"""The device of the GPU check, its memory, and the number type of all parts."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from safety_jax.base import meshes

DTYPE = jnp.dtype(jnp.bfloat16)


def one_device() -> Mesh:
    return meshes.build(1, 1, 1, devices=jax.devices()[:1])


def facts() -> dict[str, Any]:
    """The device, and the most of its memory that this process has held."""
    device = jax.devices()[0]
    held = (device.memory_stats() or {}).get("peak_bytes_in_use")
    return {"device": device.device_kind, "peak_bytes": held}
