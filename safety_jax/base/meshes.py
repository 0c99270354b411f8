"""Builds the device mesh, and has the table from logical axes to mesh axes.

Every parameter and every activation constraint names logical axes only. To change a sharding
strategy, change this table. An axis that is not in it raises; there is no catch-all.

Training and decoding need different layouts, so there are two tables, RULES and DECODING; the axes
of a mesh say which one applies. Training stores a kernel in parts and gathers it for a whole batch
of tokens (`fsdp`). A step of decoding has one token per lane, and gathering a kernel for it would
cost more than the token does. A `decoding` mesh therefore divides matrix products over all devices
that hold the model, while attention and its caches, which have no kernels, are divided by lanes.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from safety_jax.base.errors import ConfigError

AXES = ("data", "fsdp", "tensor")

RULES: dict[str, tuple[str, ...]] = {
    # activations: `rows` in attention and where tokens are drawn, `stream` between the layers
    "rows": ("data", "fsdp"),
    "stream": ("data", "fsdp"),
    "tokens": (),
    "width": (),
    "whole_heads": ("tensor",),
    "drawn": ("tensor",),
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

# A decoding mesh calls the axis `fsdp` `attention`, because only attention (its lanes) is divided
# along this axis alone. As many mesh axes divide an axis of a weight as its size allows.
DECODING_AXES = ("data", "attention", "tensor")
_ALL = ("tensor", "attention")
DECODING = RULES | {
    "rows": ("data", "attention"),
    "stream": ("data",),
    "embed": (),
    "vocab": _ALL,
    "heads": _ALL,
    "kv_heads": _ALL,
    "mlp": _ALL,
}
_DIVIDED = ("vocab", "heads", "kv_heads", "mlp")


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A declared weight: its shape, and the logical axis of each dimension."""

    shape: tuple[int, ...]
    axes: tuple[str, ...]


def build(
    data: int,
    fsdp: int,
    tensor: int,
    devices: list[Any] | None = None,
    *,
    networked: bool = True,
) -> Mesh:
    """A mesh `data x fsdp x tensor`; at most one of the sizes may be -1, which means "the rest".

    Axis types are Auto: `jax.make_mesh` would give Explicit ones, which turn an ordinary
    fsdp x tensor matmul into a sharding type error. An axis of a TPU's network may be split:
    `jax.make_mesh` refuses 128 x 2 on a v6e slice of 16 x 16.

    Args:
        networked: order devices so that neighbours in the mesh are neighbours in the network.

    Raises:
        ConfigError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    given = " x ".join(f"{name} {size}" for name, size in sizes.items())
    open_axes = [name for name, size in sizes.items() if size == -1]
    known = math.prod(size for size in sizes.values() if size != -1)
    if len(open_axes) > 1 or known < 1 or any(size < 1 and size != -1 for size in sizes.values()):
        raise ConfigError(f"mesh {given}: sizes must be positive, at most one may be -1")
    if open_axes and len(devices) % known == 0:
        sizes[open_axes[0]] = len(devices) // known
    if math.prod(sizes.values()) != len(devices):
        raise ConfigError(
            f"mesh {given} does not fill {len(devices)} device(s); change mesh.data, mesh.fsdp or "
            "mesh.tensor so that their product is the number of devices"
        )
    shape = tuple(sizes.values())
    laid_out = np.asarray(devices, object).reshape(shape)
    if networked:
        laid_out = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return Mesh(laid_out, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def decoding(mesh: Mesh) -> Mesh:
    """The same devices as a decoding mesh; or the mesh itself, if it gathers nothing anyway."""
    if is_decoding(mesh) or mesh.shape["fsdp"] == 1:
        return mesh
    return Mesh(mesh.devices, DECODING_AXES, axis_types=(AxisType.Auto,) * len(DECODING_AXES))


def is_decoding(mesh: Mesh) -> bool:
    return mesh.axis_names == DECODING_AXES


def rules(mesh: Mesh) -> dict[str, tuple[str, ...]]:
    """The table that applies on this mesh."""
    return DECODING if is_decoding(mesh) else RULES


def spec(
    logical: tuple[str | None, ...], table: dict[str, tuple[str, ...]] = RULES
) -> PartitionSpec:
    """The partition spec of an array with these logical axes (None: replicated).

    Raises:
        KeyError: an axis is not in the table.
        ValueError: two axes of one array map to the same mesh axis.
    """
    entries = [() if axis is None else table[axis] for axis in logical]
    used = [axis for entry in entries for axis in entry]
    if len(used) != len(set(used)):
        raise ValueError(f"logical axes {logical} use a mesh axis twice: {entries}")
    return PartitionSpec(*[entry or None for entry in entries])


def sharding(
    mesh: Mesh, logical: tuple[str | None, ...], shape: tuple[int, ...] | None = None
) -> NamedSharding:
    """The sharding of an array with these logical axes.

    Args:
        shape: of a weight. If its mesh axes do not divide an axis on a decoding mesh, only the
            first of them does, or none.
    """
    table = rules(mesh)
    if shape is not None and is_decoding(mesh):
        cut = {
            axis: _dividing(mesh, table[axis], size)
            for axis, size in zip(logical, shape, strict=True)
            if axis in _DIVIDED
        }
        table = table | cut
    return NamedSharding(mesh, spec(logical, table))


def _dividing(mesh: Mesh, mesh_axes: tuple[str, ...], size: int) -> tuple[str, ...]:
    """The most of these mesh axes, from the first on, that divide an axis of this size."""
    while size % math.prod(mesh.shape[axis] for axis in mesh_axes):
        mesh_axes = mesh_axes[:-1]
    return mesh_axes


def put(mesh: Mesh, logical: tuple[str | None, ...], value: np.ndarray) -> jax.Array:
    """Puts an array that every process has in host memory onto the mesh.

    Each process copies the parts for its own devices, and trusts that the others have the same
    values; `jax.device_put` would compare them every time.
    """
    with jax.transfer_guard("allow"):  # an explicit transfer, though not by `device_put`
        return jax.make_array_from_callback(
            value.shape, sharding(mesh, logical), lambda index: np.asarray(value[index])
        )


def put_rows(
    mesh: Mesh, logical: tuple[str | None, ...], local: np.ndarray, rows: int
) -> jax.Array:
    """The same as `put`, if a process has only its own `rows_here` of the axis with `rows` rows."""
    axis, here = logical.index("rows"), rows_here(mesh, rows)
    shape = (*local.shape[:axis], rows, *local.shape[axis + 1 :])

    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None  # only devices of other processes have none
        start, stop, _ = index[axis].indices(rows)
        first = int(np.searchsorted(here, start))
        return local[(*index[:axis], slice(first, first + stop - start), *index[axis + 1 :])]

    with jax.transfer_guard("allow"):
        return jax.make_array_from_callback(shape, sharding(mesh, logical), part)


def row_parts(mesh: Mesh) -> int:
    """The number of devices over which rows are divided; every batch of rows is a multiple."""
    return math.prod(mesh.shape[axis] for axis in rules(mesh)["rows"])


@functools.lru_cache
def rows_here(mesh: Mesh, rows: int) -> tuple[int, ...]:
    """The numbers of those rows that are on the devices of this process, ascending.

    If the other axes of the mesh span several processes, each of these has the same rows.
    """
    held = sharding(mesh, ("rows",)).addressable_devices_indices_map((rows,)).values()
    parts = [index[0] for index in held if index is not None]
    return tuple(sorted({row for part in parts for row in range(*part.indices(rows))}))


def constrain(x: jax.Array, mesh: Mesh, logical: tuple[str | None, ...]) -> jax.Array:
    """Pins an activation inside a compiled function."""
    return jax.lax.with_sharding_constraint(x, sharding(mesh, logical, x.shape))


def pin(x: jax.Array, mesh: Mesh, logical: tuple[str, ...]) -> jax.Array:
    """The same as `constrain`, but only on a decoding mesh: on others the compiler chooses this
    sharding itself."""
    return constrain(x, mesh, logical) if is_decoding(mesh) else x


def regroup(x: jax.Array, mesh: Mesh, before: tuple[str, ...], after: tuple[str, ...]) -> jax.Array:
    """Moves an activation between matrix products and attention, which a decoding mesh divides
    differently. Other meshes divide them in the same way, and nothing is pinned.

    Both shardings are given, because with only one of them the compiler would apply it to the
    product on the other side as well, and gather the kernel.
    """
    return pin(pin(x, mesh, before), mesh, after)


def check_divides(
    mesh: Mesh, name: str, shape: tuple[int, ...], logical: tuple[str | None, ...]
) -> None:
    """Raises a ConfigError if the mesh does not divide an array of this shape. A decoding mesh
    divides everything that its original mesh divides."""
    if is_decoding(mesh):
        return
    for size, axis in zip(shape, logical, strict=True):
        mesh_axes = () if axis is None else RULES[axis]
        parts = math.prod(mesh.shape[mesh_axis] for mesh_axis in mesh_axes)
        if size % parts:
            raise ConfigError(
                f"mesh does not divide the model: {name} has {axis} = {size}, which mesh "
                f"{' x '.join(mesh_axes)} = {parts} does not divide; change mesh.{mesh_axes[0]}"
            )


def gather(x: jax.Array, mesh: Mesh, logical: tuple[str | None, ...]) -> jax.Array:
    """A stored parameter in the sharding of matrix products: gathered along `embed`, still divided
    by `tensor`. On a decoding mesh it is stored in this way.

    Without this constraint, the compiler may exchange partial sums of activations instead.
    """
    return constrain(x, mesh, tuple(None if axis == "embed" else axis for axis in logical))
