"""Which mesh a plan takes where it may choose: keys that change memory and speed, never results."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from safety_jax.base import meshes
from safety_jax.models import llama
from safety_jax.planning.chips import Slice, topology

# Of a device's memory: what weights and optimizer may take before they are divided further; a
# decoder has little else.
TRAINING_SHARE, DECODING_SHARE = 0.4, 0.6


class ModelSizes(NamedTuple):
    """Of the mesh's axes."""

    data: int
    fsdp: int
    tensor: int


@dataclasses.dataclass(frozen=True)
class Absent:
    """Stands for a device that nothing is compiled for, so that shapes can be divided over it."""

    id: int
    device_kind: str
    platform: str = "gpu"
    process_index: int = 0


def devices(where: Slice) -> Sequence[Any]:
    """Of a slice that is not there.

    Raises:
        ConfigError: see `chips.topology`.
    """
    if where.is_tpu:
        return topology(where)
    return [Absent(number, where.chip.kind) for number in range(where.devices)]


def build(sizes: ModelSizes, found: Sequence[Any]) -> Any:
    return meshes.build(*sizes, devices=list(found))


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


def for_decoding(model: llama.LlamaConfig, count: int, weights: float, memory: float) -> ModelSizes:
    """For writing tokens: weights whole on as few devices as hold them, because a kernel that is
    gathered for every token costs more than the token; then `fsdp`, where `tensor` has an end.

    Args:
        weights: bytes of all that is held of the weights.
        memory: of a device.
    """
    fitting = tensor_sizes(model, count)
    room = DECODING_SHARE * memory
    tensor = next((size for size in fitting if weights / size <= room), fitting[-1])
    parts = count // tensor
    for fsdp in _divisors(model, parts):
        if weights / tensor / fsdp <= room:
            return ModelSizes(parts // fsdp, fsdp, tensor)
    return _stored(model, parts, tensor)


def _stored(model: llama.LlamaConfig, parts: int, tensor: int) -> ModelSizes:
    fsdp = _divisors(model, parts)[-1]
    return ModelSizes(parts // fsdp, fsdp, tensor)


def _divisors(model: llama.LlamaConfig, parts: int) -> list[int]:
    return [n for n in range(1, parts + 1) if parts % n == 0 and model.width % n == 0]


def round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
