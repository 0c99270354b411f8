"""PEFT adapter folders, in and out: `adapter_config.json` and `adapter_model.safetensors`.

A is [R, in] and B is [out, R], as in our trees. An adapter may leave out some layers, but then they
must be the same for all targets.
"""

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from safety_jax.base import meshes, trees
from safety_jax.base.errors import CheckpointError, few
from safety_jax.models import llama, lora
from safety_jax.models.folders import folder_writing, hub, peft_config, safetensors, streaming
from safety_jax.models.folders.peft_config import CONFIG, MERGE, LoraConfig
from safety_jax.models.folders.peft_names import FACTORS, TEXT_MODEL, TRUNKS, key, path

WEIGHTS = hub.ADAPTER_WEIGHTS

# ---------------------------------------------------------------------------- loading


def loaded_bytes(folder: Path) -> int:
    """The memory that a folder's adapters take as float32, in bytes."""
    tensors = safetensors.read_header(hub.adapter_file(folder)).values()
    return 4 * sum(math.prod(tensor.shape) for tensor in tensors)


def load(folder: Path, config: llama.LlamaConfig, mesh: Mesh) -> tuple[lora.Adapters, LoraConfig]:
    """The adapters of a folder for a model of `config`, as float32, and their settings.

    Raises:
        CheckpointError: a file is missing or damaged, the adapter does not fit the model, or it
            uses a feature that is not supported.
    """
    settings, tensors, layers = _open(folder, config)
    targets, rank, trunk = settings.targets, settings.rank, settings.trunk
    declared = lora.shapes(llama.parameters(config), targets, rank, settings.layers)
    stored: dict[str, list[safetensors.Tensor]] = {}
    for target in targets:
        own = {
            name: shape for name, (shape, _) in declared.items() if name.startswith(f"{target}.")
        }
        for layer in layers:
            a, b = (tensors[key(target, layer, factor, trunk, config.files)] for factor in FACTORS)
            for name, tensor in _leaves(a, b, target, own).items():
                stored.setdefault(name, []).append(tensor)
    weights = {}
    for name, (shape, axes) in declared.items():
        meshes.check_divides(mesh, name, shape, axes)
        sharding = meshes.sharding(mesh, axes)
        weights[name] = streaming.assemble(
            stored[name], shape, sharding, np.float32, lambda count: None
        )
    scale = lora.scaling(rank, settings.alpha, settings.rslora)
    on = lora.on(settings.layers, config.layers)
    adapters = lora.Adapters(trees.unflatten(weights), scale, settings.dropout, on=on)
    return adapters, settings


def read_settings(folder: Path, config: llama.LlamaConfig) -> LoraConfig:
    """The settings of `load`; reads no weights.

    Raises:
        CheckpointError: as `load`, but not for wrong shapes of weights.
    """
    return _open(folder, config)[0]


def _open(
    folder: Path, config: llama.LlamaConfig
) -> tuple[LoraConfig, dict[str, safetensors.Tensor], tuple[int, ...]]:
    """The settings of an adapter, its tensors by PEFT's names, and the adapted layers."""
    given = peft_config.read(folder)
    tensors = safetensors.read_header(hub.adapter_file(folder))
    starts = {trunk: f"base_model.model.{trunk}.layers." for trunk in TRUNKS}
    found = [t for t, start in starts.items() if any(name.startswith(start) for name in tensors)]
    trunk = found[0] if found else TEXT_MODEL
    layers = _layers(given, config, folder)
    targets = _targets(given, tensors, config, folder, trunk, layers)
    for tensor in tensors.values():
        tensor.check(tensor.shape)
    dtypes = {tensor.dtype.name for tensor in tensors.values()}
    settings = LoraConfig(
        rank=given["r"],
        alpha=float(given["lora_alpha"]),
        dropout=float(given.get("lora_dropout") or 0.0),
        targets=targets,
        rslora=bool(given.get("use_rslora")),
        base_name=str(given.get("base_model_name_or_path") or ""),
        dtype=dtypes.pop() if len(dtypes) == 1 else "float32",
        trunk=trunk,
        files=config.files,
        layers=None if len(layers) == config.layers else layers,
    )
    return settings, tensors, layers


def _leaves(
    a: safetensors.Tensor, b: safetensors.Tensor, target: str, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, safetensors.Tensor]:
    """The leaves of one layer of a target, by dotted name. B's rows are split by projection.

    Raises:
        CheckpointError: a factor has the wrong shape.
    """
    a.check(shapes[f"{target}.a"][1:])
    leaves = [f"{target}.{leaf}" for leaf in lora.parts(target).values()]
    heights = [shapes[leaf][1] for leaf in leaves]
    b.check((sum(heights), *shapes[leaves[0]][2:]))
    stops = list(itertools.accumulate(heights))
    found = {f"{target}.a": a}
    for leaf, height, stop in zip(leaves, heights, stops, strict=True):
        found[leaf] = b.rows(stop - height, stop)
    return found


def _targets(
    given: Mapping[str, Any],
    tensors: Mapping[str, safetensors.Tensor],
    config: llama.LlamaConfig,
    folder: Path,
    trunk: str,
    layers: tuple[int, ...],
) -> tuple[str, ...]:
    """The adapted projections: those with keys in the file, which `target_modules` must agree with.

    Args:
        layers: the adapted layers; every target must have all of them.

    Raises:
        CheckpointError: keys and `target_modules` disagree, or a layer is missing.
    """
    known, files = llama.targets(config), config.files
    targets = tuple(
        target
        for target in known.values()
        if any(key(target, layer, "a", trunk, files) in tensors for layer in range(config.layers))
    )
    expected = [
        key(target, layer, factor, trunk, files)
        for target in targets
        for layer in layers
        for factor in FACTORS
    ]
    missing = [name for name in expected if name not in tensors]
    unexpected = sorted(tensors.keys() - set(expected))
    # A list has the ends of modules' paths, sometimes with one entry per layer. A string is a
    # pattern for whole paths, which `_layers` has already applied.
    asked = given["target_modules"]
    paths = [f".{name.split('.lora_')[0]}" for name in expected]
    names = [str(name) for name in asked] if isinstance(asked, list) else []
    unused = [
        name
        for name in names
        if not any(path.endswith(f".{name}") for path in paths)
        and not peft_config.excluded(given, name)
    ]
    problems = (
        ("adapts modules that cannot be adapted here, or another model", unexpected),
        ("lacks", missing),
        ("has nothing for target_modules", unused),
    )
    for what, found in problems:
        if found:
            where = _named_layers(layers, config.layers)
            raise CheckpointError(
                f"{folder}: adapter {what}: {few(found, 3)}; expected "
                f"{', '.join(known)} in {where}; if it is whole, {MERGE}"
            )
    if not targets:
        raise CheckpointError(f"{folder / WEIGHTS}: no adapter of a LLaMA-family model")
    return targets


def _layers(given: Mapping[str, Any], config: llama.LlamaConfig, folder: Path) -> tuple[int, ...]:
    """The adapted layers: those in `layers_to_transform`, or else those with a module that
    `target_modules` selects and `exclude_modules` does not (each a pattern for paths, or a list of
    their ends); all layers if there is no such module.

    Raises:
        CheckpointError: a number in `layers_to_transform` is not that of a layer.
    """
    everyone = tuple(range(config.layers))
    chosen = given.get("layers_to_transform")
    if chosen is not None and chosen != []:
        numbers = chosen if isinstance(chosen, list) else [chosen]
        if not all(type(number) is int and number in everyone for number in numbers):
            raise CheckpointError(
                f"{folder / CONFIG}: layers_to_transform = {peft_config.shown(chosen)}; expected "
                f"numbers from 0 to {config.layers - 1}"
            )
        return tuple(sorted(set(numbers)))
    asked, known = given["target_modules"], llama.targets(config).values()
    paths = {layer: [f"{trunk}.layers.{layer}.{path(target, config.files)}"
                     for trunk in TRUNKS for target in known]
             for layer in everyone}  # fmt: skip
    without = given.get("exclude_modules")
    adapted = {
        layer
        for layer in everyone
        for one in paths[layer]
        if peft_config.chooses(asked, one) and not peft_config.chooses(without, one)
    }
    return tuple(sorted(adapted)) or everyone


def _named_layers(layers: tuple[int, ...], depth: int) -> str:
    if len(layers) == depth:
        return f"all {depth} layers"
    more = " and others" if len(layers) > 8 else ""
    return f"layers {', '.join(map(str, layers[:8]))}{more}"


# ---------------------------------------------------------------------------- exporting


def export(folder: Path, adapters: lora.Adapters, settings: LoraConfig) -> None:
    """Writes an adapter folder that `peft` opens on `settings.base_name`, whole or not at all.

    Every process must call this; process 0 writes.

    Raises:
        CheckpointError: the disk is full, or `folder` has other content.
    """
    scale = lora.scaling(settings.rank, settings.alpha, settings.rslora)
    rows = None if adapters.on is None else tuple(int(layer) for layer in adapters.rows)
    same = set(adapters.weights) == set(settings.targets) and rows == settings.layers
    if not same or adapters.scale != scale:
        held = ", ".join(adapters.weights)
        raise ValueError(f"adapters of {held}, scale {adapters.scale}, given with {settings}")
    dtype = np.dtype(settings.dtype)
    tensors = {
        key(target, layer, factor, settings.trunk, settings.files): _source(leaves, row, dtype)
        for target, pair in adapters.weights.items()
        for factor, leaves in (
            ("a", [pair["a"]]),
            ("b", [pair[leaf] for leaf in lora.parts(target).values()]),
        )
        for row, layer in enumerate(settings.layers or range(pair["a"].shape[0]))
    }
    if jax.process_index() == 0:
        with folder_writing.replacing(folder, CONFIG) as partial:
            safetensors.write(partial / WEIGHTS, tensors)
            folder_writing.write_json(partial / CONFIG, peft_config.attributes(settings))
    else:
        for _, tensor in sorted(tensors.items()):  # takes part in the gathers, in the same order
            tensor.read()
    multihost_utils.sync_global_devices("exported")


def _source(leaves: list[jax.Array], layer: int, dtype: np.dtype) -> safetensors.TensorSource:
    """One layer of a factor, with the rows of its projections concatenated."""
    shape = (sum(leaf.shape[1] for leaf in leaves), leaves[0].shape[2])

    def read() -> np.ndarray:
        return np.concatenate([streaming.on_host(leaf, layer, dtype) for leaf in leaves])

    return safetensors.TensorSource(dtype, shape, read)
