"""Which mesh a plan takes where it may choose: keys that change memory and speed, never results."""

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
# further; for a decoder, which has little else, that of weights and caches.
TRAINING_SHARE, DECODING_SHARE = 0.4, 0.8
# From chip to chip (Austin et al. 2025, How to Scale Your Model, "TPUs"); a sum of one token's
# activations is so small that among many chips this is most of it.
HOP_SECONDS = 1e-6


class ModelSizes(NamedTuple):
    """How many devices stand along each axis of the mesh."""

    data: int
    fsdp: int
    tensor: int


@dataclasses.dataclass(frozen=True)
class Absent:
    """Stands for a device that nothing is compiled for, so that shapes can be divided over it."""

    id: int
    device_kind: str
    platform: str
    process_index: int = 0


def devices(where: Slice, *, compiled: bool = True) -> Sequence[Any]:
    """The devices of a slice that is not there.

    Args:
        compiled: programs are to be compiled for them, where that is possible: for TPUs.

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
    """A mesh of these sizes, one of which may be -1; absent devices have no network to lie on."""
    return meshes.build(*sizes, devices=list(found), networked=not absent(found))


def tensor_sizes(model: llama.LlamaConfig, count: int) -> list[int]:
    """Sizes of the tensor axis that neither split a head nor leave devices over, smallest first."""
    whole = (count, model.heads, model.kv_heads, model.mlp_width, model.vocabulary_size)
    return [size for size in range(1, count + 1) if all(one % size == 0 for one in whole)]


def for_rows(
    model: llama.LlamaConfig, count: int, rows: int, state: float, memory: float
) -> ModelSizes:
    """For training and judging: as little `tensor` as leaves no device without a row. The rest is
    `data` where the state fits whole, so that nothing is gathered; else all `fsdp`, which holds
    least and gathers over every link.

    Args:
        count: devices.
        rows: that a step has.
        state: bytes of weights and optimizer.
        memory: of a device.
    """
    fitting = tensor_sizes(model, count)
    tensor = next((size for size in fitting if count // size <= rows), fitting[-1])
    if state / tensor <= TRAINING_SHARE * memory:
        return ModelSizes(count // tensor, 1, tensor)
    return _stored(model, count // tensor, tensor)


def for_decoding(
    model: llama.LlamaConfig, where: Slice, lanes: int, *, weights: float, caches: float
) -> ModelSizes:
    """The sizes for writing tokens: kernels divided among the number of devices for which reading a
    part and adding up the products takes least, as if neither waited for the other.

    A kernel is divided by `fsdp` as well as by `tensor` (`meshes.decoding`), caches by all axes;
    `tensor` goes as far as heads allow, because a lane's attention then needs no exchange.

    Args:
        weights, caches: bytes of all that is held.
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
        # A sum goes round each axis of the group's part of the network twice.
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
