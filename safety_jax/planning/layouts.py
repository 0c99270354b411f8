"""Chooses the mesh of a plan, which affects memory and speed, but never results."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from jax.sharding import Mesh

from safety_jax.base import meshes
from safety_jax.models import llama
from safety_jax.planning import formulas
from safety_jax.planning.chips import Slice, topology
from safety_jax.training.footprint import FlopParts

# The share of a device's memory that weights and optimizer may take before they are divided
# further; and for a decoder, which has little else, the share of weights and caches.
TRAINING_SHARE, DECODING_SHARE = 0.4, 0.8
# The latency from chip to chip (Austin et al. 2025, How to Scale Your Model, "TPUs"). The sum of
# one token's activations is so small that latency dominates it on many chips.
HOP_SECONDS = 1e-6


class ModelSizes(NamedTuple):
    """The number of devices along each axis of the mesh."""

    data: int
    fsdp: int
    tensor: int


@dataclasses.dataclass(frozen=True)
class Absent:
    """A placeholder for a device, over which shapes can be divided, but which has no compiler."""

    id: int
    device_kind: str
    platform: str
    process_index: int = 0


def devices(where: Slice, *, compiled: bool = True) -> Sequence[Any]:
    """The devices of an absent slice.

    Args:
        compiled: whether to compile programs for them, which is possible only for TPUs.

    Raises:
        ConfigError: see `chips.topology`.
    """
    if where.is_tpu and compiled:
        return topology(where)
    platform = "tpu" if where.is_tpu else "gpu"
    return [Absent(number, where.chip.kind, platform) for number in range(where.devices)]


def absent(found: Sequence[Any]) -> bool:
    """Whether nothing can be compiled for these devices."""
    return isinstance(found[0], Absent)


def build(sizes: ModelSizes, found: Sequence[Any]) -> Mesh:
    """A mesh of these sizes, one of which may be -1. `Absent` devices have no network."""
    return meshes.build(*sizes, devices=list(found), networked=not absent(found))


def tensor_sizes(model: llama.LlamaConfig, count: int) -> list[int]:
    """Possible sizes of the tensor axis, smallest first: divisors of devices, heads and widths."""
    whole = (count, model.heads, model.kv_heads, model.mlp_width, model.vocabulary_size)
    return [size for size in range(1, count + 1) if all(one % size == 0 for one in whole)]


def for_rows(
    model: llama.LlamaConfig, count: int, rows: int, state: float, memory: float
) -> ModelSizes:
    """The sizes for training and judging. `tensor` is the smallest size that leaves no device
    without a row. The rest is `data` if each `tensor` group can store the whole state, so that
    nothing is gathered. Otherwise it is `fsdp`, as far as this divides the width: it needs the
    least memory, and gathers over every link.

    Args:
        count: of devices.
        rows: of a step.
        state: bytes of weights and optimizer.
        memory: bytes of a device.
    """
    fitting = tensor_sizes(model, count)
    tensor = next((size for size in fitting if count // size <= rows), fitting[-1])
    if state / tensor <= TRAINING_SHARE * memory:
        return ModelSizes(count // tensor, 1, tensor)
    return _stored(model, count // tensor, tensor)


def for_decoding(
    model: llama.LlamaConfig, where: Slice, lanes: int, *, weights: float, caches: float
) -> ModelSizes:
    """The sizes for writing tokens. Kernels are divided among as many devices as minimise the time
    to read a part of the weights plus the time to add up the products.

    Both `fsdp` and `tensor` divide a kernel (`meshes.decoding`), and all axes divide caches.
    `tensor` is as large as the heads allow, because the attention of a lane then needs no exchange.

    Args:
        weights, caches: bytes on all devices together.
    """
    count, chip = where.devices, where.chip
    memory, bandwidth = chip.memory / chip.devices, chip.bandwidth / chip.devices
    sizes = tensor_sizes(model, count)
    room = DECODING_SHARE * memory - caches / count

    def seconds(parts: int) -> float:
        split = FlopParts(count // parts, parts, parts)
        received = formulas.exchanged(
            model, split, width=2, tokens=lanes, passes=1, repeats=1, reduced=0, kernel_bytes=2.0
        )
        # A sum passes twice along each axis of the group's part of the network.
        side = parts ** (1 / max(chip.axes, 1))
        hops = 2 * chip.axes * (side - 1) if chip.axes else 2
        waits = 2 * model.layers * hops * HOP_SECONDS if parts > 1 else 0.0
        return weights / parts / bandwidth + formulas.network_seconds(received, where) + waits

    found = {}
    for parts in (n for n in range(1, count + 1) if count % n == 0):
        tensor = max(size for size in sizes if parts % size == 0)
        fsdp, data = parts // tensor, count // parts
        if model.width % fsdp == 0:
            found[parts] = ModelSizes(data, fsdp, tensor)
    fitting = [parts for parts in found if weights / parts <= room]
    return found[min(fitting, key=seconds) if fitting else max(found)]


def _stored(model: llama.LlamaConfig, parts: int, tensor: int) -> ModelSizes:
    fsdp = _divisors(model, parts)[-1]
    return ModelSizes(parts // fsdp, fsdp, tensor)


def _divisors(model: llama.LlamaConfig, parts: int) -> list[int]:
    return [n for n in range(1, parts + 1) if parts % n == 0 and model.width % n == 0]


def round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
