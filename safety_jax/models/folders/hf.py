"""Weights of LLaMA-family folders, streamed into sharded arrays and back.

`layout` has one row per weight. `weight_table.py` loads by it, and `weight_export.py` writes by it.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike

from safety_jax.base import trees
from safety_jax.models import llama, lora, quantised
from safety_jax.models.folders import hf_config, hub, internlm2, weight_export, weight_table
from safety_jax.models.folders.hf_config import read_config
from safety_jax.models.folders.hub import fingerprint, resolve

__all__ = ["export", "fingerprint", "layout", "load", "read_config", "resolve"]

# The weights of a layer in the order in which it uses them, and those before and after the layers.
ROWS = (
    ("model.embed_tokens.weight", "embedding"),
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
    ("model.layers.{layer}.mlp.gate_proj.weight", "layers.gate.kernel"),
    ("model.layers.{layer}.mlp.gate_proj.bias", "layers.gate.bias"),
    ("model.layers.{layer}.mlp.up_proj.weight", "layers.up.kernel"),
    ("model.layers.{layer}.mlp.up_proj.bias", "layers.up.bias"),
    ("model.layers.{layer}.mlp.down_proj.weight", "layers.down.kernel"),
    ("model.layers.{layer}.mlp.down_proj.bias", "layers.down.bias"),
    ("model.norm.weight", "final_norm"),
    ("lm_head.weight", "head"),
)
# The names of norms depend on their places: `post_attention` has two meanings.
NORMS = {
    "before": {"attention_norm": "input", "mlp_norm": "post_attention"},
    "after": {"attention_output_norm": "post_attention", "mlp_output_norm": "post_feedforward"},
    "both": {
        "attention_norm": "input",
        "attention_output_norm": "post_attention",
        "mlp_norm": "pre_feedforward",
        "mlp_output_norm": "post_feedforward",
    },
}
# Projections that files fuse into one, and those with another name; see `lora.TARGETS_OF`.
FUSED = {
    "llama": (),
    "phi3": (
        ("self_attn.qkv_proj", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
        ("mlp.gate_up_proj", ("mlp.gate_proj", "mlp.up_proj")),
    ),
    "granite_hybrid": (("shared_mlp.input_linear", ("mlp.gate_proj", "mlp.up_proj")),),
}
OTHERWISE = {"granite_hybrid": {"mlp.down_proj": "shared_mlp.output_linear"}}
GENERATION = "generation_config.json"
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
DIFFERS = (
    f"tie_word_embeddings is true, but {HEAD} differs from {EMBEDDING}; set it to false in "
    "config.json if the head was trained on its own"
)
HEADLESS = (
    f"if the head is {EMBEDDING}, because the model was saved with tied weights, set "
    "tie_word_embeddings to true in config.json"
)
# Names that are ignored: rotary frequencies, which old releases stored although they follow from
# config.json, and the vision part of a vision-language model.
DERIVED = r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq"
EYES = r"(model\.)?(vision_tower|multi_modal_projector)\..*"
# Both old and new names of a vision-language model's text part, to the names of a text model.
RENAMED = (
    (r"^(model\.)?language_model\.(model\.)?(?=layers\.|embed_tokens\.|norm\.)", "model."),
    (r"^(model\.)?language_model\.lm_head\.", "lm_head."),
)


def layout(config: llama.LlamaConfig) -> weight_table.WeightTable:
    """The table of a model's weights in its folder."""
    called = OTHERWISE.get(config.files, {})
    rows = [weight_table.WeightRow(_renamed(theirs, called), ours) for theirs, ours in ROWS]
    norms = [
        weight_table.WeightRow(f"model.layers.{{layer}}.{name}_layernorm.weight", f"layers.{ours}")
        for ours, name in NORMS[config.norms].items()
    ]
    fused = [
        weight_table.FusedRows(_in_layer(theirs), tuple(map(_in_layer, parts)))
        for theirs, parts in FUSED[config.files]
    ]
    whole, parts = internlm2.WQKV
    grouped = [
        weight_table.GroupedRows(
            _in_layer(whole, what), tuple(_in_layer(part, what) for part in parts), config.kv_heads
        )
        for what in ("weight", "bias")
        if what == "weight" or config.query_key_value_bias
    ]
    return weight_table.WeightTable(
        rows=(*rows[:1], *norms, *rows[1:]),
        fused=tuple(fused),
        grouped=tuple(grouped) if config.files == "llama" else (),
        derived=rf"{DERIVED}|{EYES}",
        renamed=(*RENAMED, *internlm2.RENAMED),
        prefix="model.",
    )


def _renamed(theirs: str, called: Mapping[str, str]) -> str:
    for name, other in called.items():
        theirs = theirs.replace(f".{name}.", f".{other}.")
    return theirs


def _in_layer(name: str, what: str = "weight") -> str:
    return f"model.layers.{{layer}}.{name}.{what}"


def hf_names(config: llama.LlamaConfig) -> dict[str, list[str]]:
    """Hugging Face's names of each of our weights: one name per layer for stacked weights."""
    found = weight_table.places(layout(config), llama.parameters(config))
    return {ours: place.names for ours, place in found.items()}


def load(
    folder: Path,
    config: llama.LlamaConfig,
    mesh: Mesh,
    dtype: DTypeLike,
    kernels: str = quantised.STORED,
) -> trees.Tree:
    """The weights of a model folder as sharded arrays of `dtype`.

    Args:
        kernels: the format of the layers' kernels, see `weight_table.load`.

    Raises:
        CheckpointError: the files are damaged, or do not have exactly the weights of `config`.
        ConfigError: the mesh does not divide the model, or `kernels` does not fit it.
    """
    shardings = llama.shardings(config, mesh)
    tied = {HEAD: (EMBEDDING, DIFFERS)} if config.tied_embeddings else {}
    held = dataclasses.replace(layout(config), copies=tied, advice={HEAD: HEADLESS})
    return weight_table.load(folder, held, llama.parameters(config), shardings, dtype, kernels)


def export(
    folder: Path,
    weights: trees.Tree,
    config: llama.LlamaConfig,
    source: Path | None,
    dtype: DTypeLike,
    shard_bytes: int,
    adapters: lora.Adapters | None = None,
) -> float:
    """Writes a model folder that `transformers` opens. Returns the share of the adapters' changes
    that rounding lost, see `weight_export.export`.

    Args:
        source: the folder the model came from, or None. Its tokenizer and licence are copied; its
            config.json and generation_config.json, too, if they describe exactly this model.

    Raises:
        CheckpointError: the disk is full, or `folder` is the source or has other content.
    """
    given = None
    if source is not None and (source / "config.json").exists():
        given = hub.read_json(source / "config.json")
        # If the model was trained from random weights, the source only provides its tokenizer.
        given = given if hf_config.describes(given, config) else None
    token_ids = hub.token_ids(source)
    attributes = hf_config.to_hf_config(config, given, jnp.dtype(dtype).name, token_ids)
    generation = {"_from_model_config": True} | {name: attributes.get(name) for name in token_ids}
    if source is not None and given is not None and (source / GENERATION).exists():
        generation = hub.read_json(source / GENERATION)
    configs = {"config.json": attributes, GENERATION: generation}
    declared = llama.parameters(config)
    return weight_export.export(
        folder, layout(config), weights, declared, source, configs, dtype, shard_bytes, adapters
    )
