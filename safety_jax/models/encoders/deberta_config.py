"""DeBERTa folders: `config.json` to `deberta.DebertaConfig` and back, and the table of weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safety_jax.base.errors import CheckpointError
from safety_jax.models.encoders import deberta, score_head
from safety_jax.models.folders.attributes import Attributes, refuse_unknown
from safety_jax.models.folders.weight_table import WeightRow, WeightTable, dense_rows, norm_rows
from safety_jax.models.layers import ACTIVATIONS

MODEL_TYPE, ARCHITECTURE = "deberta-v2", "DebertaV2ForSequenceClassification"
DEFAULTS: dict[str, Any] = {
    "vocab_size": 128100,
    "hidden_size": 1536,
    "num_hidden_layers": 24,
    "num_attention_heads": 24,
    "intermediate_size": 6144,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "type_vocab_size": 0,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-7,
    "relative_attention": False,
    "max_relative_positions": -1,
    "position_biased_input": True,
    "pos_att_type": None,
    "pooler_hidden_act": "gelu",
    # attributes that the model reads if a file has them, but that its config class does not declare
    "position_buckets": -1,
    "share_att_key": False,
    "norm_rel_ebd": "none",
    "attention_head_size": None,  # hidden_size / num_attention_heads
    "embedding_size": None,  # hidden_size
    "pooler_hidden_size": None,  # hidden_size
    "conv_kernel_size": 0,
    "conv_groups": 1,
    "conv_act": "tanh",
}
# Dropout, which training here does not apply; `legacy` and the tying of the head for masked words.
IRRELEVANT = frozenset(
    "attention_probs_dropout_prob hidden_dropout_prob pooler_dropout cls_dropout legacy"
    " tie_word_embeddings pooler_size summary_activation summary_last_dropout summary_type"
    " summary_use_proj".split()
)


_LAYER, _EMBEDDINGS = "deberta.encoder.layer.{layer}", "deberta.embeddings"
LAYOUT = WeightTable(
    rows=(
        WeightRow(f"{_EMBEDDINGS}.word_embeddings.weight", "embedding"),
        WeightRow(f"{_EMBEDDINGS}.position_embeddings.weight", "position_embedding"),
        WeightRow(f"{_EMBEDDINGS}.token_type_embeddings.weight", "type_embedding"),
        WeightRow(f"{_EMBEDDINGS}.embed_proj.weight", "embedding_projection.kernel"),
        *norm_rows(f"{_EMBEDDINGS}.LayerNorm", "embedding_norm"),
        *dense_rows(f"{_LAYER}.attention.self.query_proj", "layers.query"),
        *dense_rows(f"{_LAYER}.attention.self.key_proj", "layers.key"),
        *dense_rows(f"{_LAYER}.attention.self.value_proj", "layers.value"),
        *dense_rows(f"{_LAYER}.attention.self.pos_key_proj", "layers.position_key"),
        *dense_rows(f"{_LAYER}.attention.self.pos_query_proj", "layers.position_query"),
        *dense_rows(f"{_LAYER}.attention.output.dense", "layers.output"),
        *norm_rows(f"{_LAYER}.attention.output.LayerNorm", "layers.attention_norm"),
        *dense_rows(f"{_LAYER}.intermediate.dense", "layers.up"),
        *dense_rows(f"{_LAYER}.output.dense", "layers.down"),
        *norm_rows(f"{_LAYER}.output.LayerNorm", "layers.mlp_norm"),
        WeightRow("deberta.encoder.rel_embeddings.weight", "relative_embedding"),
        *norm_rows("deberta.encoder.LayerNorm", "relative_norm"),
        *dense_rows("deberta.encoder.conv.conv", "convolution"),
        *norm_rows("deberta.encoder.conv.LayerNorm", "convolution.norm"),
        *dense_rows("pooler.dense", "score.dense"),
        *dense_rows("classifier", "score.output"),
    ),
    derived=r"deberta\.embeddings\.position_ids",
    renamed=((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias")),
    prefix="deberta.",
    other_heads=r"(cls|lm_predictions|mask_predictions|qa_outputs|classifier|pooler)\..*",
)
TARGETS: dict[str, str | tuple[str, ...]] = {
    "query_proj": "query",
    "key_proj": "key",
    "value_proj": "value",
    "pos_key_proj": "position_key",
    "pos_query_proj": "position_query",
    "dense": ("output", "up", "down"),
}


def parse(given: Mapping[str, Any], where: str) -> deberta.DebertaConfig:
    """The trunk that a config.json describes.

    Raises:
        CheckpointError: it has an attribute or a value that is not supported.
    """
    refuse_unknown(given, DEFAULTS.keys() | IRRELEVANT, {}, where)
    found = Attributes(given, DEFAULTS, where)
    width, heads = found.integer("hidden_size"), found.integer("num_attention_heads")
    for name, when_absent in (
        ("attention_head_size", width // heads),
        ("embedding_size", width),
        ("pooler_hidden_size", width),
    ):
        if found.values[name] is None:
            found.values[name] = when_absent
    if width % heads:
        raise CheckpointError(f"{where}: {heads} heads do not divide hidden_size {width}")
    found.one_of("pooler_hidden_size", (width,))
    found.one_of("attention_head_size", (width // heads,))
    positions, max_distance, buckets = (
        found.integer(name, least=least)
        for name, least in (
            ("max_position_embeddings", 1),
            ("max_relative_positions", -1),
            ("position_buckets", -1),
        )
    )
    relative = found.boolean("relative_attention")
    kinds = _attention_kinds(found)
    return deberta.DebertaConfig(
        vocabulary_size=found.integer("vocab_size"),
        embedding_size=found.integer("embedding_size"),
        width=width,
        mlp_width=found.integer("intermediate_size"),
        layers=found.integer("num_hidden_layers"),
        heads=heads,
        activation=found.one_of("hidden_act", ACTIVATIONS),
        norm_epsilon=found.number("layer_norm_eps"),
        max_positions=positions,
        token_types=found.integer("type_vocab_size", least=0),
        absolute_positions=found.boolean("position_biased_input"),
        relative=relative,
        max_distance=max_distance if max_distance > 0 else positions,
        buckets=max(buckets, 0),
        content_to_position="c2p" in kinds,
        position_to_content="p2c" in kinds,
        shared_projections=found.boolean("share_att_key"),
        normed_positions=_normed_positions(found, relative),
        convolution=_convolution(found),
        pooler_activation=found.one_of("pooler_hidden_act", ACTIVATIONS),
        initializer_range=found.number("initializer_range"),
    )


def _attention_kinds(found: Attributes) -> set[str]:
    """`pos_att_type` in its spellings: "c2p|p2c", a list, or nothing."""
    value = found.values["pos_att_type"]
    listed = value.lower().split("|") if isinstance(value, str) else value or []
    if not isinstance(listed, list):
        raise found.refuse("pos_att_type", "any of c2p and p2c")
    kinds = {str(kind).strip() for kind in listed} - {"", "none"}
    if not kinds <= {"c2p", "p2c"}:
        raise found.refuse("pos_att_type", "any of c2p and p2c")
    return kinds


def _normed_positions(found: Attributes, relative: bool) -> bool:
    value = found.one_of("norm_rel_ebd", ("none", "layer_norm"))
    if value == "layer_norm" and not relative:
        raise found.refuse("norm_rel_ebd", "'none' without relative_attention")
    return value == "layer_norm"


def _convolution(found: Attributes) -> deberta.Convolution | None:
    size = found.integer("conv_kernel_size", least=0)
    if size == 0:
        return None
    if size % 2 == 0:
        raise found.refuse("conv_kernel_size", "an odd number")
    return deberta.Convolution(
        size, found.integer("conv_groups"), found.one_of("conv_act", ACTIVATIONS)
    )


def head(config: deberta.DebertaConfig, labels: int) -> score_head.HeadConfig:
    """The pooler, a dense layer on the first token, and the output layer."""
    return score_head.fresh_head(
        config, labels, "first", activation=config.pooler_activation, bias=True
    )


def attributes(
    config: deberta.DebertaConfig, given: Mapping[str, Any] | None, dtype: str, source: Path | None
) -> dict[str, Any]:
    """The config.json of the trunk with a sequence head. Attributes in `given` are kept if they
    describe exactly this model."""
    found = score_head.carried(given, config, parse) or _fresh(config)
    return found | {
        "model_type": MODEL_TYPE,
        "architectures": [ARCHITECTURE],
        "dtype": dtype,
        "torch_dtype": dtype,
    }


def _fresh(config: deberta.DebertaConfig) -> dict[str, Any]:
    kinds = {"c2p": config.content_to_position, "p2c": config.position_to_content}
    found: dict[str, Any] = {
        "vocab_size": config.vocabulary_size,
        "embedding_size": config.embedding_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_width,
        "hidden_act": config.activation,
        "max_position_embeddings": config.max_positions,
        "type_vocab_size": config.token_types,
        "initializer_range": config.initializer_range,
        "layer_norm_eps": config.norm_epsilon,
        "relative_attention": config.relative,
        "max_relative_positions": config.max_distance,
        "position_biased_input": config.absolute_positions,
        "position_buckets": config.buckets or -1,
        "pos_att_type": [kind for kind, used in kinds.items() if used],
        "share_att_key": config.shared_projections,
        "norm_rel_ebd": "layer_norm" if config.normed_positions else "none",
        "pooler_hidden_act": config.pooler_activation,
        "pooler_hidden_size": config.width,
    }
    if config.convolution is not None:
        found |= {
            "conv_kernel_size": config.convolution.size,
            "conv_groups": config.convolution.groups,
            "conv_act": config.convolution.activation,
        }
    return found
