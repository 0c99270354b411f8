"""Writes a model folder from our weights, by the rows of a `WeightTable`, one tensor at a time."""

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.typing import DTypeLike

from safety_jax.base import meshes, trees
from safety_jax.base.errors import CheckpointError
from safety_jax.models import lora
from safety_jax.models.folders import folder_writing, hub, safetensors, streaming, weight_table
from safety_jax.models.folders.merging import MergedExport


def export(
    folder: Path,
    layout: weight_table.WeightTable,
    weights: trees.Tree,
    declared: Mapping[str, meshes.Parameter],
    source: Path | None,
    configs: Mapping[str, Mapping[str, Any]],
    dtype: DTypeLike,
    shard_bytes: int,
    adapters: lora.Adapters | None = None,
) -> float:
    """Writes a model folder that `transformers` opens, whole or not at all.

    Tensors are gathered and written one by one, so that a process has only one in memory at a time.
    Every process must call this; process 0 writes.

    Args:
        source: the folder the model came from, whose tokenizer and licence are copied; or None.
        configs: JSON files by their names, config.json among them.
        dtype: of the written weights.
        shard_bytes: the most bytes of tensors in a file; a larger tensor gets its own file.
        adapters: merged into the kernels.

    Returns:
        Of the weights that the adapters change, the share whose change is lost in `dtype`.

    Raises:
        CheckpointError: the disk is full, or `folder` is the source or has other content.
    """
    merged = MergedExport(adapters) if adapters is not None else None
    if source is not None and folder.resolve() == source.resolve():
        raise CheckpointError(f"{folder} is the model's own folder; export to another one")
    shards = _shards(_sources(weights, layout, declared, np.dtype(dtype), merged), shard_bytes)
    if jax.process_index() == 0:
        with folder_writing.replacing(folder, "config.json") as partial:
            _write_weights(partial, shards)
            for name, attributes in configs.items():
                folder_writing.write_json(partial / name, dict(attributes))
            if source is not None:
                patterns = hub.TOKENIZER_FILES + hub.LICENCE_FILES
                folder_writing.copy_matching(source, patterns, partial)
    else:
        for shard in shards:  # takes part in the gathers, in the same order
            for _, tensor in sorted(shard.items()):
                tensor.read()
    multihost_utils.sync_global_devices("exported")
    return merged.lost() if merged is not None else 0.0


def _sources(
    weights: trees.Tree,
    layout: weight_table.WeightTable,
    declared: Mapping[str, meshes.Parameter],
    dtype: np.dtype,
    merged: MergedExport | None,
) -> dict[str, safetensors.TensorSource]:
    """All tensors by their Hugging Face names: those before the layers in the table, the layers one
    by one, and the rest."""
    flat = trees.flatten(weights)
    found = weight_table.places(layout, declared)
    if flat.keys() != found.keys():
        raise ValueError(f"weights {sorted(flat)} are not those of the config: {sorted(found)}")
    order = [row.ours for row in layout.rows]
    first = min((order.index(ours) for ours in found if found[ours].stacked), default=0)

    def position(entry: tuple[str, int | None, str]) -> float:
        ours, layer, _ = entry
        if layer is not None:
            return float(layer)
        return -1.0 if order.index(ours) < first else math.inf

    entries = [
        (ours, layer if place.stacked else None, name)
        for ours, place in found.items()
        for layer, name in enumerate(place.names)
    ]

    def reader(ours: str, layer: int | None) -> Callable[[], np.ndarray]:
        read = streaming.on_host
        if merged is not None and merged.touches(ours):
            read = functools.partial(merged.on_host, ours)
        return functools.partial(read, flat[ours], layer, dtype, transposed=found[ours].transposed)

    sources = {
        name: safetensors.TensorSource(
            dtype, found[ours].shape(flat[ours].shape), reader(ours, layer)
        )
        for ours, layer, name in sorted(entries, key=position)
    }
    return _joined(sources, weight_table.fused(layout.fused, layout, declared))


def _joined(
    sources: Mapping[str, safetensors.TensorSource], fused: Mapping[str, Mapping[str, int]]
) -> dict[str, safetensors.TensorSource]:
    """The sources with the parts of each fused weight joined, in the place of the first part."""
    whole_of = {part: name for name, parts in fused.items() for part in parts}
    found: dict[str, safetensors.TensorSource] = {}
    for name, source in sources.items():
        whole = whole_of.get(name)
        if whole is None:
            found[name] = source
        elif whole not in found:
            parts = [sources[part] for part in fused[whole]]
            shape = (sum(part.shape[0] for part in parts), *source.shape[1:])
            found[whole] = safetensors.TensorSource(
                source.dtype, shape, functools.partial(_read_all, parts)
            )
    return found


def _read_all(parts: Sequence[safetensors.TensorSource]) -> np.ndarray:
    return np.concatenate([part.read() for part in parts])


def _shards(
    tensors: Mapping[str, safetensors.TensorSource], shard_bytes: int
) -> list[dict[str, safetensors.TensorSource]]:
    shards: list[dict[str, safetensors.TensorSource]] = [{}]
    held = 0
    for name, tensor in tensors.items():
        size = math.prod(tensor.shape) * tensor.dtype.itemsize
        if shards[-1] and held + size > shard_bytes:
            shards.append({})
            held = 0
        shards[-1][name] = tensor
        held += size
    return shards


def _write_weights(folder: Path, shards: Sequence[Mapping[str, safetensors.TensorSource]]) -> None:
    if len(shards) == 1:
        safetensors.write(folder / hub.WEIGHTS, shards[0])
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        safetensors.write(folder / file, shard)
        weight_map |= dict.fromkeys(shard, file)
    tensors = itertools.chain.from_iterable(shard.values() for shard in shards)
    size = sum(math.prod(tensor.shape) * tensor.dtype.itemsize for tensor in tensors)
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    folder_writing.write_json(folder / hub.INDEX, index)
