"""Loads sharded arrays from files, and copies them to host memory, in pieces of bounded size.

A process reads only the rows for its own devices, directly into the buffer that becomes (on CPU) or
feeds (elsewhere) the device's shard. A load thus needs memory for the weights and a few chunks,
never for a second copy. If shards divide columns, a chunk has whole rows, from which all shards of
the process copy their parts.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jax.typing import DTypeLike

from safety_jax.models import quantised
from safety_jax.models.folders import safetensors

# Shards of one weight are read together up to this size, then copied to their devices. This bounds
# the host memory of a load onto accelerators (unless one shard alone is larger).
HOST_BUFFER_BYTES = 2 << 30
ALIGNMENT_BYTES = 64  # with this alignment, a CPU device adopts a buffer instead of copying it

Box = tuple[tuple[int, int], ...]  # start and stop on each axis


def assemble(
    tensors: Sequence[safetensors.Tensor],
    shape: tuple[int, ...],
    sharding: NamedSharding,
    dtype: DTypeLike,
    report: Callable[[int], Any],
    transposed: bool = False,
) -> jax.Array:
    """One array from one tensor, or from one tensor per layer, stacked on axis 0.

    `report` receives the number of bytes that each read delivers. Replicated shards are read once.
    With `transposed`, the file has the axes of the array (of one layer) in reverse order.

    Raises:
        CheckpointError: a file cannot be read.
    """
    stacked = len(shape) > len(tensors[0].shape)
    owners = _owners(shape, sharding)
    arrays = {}
    for boxes in _batches(owners, jnp.dtype(dtype).itemsize):
        buffers = {box: _aligned_empty(_shape(box), jnp.dtype(dtype)) for box in boxes}
        safetensors.read_chunks(_chunks(tensors, buffers, stacked, transposed), report)
        for box, buffer in buffers.items():
            for device in owners[box]:
                arrays[device] = jax.device_put(buffer, device)
        jax.block_until_ready([arrays[device] for box in boxes for device in owners[box]])
    return jax.make_array_from_single_device_arrays(
        shape, sharding, [arrays[device] for device in sharding.addressable_devices]
    )


def _chunks(
    tensors: Sequence[safetensors.Tensor],
    buffers: Mapping[Box, np.ndarray],
    stacked: bool,
    transposed: bool,
) -> Iterator[safetensors.FileChunk]:
    for layer, tensor in enumerate(tensors):
        pieces = []
        for box, buffer in buffers.items():
            first, last = box[0]
            if stacked and not first <= layer < last:
                continue
            within = box[1:] if stacked else box
            out = buffer[layer - first] if stacked else buffer
            if transposed:
                within, out = within[::-1], out.T
            pieces.append(safetensors.Piece(tuple(slice(*bounds) for bounds in within), out))
        yield from safetensors.chunks(tensor, pieces)


def local_bytes(shape: tuple[int, ...], sharding: NamedSharding, dtype: DTypeLike) -> int:
    """Bytes that `assemble` reads for this process's devices, counted in `dtype`."""
    boxes = _owners(shape, sharding)
    return sum(math.prod(_shape(box)) for box in boxes) * jnp.dtype(dtype).itemsize


def _owners(shape: tuple[int, ...], sharding: NamedSharding) -> dict[Box, list[jax.Device]]:
    """This process's devices by their box of the array; replicas share one box."""
    owners: dict[Box, list[jax.Device]] = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        assert index is not None  # the map's type allows it, for devices that are not addressable
        bounds = [part.indices(size)[:2] for part, size in zip(index, shape, strict=True)]
        owners.setdefault(tuple(bounds), []).append(device)
    return owners


def _batches(boxes: Mapping[Box, Any], itemsize: int) -> Iterator[list[Box]]:
    batch: list[Box] = []
    held = 0
    for box in boxes:
        size = math.prod(_shape(box)) * itemsize
        if batch and held + size > HOST_BUFFER_BYTES:
            yield batch
            batch, held = [], 0
        batch.append(box)
        held += size
    yield batch


def _shape(box: Box) -> tuple[int, ...]:
    return tuple(stop - start for start, stop in box)


def _aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + ALIGNMENT_BYTES, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT_BYTES
    return raw[start : start + size].view(dtype).reshape(shape)


@functools.partial(jax.jit, static_argnames="dtype")
def _layer(
    weight: jax.Array | quantised.Kernel, layer: jax.Array | None, dtype: np.dtype
) -> jax.Array:
    if layer is not None:
        weight = of_layer(weight, layer)
    # A copy, because an array keeps its host value once it has one, which the weight must not.
    return jnp.copy(quantised.as_float(weight, dtype))


def of_layer(weight: Any, layer: jax.Array) -> Any:
    """One layer of a stacked weight, in the weight's own format."""
    pick = functools.partial(jax.lax.dynamic_index_in_dim, index=layer, axis=0, keepdims=False)
    return jax.tree.map(pick, weight)


def on_host(
    weight: jax.Array | quantised.Kernel,
    layer: int | None,
    dtype: np.dtype,
    transposed: bool = False,
) -> np.ndarray:
    """One whole layer of a stacked weight in host memory, or the whole weight if `layer` is None; a
    quantised kernel is dequantised.

    `transposed` reverses its axes, see `assemble`. With several processes this is a collective: all
    of them must ask for the same pieces in the same order.
    """
    part = _layer(weight, layer, dtype)
    if part.is_fully_addressable:
        host = np.asarray(part)
    else:
        host = np.asarray(multihost_utils.process_allgather(part, tiled=True))
    return host.T if transposed else host
