"""Build the device mesh; THE table from logical axes to mesh axes.

Every parameter and every activation constraint names logical axes only. To change a sharding
strategy, change this table. An axis that is not in it raises; there is no catch-all.
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from safety_jax.base.errors import ConfigError

AXES = ("data", "fsdp", "tensor")

RULES: dict[str, tuple[str, ...]] = {
    # activations
    "rows": ("data", "fsdp"),
    "tokens": (),
    "width": (),
    # parameters: `embed` is the width as stored, sharded by fsdp and gathered layer by layer
    "layers": (),
    "vocab": ("tensor",),
    "embed": ("fsdp",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
    "head_size": (),
    "norm": (),
    "rank": (),
    # `entries` are the rows of a table that is only looked up, of any number
    "entries": (),
    "labels": (),
}


@dataclasses.dataclass(frozen=True)
class Parameter:
    """What is known of a weight before it exists: its shape and the logical axis of each side."""

    shape: tuple[int, ...]
    axes: tuple[str, ...]


def build(data: int, fsdp: int, tensor: int, devices: list[Any] | None = None) -> Mesh:
    """A mesh `data x fsdp x tensor`; exactly one of the sizes may be -1, "what is left".

    Axis types are Auto: `jax.make_mesh` would give Explicit ones, which turn an ordinary
    fsdp x tensor matmul into a sharding type error. An axis of a TPU's network may be split:
    `jax.make_mesh` refuses 128 x 2 on a v6e slice of 16 x 16.

    Raises:
        ConfigError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    given = " x ".join(f"{name} {size}" for name, size in sizes.items())
    open_axes = [name for name, size in sizes.items() if size == -1]
    known = int(np.prod([size for size in sizes.values() if size != -1]))
    if len(open_axes) > 1 or known < 1 or any(size < 1 and size != -1 for size in sizes.values()):
        raise ConfigError(f"mesh {given}: sizes must be positive, at most one may be -1")
    if open_axes and len(devices) % known == 0:
        sizes[open_axes[0]] = len(devices) // known
    if int(np.prod(list(sizes.values()))) != len(devices):
        raise ConfigError(
            f"mesh {given} does not fill {len(devices)} device(s); change mesh.data, mesh.fsdp or "
            "mesh.tensor so that their product is the number of devices"
        )
    laid_out = mesh_utils.create_device_mesh(
        tuple(sizes.values()), devices, allow_split_physical_axes=True
    )
    return Mesh(laid_out, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def spec(logical: tuple[str | None, ...]) -> PartitionSpec:
    """The partition spec of an array with these logical axes (None: replicated).

    Raises:
        KeyError: an axis is not in the table.
        ValueError: two axes of one array map to the same mesh axis.
    """
    entries = [() if axis is None else RULES[axis] for axis in logical]
    used = [axis for entry in entries for axis in entry]
    if len(used) != len(set(used)):
        raise ValueError(f"logical axes {logical} use a mesh axis twice: {entries}")
    return PartitionSpec(*[entry or None for entry in entries])


def sharding(mesh: Mesh, logical: tuple[str | None, ...]) -> NamedSharding:
    return NamedSharding(mesh, spec(logical))


def put(mesh: Mesh, logical: tuple[str | None, ...], value: np.ndarray) -> jax.Array:
    """An array that every process has whole in host memory, on the mesh.

    Each process puts what its own devices hold and believes the others to have the same;
    `jax.device_put` would ask them every time.
    """
    with jax.transfer_guard("allow"):  # asked for, though not by `device_put`
        return jax.make_array_from_callback(
            value.shape, sharding(mesh, logical), lambda index: np.asarray(value[index])
        )


def put_rows(
    mesh: Mesh, logical: tuple[str | None, ...], local: np.ndarray, rows: int
) -> jax.Array:
    """As `put`, where a process has only `rows_here` of the axis `rows`, which is so long."""
    axis, here = logical.index("rows"), rows_here(mesh, rows)
    shape = (*local.shape[:axis], rows, *local.shape[axis + 1 :])

    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None  # it is for devices of other processes
        start, stop, _ = index[axis].indices(rows)
        first = int(np.searchsorted(here, start))
        return local[(*index[:axis], slice(first, first + stop - start), *index[axis + 1 :])]

    with jax.transfer_guard("allow"):
        return jax.make_array_from_callback(shape, sharding(mesh, logical), part)


def row_parts(mesh: Mesh) -> int:
    """Devices that share out rows: every batch of rows is a multiple of this."""
    return int(np.prod([mesh.shape[axis] for axis in RULES["rows"]]))


@functools.lru_cache
def rows_here(mesh: Mesh, rows: int) -> tuple[int, ...]:
    """Which of so many rows the devices of this process hold, ascending.

    Where the rest of the mesh reaches over several processes, each of them has the same rows.
    """
    held = sharding(mesh, ("rows",)).addressable_devices_indices_map((rows,)).values()
    parts = [index[0] for index in held if index is not None]
    return tuple(sorted({row for part in parts for row in range(*part.indices(rows))}))


def constrain(x: jax.Array, mesh: Mesh, logical: tuple[str | None, ...]) -> jax.Array:
    """Pins an activation inside a compiled function."""
    return jax.lax.with_sharding_constraint(x, sharding(mesh, logical))


def check_divides(
    mesh: Mesh, name: str, shape: tuple[int, ...], logical: tuple[str | None, ...]
) -> None:
    """Raises a ConfigError when an array of this shape does not divide over the mesh."""
    for size, axis in zip(shape, logical, strict=True):
        mesh_axes = () if axis is None else RULES[axis]
        parts = int(np.prod([mesh.shape[mesh_axis] for mesh_axis in mesh_axes]))
        if size % parts:
            raise ConfigError(
                f"mesh does not divide the model: {name} has {axis} = {size}, which mesh "
                f"{' x '.join(mesh_axes)} = {parts} does not divide; change mesh.{mesh_axes[0]}"
            )


def gather(x: jax.Array, mesh: Mesh, logical: tuple[str | None, ...]) -> jax.Array:
    """A stored parameter as the matmul wants it: `embed` whole on every device, `tensor` split.

    Stating it keeps the compiler from answering fsdp with partial sums of activations.
    """
    return constrain(x, mesh, tuple(None if axis == "embed" else axis for axis in logical))
