"""BERT and RoBERTa in Flax NNX (arXiv 1810.04805, 1907.11692), with their folders.

The two differ in the first position, and in the names of the head's weights.
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from safety_jax.base import meshes, trees
from safety_jax.base.batch import Tokens
from safety_jax.base.errors import CheckpointError
from safety_jax.models import declaration, layers, lora
from safety_jax.models.encoders import score_head
from safety_jax.models.execution import Execution
from safety_jax.models.folders.attributes import Attributes, refuse_unknown
from safety_jax.models.folders.weight_table import WeightRow, WeightTable, dense_rows, norm_rows
from safety_jax.models.layers import ACTIVATIONS, Projection


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """Sizes and switches of one checkpoint.

    Attributes:
        model_type: "bert", "roberta" or "xlm-roberta".
        position_entries: rows of the position table; the first `first_position` are unused.
    """

    model_type: str
    vocabulary_size: int
    width: int
    mlp_width: int
    layers: int
    heads: int
    activation: str
    norm_epsilon: float
    position_entries: int
    first_position: int
    token_types: int
    initializer_range: float

    @property
    def head_size(self) -> int:
        return self.width // self.heads

    @property
    def max_positions(self) -> int:
        return self.position_entries - self.first_position


# ---------------------------------------------------------------------------- modules


class BertLayer(nnx.Module):
    """Attention in both directions and an MLP, with a norm after each residual."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        self.config = config
        D, F = config.width, config.mlp_width
        project = functools.partial(
            Projection, bias=True, spread=config.initializer_range, rngs=rngs
        )
        self.query = project(D, D, ("heads", "embed"))
        self.key = project(D, D, ("heads", "embed"))
        self.value = project(D, D, ("heads", "embed"))
        self.output = project(D, D, ("embed", "heads"))
        self.attention_norm = layers.LayerNorm(D, config.norm_epsilon)
        self.up = project(D, F, ("mlp", "embed"))
        self.down = project(F, D, ("embed", "mlp"))
        self.mlp_norm = layers.LayerNorm(D, config.norm_epsilon)

    def __call__(
        self, x, segments, execution: Execution, adapters: dict[str, lora.Leaves], read=None
    ):
        """[B T D] to [B T D]; or to [B S D], only the tokens in the cells `read`."""
        given = adapters.get
        asking, own = (
            (x, segments) if read is None else (layers.at(x, read), layers.at(segments, read))
        )
        q, k, v = (
            layers.heads_first(
                getattr(self, name)(hidden, execution, given(name)), self.config.heads
            )
            for name, hidden in (("query", asking), ("key", x), ("value", x))
        )

        def scores_of(q, k):
            scores = jnp.einsum("hbte,hbse->hbts", q, k, preferred_element_type=jnp.float32)
            return scores * q.shape[-1] ** -0.5

        attended = layers.attend(scores_of, (q, k), v, own, segments, execution)
        x = self.attention_norm(asking + self.output(attended, execution, given("output")))
        wide = ACTIVATIONS[self.config.activation](self.up(x, execution, given("up")))
        return self.mlp_norm(x + self.down(wide, execution, given("down")))


class Bert(nnx.Module):
    """Embeddings and stacked layers, without the pooler, which belongs to the head."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        self.config = config
        D, spread = config.width, config.initializer_range
        self.embedding = layers.table(config.vocabulary_size, D, spread, rngs)
        self.position_embedding = layers.table(config.position_entries, D, spread, rngs)
        self.type_embedding = layers.table(config.token_types, D, spread, rngs)
        self.embedding_norm = layers.LayerNorm(D, config.norm_epsilon)
        self.layers = layers.stacked(lambda rngs: BertLayer(config, rngs=rngs), config.layers, rngs)

    def __call__(self, tokens: Tokens, read, execution: Execution, adapters: lora.Adapters | None):
        index = self.config.first_position + tokens.positions
        types = jnp.zeros_like(tokens.ids) if tokens.types is None else tokens.types
        x = layers.look_up(self.embedding, tokens.ids, execution)
        x = x + layers.look_up(self.position_embedding, index, execution)
        x = x + layers.look_up(self.type_embedding, types, execution)
        x = meshes.constrain(self.embedding_norm(x), execution.mesh, ("rows", "tokens", "width"))

        def call(layer, x, leaves, read=None):
            return layer(x, tokens.segments, execution, leaves, read)

        return layers.run_to_read(self.layers, lora.by_layer(adapters), x, read, execution, call)


def forward(
    config: BertConfig,
    weights: trees.Tree,
    tokens: Tokens,
    read: Int[Array, "B S"],
    execution: Execution,
    adapters: lora.Adapters | None,
) -> Float[Array, "B S D"]:
    """The last hidden states of the tokens that are read, in `execution.compute_dtype`.

    If the model has only one token type (RoBERTa), all types must be zero, as from its tokenizer.
    """
    return declaration.bind(Bert, config, weights)(tokens, read, execution, adapters)


# ---------------------------------------------------------------------------- config.json

ARCHITECTURES = {
    "bert": "BertForSequenceClassification",
    "roberta": "RobertaForSequenceClassification",
    "xlm-roberta": "XLMRobertaForSequenceClassification",
}
DEFAULTS: dict[str, Any] = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-12,
}
# Other defaults in RoBERTa's config classes.
ROBERTA_DEFAULTS = {
    "bert": {},
    "roberta": {"vocab_size": 50265, "pad_token_id": 1},
    "xlm-roberta": {"pad_token_id": 1},
}
# Dropout, which training here does not apply; the head for masked words; and sizes of a pooler that
# BERT's own code never read.
IRRELEVANT = frozenset(
    "attention_probs_dropout_prob hidden_dropout_prob classifier_dropout tie_word_embeddings"
    " gradient_checkpointing directionality pooler_fc_size pooler_num_attention_heads"
    " pooler_num_fc_layers pooler_size_per_head pooler_type".split()
)
SWITCHED_OFF = {"position_embedding_type": ("absolute",)}


def parse(given: Mapping[str, Any], where: str) -> BertConfig:
    """The trunk that a config.json describes.

    Raises:
        CheckpointError: it has an attribute or a value that is not supported.
    """
    refuse_unknown(given, DEFAULTS.keys() | IRRELEVANT, SWITCHED_OFF, where)
    model_type = given["model_type"]
    found = Attributes(given, DEFAULTS | ROBERTA_DEFAULTS[model_type], where)
    width, heads = found.integer("hidden_size"), found.integer("num_attention_heads")
    if width % heads:
        raise CheckpointError(f"{where}: {heads} heads do not divide hidden_size {width}")
    # RoBERTa's positions begin after the id of its padding token, because those of fairseq do.
    first = 0 if model_type == "bert" else found.integer("pad_token_id", least=0) + 1
    return BertConfig(
        model_type=model_type,
        vocabulary_size=found.integer("vocab_size"),
        width=width,
        mlp_width=found.integer("intermediate_size"),
        layers=found.integer("num_hidden_layers"),
        heads=heads,
        activation=found.one_of("hidden_act", ACTIVATIONS),
        norm_epsilon=found.number("layer_norm_eps"),
        position_entries=found.integer("max_position_embeddings", least=first + 1),
        first_position=first,
        token_types=found.integer("type_vocab_size"),
        initializer_range=found.number("initializer_range"),
    )


def head(config: BertConfig, labels: int) -> score_head.HeadConfig:
    """A dense layer with tanh on the first token (the pooler in BERT), and the output layer."""
    return score_head.fresh_head(config, labels, "first", activation="tanh", bias=True)


def attributes(
    config: BertConfig, given: Mapping[str, Any] | None, dtype: str, source: Path | None
) -> dict[str, Any]:
    """The config.json of the trunk with a sequence head. Attributes in `given` are kept if they
    describe exactly this model."""
    found = score_head.carried(given, config, parse) or _fresh(config)
    architecture = ARCHITECTURES[config.model_type]
    return found | {"architectures": [architecture], "dtype": dtype, "torch_dtype": dtype}


def _fresh(config: BertConfig) -> dict[str, Any]:
    return {
        "model_type": config.model_type,
        "vocab_size": config.vocabulary_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_width,
        "hidden_act": config.activation,
        "max_position_embeddings": config.position_entries,
        "type_vocab_size": config.token_types,
        "initializer_range": config.initializer_range,
        "layer_norm_eps": config.norm_epsilon,
        "pad_token_id": max(config.first_position - 1, 0),
    }


# ---------------------------------------------------------------------------- weights


def _layout(prefix: str, dense: str, output: str, unused: str = r"(?!)") -> WeightTable:
    """Args: unused: pattern of weights that files may have and no model with a head reads."""
    embeddings, layer = f"{prefix}embeddings", prefix + "encoder.layer.{layer}"
    return WeightTable(
        rows=(
            WeightRow(f"{embeddings}.word_embeddings.weight", "embedding"),
            WeightRow(f"{embeddings}.position_embeddings.weight", "position_embedding"),
            WeightRow(f"{embeddings}.token_type_embeddings.weight", "type_embedding"),
            *norm_rows(f"{embeddings}.LayerNorm", "embedding_norm"),
            *dense_rows(f"{layer}.attention.self.query", "layers.query"),
            *dense_rows(f"{layer}.attention.self.key", "layers.key"),
            *dense_rows(f"{layer}.attention.self.value", "layers.value"),
            *dense_rows(f"{layer}.attention.output.dense", "layers.output"),
            *norm_rows(f"{layer}.attention.output.LayerNorm", "layers.attention_norm"),
            *dense_rows(f"{layer}.intermediate.dense", "layers.up"),
            *dense_rows(f"{layer}.output.dense", "layers.down"),
            *norm_rows(f"{layer}.output.LayerNorm", "layers.mlp_norm"),
            *dense_rows(dense, "score.dense"),
            *dense_rows(output, "score.output"),
        ),
        derived=rf"{prefix}embeddings\.(position_ids|token_type_ids)|{unused}",
        renamed=(
            (r"LayerNorm\.gamma$", "LayerNorm.weight"),
            (r"LayerNorm\.beta$", "LayerNorm.bias"),
        ),
        prefix=prefix,
        other_heads=r"(cls|lm_head|qa_outputs|classifier|pooler)\..*",
    )


BERT_LAYOUT = _layout("bert.", "bert.pooler.dense", "classifier")
# Early releases saved BERT's pooler, too, of which RoBERTa's head makes no use.
ROBERTA_LAYOUT = _layout(
    "roberta.",
    "classifier.dense",
    "classifier.out_proj",
    unused=r"roberta\.pooler\.dense\.(weight|bias)",
)
TARGETS: dict[str, str | tuple[str, ...]] = {
    "query": "query",
    "key": "key",
    "value": "value",
    "dense": ("output", "up", "down"),
}
