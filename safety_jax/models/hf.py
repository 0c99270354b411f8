"""Weights of Hugging Face folders, streamed into sharded arrays and back.

TABLE has one row per weight and is read both ways. Kernels keep their [out, in] orientation, so a
row is two names; our weights stack the layers on axis 0. Anything unmapped, missing, doubled or of
another shape raises.
"""

import functools
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jax.typing import DTypeLike

from safety_jax import trees
from safety_jax.errors import CheckpointError
from safety_jax.models import folder as folders
from safety_jax.models import hf_config, llama, safetensors, streaming
from safety_jax.models.folder import fingerprint, resolve
from safety_jax.models.hf_config import read_config

__all__ = ["TABLE", "export", "fingerprint", "load", "read_config", "resolve"]

TABLE = (
    ("model.embed_tokens.weight", "embedding"),
    ("model.layers.{layer}.input_layernorm.weight", "layers.attention_norm"),
    ("model.layers.{layer}.self_attn.q_proj.weight", "layers.query.kernel"),
    ("model.layers.{layer}.self_attn.q_proj.bias", "layers.query.bias"),
    ("model.layers.{layer}.self_attn.k_proj.weight", "layers.key.kernel"),
    ("model.layers.{layer}.self_attn.k_proj.bias", "layers.key.bias"),
    ("model.layers.{layer}.self_attn.v_proj.weight", "layers.value.kernel"),
    ("model.layers.{layer}.self_attn.v_proj.bias", "layers.value.bias"),
    ("model.layers.{layer}.self_attn.q_norm.weight", "layers.query_norm"),
    ("model.layers.{layer}.self_attn.k_norm.weight", "layers.key_norm"),
    ("model.layers.{layer}.self_attn.o_proj.weight", "layers.output.kernel"),
    ("model.layers.{layer}.self_attn.o_proj.bias", "layers.output.bias"),
    ("model.layers.{layer}.post_attention_layernorm.weight", "layers.mlp_norm"),
    ("model.layers.{layer}.mlp.gate_proj.weight", "layers.gate.kernel"),
    ("model.layers.{layer}.mlp.gate_proj.bias", "layers.gate.bias"),
    ("model.layers.{layer}.mlp.up_proj.weight", "layers.up.kernel"),
    ("model.layers.{layer}.mlp.up_proj.bias", "layers.up.bias"),
    ("model.layers.{layer}.mlp.down_proj.weight", "layers.down.kernel"),
    ("model.layers.{layer}.mlp.down_proj.bias", "layers.down.bias"),
    ("model.norm.weight", "final_norm"),
    ("lm_head.weight", "head"),
)
GENERATION = "generation_config.json"
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"

# Rotary frequencies that old releases stored; they follow from config.json.
DERIVED = re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")

SHOW_PROGRESS_BYTES = 1 << 30


def hf_names(config: llama.Config) -> dict[str, list[str]]:
    """Hugging Face's names of each of our weights: one a layer where layers are stacked."""
    rows = {ours: hf for hf, ours in TABLE}
    return {
        ours: [rows[ours].format(layer=layer) for layer in range(parameter.shape[0])]
        if "{layer}" in rows[ours]
        else [rows[ours]]
        for ours, parameter in llama.parameters(config).items()
    }


# ---------------------------------------------------------------------------- loading


def load(folder: Path, config: llama.Config, mesh: Mesh, dtype: DTypeLike) -> trees.Tree:
    """The weights of a model folder as sharded arrays of `dtype`.

    Raises:
        CheckpointError: the files are damaged, or do not hold exactly the weights of `config`.
        ConfigError: the mesh does not divide the model.
    """
    shardings = trees.flatten(llama.shardings(config, mesh))
    declared = llama.parameters(config)
    names = hf_names(config)
    tensors = folders.locate(folder)
    _check(tensors, config, folder)
    size = sum(
        streaming.local_bytes(parameter.shape, shardings[ours], dtype)
        for ours, parameter in declared.items()
    )
    weights = {}
    hidden = size < SHOW_PROGRESS_BYTES or jax.process_index() != 0
    with tqdm.tqdm(
        total=size, desc=f"loading {folder.name}", unit="B", unit_scale=True, disable=hidden
    ) as progress:
        for ours, parameter in declared.items():
            stored = [tensors[name] for name in names[ours]]
            weights[ours] = streaming.assemble(
                stored, parameter.shape, shardings[ours], dtype, progress.update
            )
    return trees.unflatten(weights)


def _check(tensors: Mapping[str, safetensors.Tensor], config: llama.Config, folder: Path) -> None:
    """Raises unless `tensors` are exactly the weights of `config`, with their shapes."""
    expected: dict[str, tuple[int, ...]] = {}
    names = hf_names(config)
    for ours, parameter in llama.parameters(config).items():
        shape = parameter.shape[1:] if ours.startswith("layers.") else parameter.shape
        expected |= dict.fromkeys(names[ours], shape)
    missing = [name for name in expected if name not in tensors]
    unexpected = [name for name in tensors if name not in expected and not DERIVED.fullmatch(name)]
    if config.tied_embeddings and HEAD in unexpected and EMBEDDING in tensors:
        tensors[HEAD].check(expected[EMBEDDING])
        if not safetensors.equal(tensors[HEAD], tensors[EMBEDDING]):
            raise CheckpointError(
                f"{folder}: tie_word_embeddings is true, but {HEAD} differs from {EMBEDDING}; "
                "set it to false in config.json if the head was trained on its own"
            )
        unexpected.remove(HEAD)
    if missing or unexpected:
        parts = [
            f"{what} {', '.join(found[:4])}" + (f" and {len(found) - 4} more" * (len(found) > 4))
            for what, found in (("missing", missing), ("unexpected", unexpected))
            if found
        ]
        raise CheckpointError(
            f"{folder}: weights and config.json do not belong together: {'; '.join(parts)}"
        )
    for name, shape in expected.items():
        tensors[name].check(shape)


# ---------------------------------------------------------------------------- exporting


def export(
    folder: Path,
    weights: trees.Tree,
    config: llama.Config,
    source: Path | None,
    dtype: DTypeLike,
    shard_bytes: int,
) -> None:
    """Writes a model folder that `transformers` opens, whole or not at all.

    Tensors are gathered and written one by one, so that a process holds one of them at a time.
    Every process must call this; process 0 writes.

    Args:
        source: the folder the model came from, whose tokenizer, licence, and (where it describes
            this very model) config.json and generation_config.json go along; or None.
        dtype: of the written weights.
        shard_bytes: a file's tensors take at most this, a larger tensor gets a file of its own.

    Raises:
        CheckpointError: the disk is full, or `folder` is the source or holds something else.
    """
    if source is not None and folder.resolve() == source.resolve():
        raise CheckpointError(f"{folder} is the model's own folder; export to another one")
    shards = _shards(_sources(weights, config, jnp.dtype(dtype)), shard_bytes)
    if jax.process_index() == 0:
        with folders.replacing(folder, "config.json") as partial:
            _write_weights(partial, shards)
            _write_configs(partial, config, source, jnp.dtype(dtype).name)
            if source is not None:
                patterns = folders.TOKENIZER_FILES + folders.LICENCE_FILES
                folders.copy_matching(source, patterns, partial)
    else:
        for shard in shards:  # takes part in the gathers, in the same order
            for _, tensor in sorted(shard.items()):
                tensor.read()
    multihost_utils.sync_global_devices("exported")


def _sources(
    weights: trees.Tree, config: llama.Config, dtype: np.dtype
) -> dict[str, safetensors.Source]:
    """Every tensor by its Hugging Face name, embedding first, then layer by layer."""
    flat = trees.flatten(weights)
    names = hf_names(config)
    if flat.keys() != names.keys():
        raise ValueError(f"weights {sorted(flat)} are not those of the config: {sorted(names)}")
    rows = [
        (ours, layer if ours.startswith("layers.") else None, name)
        for ours in names
        for layer, name in enumerate(names[ours])
    ]
    ends = {"embedding": -1, "final_norm": config.layers, "head": config.layers}
    rows.sort(key=lambda row: row[1] if row[1] is not None else ends[row[0]])
    return {
        name: safetensors.Source(
            dtype=dtype,
            shape=flat[ours].shape if layer is None else flat[ours].shape[1:],
            read=functools.partial(streaming.on_host, flat[ours], layer, dtype),
        )
        for ours, layer, name in rows
    }


def _shards(
    tensors: Mapping[str, safetensors.Source], shard_bytes: int
) -> list[dict[str, safetensors.Source]]:
    shards: list[dict[str, safetensors.Source]] = [{}]
    held = 0
    for name, tensor in tensors.items():
        size = math.prod(tensor.shape) * tensor.dtype.itemsize
        if shards[-1] and held + size > shard_bytes:
            shards.append({})
            held = 0
        shards[-1][name] = tensor
        held += size
    return shards


def _write_weights(folder: Path, shards: Sequence[Mapping[str, safetensors.Source]]) -> None:
    if len(shards) == 1:
        safetensors.write(folder / folders.WEIGHTS, shards[0])
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        safetensors.write(folder / file, shard)
        weight_map |= dict.fromkeys(shard, file)
    tensors = itertools.chain.from_iterable(shard.values() for shard in shards)
    size = sum(math.prod(tensor.shape) * tensor.dtype.itemsize for tensor in tensors)
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    folders.write_json(folder / folders.INDEX, index)


def _write_configs(folder: Path, config: llama.Config, source: Path | None, dtype: str) -> None:
    given = None
    if source is not None and (source / "config.json").exists():
        given = folders.read_json(source / "config.json")
        # Of a model trained from random weights, the source is only where the tokenizer came from.
        given = given if hf_config.describes(given, config) else None
    token_ids = folders.token_ids(source)
    attributes = hf_config.to_hf_config(config, given, dtype, token_ids)
    folders.write_json(folder / "config.json", attributes)
    if source is not None and given is not None and (source / GENERATION).exists():
        folders.copy_matching(source, (GENERATION,), folder)
    else:
        used = {name: attributes.get(name) for name in token_ids}
        folders.write_json(folder / GENERATION, {"_from_model_config": True} | used)
