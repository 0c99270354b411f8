"""GPT-2 in Flax NNX (Radford et al. 2019) below a sequence head, with its folders."""

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
from safety_jax.models.folders import hub
from safety_jax.models.folders.attributes import Attributes, refuse_unknown
from safety_jax.models.folders.weight_table import WeightRow, WeightTable, dense_rows, norm_rows
from safety_jax.models.layers import ACTIVATIONS, Projection


@dataclasses.dataclass(frozen=True)
class Gpt2Config:
    """Sizes and switches of one checkpoint."""

    vocabulary_size: int
    width: int
    mlp_width: int
    layers: int
    heads: int
    activation: str
    norm_epsilon: float
    max_positions: int
    initializer_range: float

    @property
    def head_size(self) -> int:
        return self.width // self.heads


# ---------------------------------------------------------------------------- modules


class Gpt2Layer(nnx.Module):
    """Causal attention and an MLP, each with a norm before it and a residual. Query, key and value
    are one projection, as in the files."""

    def __init__(self, config: Gpt2Config, *, rngs: nnx.Rngs):
        self.config = config
        D, F = config.width, config.mlp_width
        project = functools.partial(
            Projection, bias=True, spread=config.initializer_range, rngs=rngs
        )
        self.attention_norm = layers.LayerNorm(D, config.norm_epsilon)
        self.query_key_value = project(D, 3 * D, ("heads", "embed"))
        self.output = project(D, D, ("embed", "heads"))
        self.mlp_norm = layers.LayerNorm(D, config.norm_epsilon)
        self.up = project(D, F, ("mlp", "embed"))
        self.down = project(F, D, ("embed", "mlp"))

    def __call__(self, x, segments, execution: Execution, adapters: dict[str, lora.Leaves]):
        B, T, _ = x.shape
        given = adapters.get
        projected = self.query_key_value(
            self.attention_norm(x), execution, given("query_key_value")
        )
        q, k, v = (
            part.reshape(B, T, self.config.heads, -1) for part in jnp.split(projected, 3, -1)
        )
        attended = execution.attention(q, k, v, segments, None, 0).reshape(B, T, -1)
        x = x + self.output(attended, execution, given("output"))
        wide = ACTIVATIONS[self.config.activation](
            self.up(self.mlp_norm(x), execution, given("up"))
        )
        return x + self.down(wide, execution, given("down"))


class Gpt2(nnx.Module):
    """Embeddings, stacked layers, final norm."""

    def __init__(self, config: Gpt2Config, *, rngs: nnx.Rngs):
        spread = config.initializer_range
        self.embedding = layers.table(config.vocabulary_size, config.width, spread, rngs)
        self.position_embedding = layers.table(config.max_positions, config.width, spread, rngs)
        self.layers = layers.stacked(lambda rngs: Gpt2Layer(config, rngs=rngs), config.layers, rngs)
        self.final_norm = layers.LayerNorm(config.width, config.norm_epsilon)

    def __call__(self, tokens: Tokens, execution: Execution, adapters: lora.Adapters | None):
        x = layers.look_up(self.embedding, tokens.ids, execution)
        x = x + layers.look_up(self.position_embedding, tokens.positions, execution)
        x = meshes.constrain(x, execution.mesh, ("rows", "tokens", "width"))

        def call(layer, x, leaves):
            return layer(x, tokens.segments, execution, leaves)

        leaves = lora.by_layer(adapters)
        return self.final_norm(layers.run_layers(self.layers, leaves, x, execution, call))


def forward(
    config: Gpt2Config,
    weights: trees.Tree,
    tokens: Tokens,
    read: Int[Array, "B S"],
    execution: Execution,
    adapters: lora.Adapters | None,
) -> Float[Array, "B S D"]:
    """The hidden states of the tokens in `read` after the final norm, in
    `execution.compute_dtype`."""
    return layers.at(declaration.bind(Gpt2, config, weights)(tokens, execution, adapters), read)


# ---------------------------------------------------------------------------- config.json

MODEL_TYPE, ARCHITECTURE = "gpt2", "GPT2ForSequenceClassification"
DEFAULTS: dict[str, Any] = {
    "vocab_size": 50257,
    "n_positions": 1024,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "n_inner": None,  # 4 n_embd
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "initializer_range": 0.02,
}
# Dropout, which training here does not apply; other heads; the order and precision of attention's
# products.
IRRELEVANT = frozenset(
    "attn_pdrop embd_pdrop resid_pdrop n_ctx reorder_and_upcast_attn tie_word_embeddings"
    " gradient_checkpointing summary_activation summary_first_dropout summary_proj_to_labels"
    " summary_type summary_use_proj".split()
)
SWITCHED_OFF = {
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
}


def parse(given: Mapping[str, Any], where: str) -> Gpt2Config:
    """The trunk that a config.json describes.

    Raises:
        CheckpointError: it has an attribute or a value that is not supported.
    """
    refuse_unknown(given, DEFAULTS.keys() | IRRELEVANT, SWITCHED_OFF, where)
    found = Attributes(given, DEFAULTS, where)
    width, heads = found.integer("n_embd"), found.integer("n_head")
    if width % heads:
        raise CheckpointError(f"{where}: {heads} heads do not divide n_embd {width}")
    return Gpt2Config(
        vocabulary_size=found.integer("vocab_size"),
        width=width,
        mlp_width=4 * width if found.values["n_inner"] is None else found.integer("n_inner"),
        layers=found.integer("n_layer"),
        heads=heads,
        activation=found.one_of("activation_function", ACTIVATIONS),
        norm_epsilon=found.number("layer_norm_epsilon"),
        max_positions=found.integer("n_positions"),
        initializer_range=found.number("initializer_range"),
    )


def head(config: Gpt2Config, labels: int) -> score_head.HeadConfig:
    """One projection without bias, at the last token that is not padding."""
    return score_head.fresh_head(config, labels, "last", activation=None, bias=False)


def attributes(
    config: Gpt2Config, given: Mapping[str, Any] | None, dtype: str, source: Path | None
) -> dict[str, Any]:
    """The config.json of the trunk with a sequence head. Attributes in `given` are kept if they
    describe exactly this model."""
    found = score_head.carried(given, config, parse) or _fresh(config)
    found |= score_head.pad_token(found, hub.token_ids(source))
    return found | {"architectures": [ARCHITECTURE], "dtype": dtype, "torch_dtype": dtype}


def _fresh(config: Gpt2Config) -> dict[str, Any]:
    return {
        "model_type": MODEL_TYPE,
        "vocab_size": config.vocabulary_size,
        "n_positions": config.max_positions,
        "n_embd": config.width,
        "n_layer": config.layers,
        "n_head": config.heads,
        "n_inner": config.mlp_width,
        "activation_function": config.activation,
        "layer_norm_epsilon": config.norm_epsilon,
        "initializer_range": config.initializer_range,
    }


# ---------------------------------------------------------------------------- weights

_LAYER = "transformer.h.{layer}"
LAYOUT = WeightTable(
    rows=(
        WeightRow("transformer.wte.weight", "embedding"),
        WeightRow("transformer.wpe.weight", "position_embedding"),
        *norm_rows(f"{_LAYER}.ln_1", "layers.attention_norm"),
        *dense_rows(f"{_LAYER}.attn.c_attn", "layers.query_key_value", transposed=True),
        *dense_rows(f"{_LAYER}.attn.c_proj", "layers.output", transposed=True),
        *norm_rows(f"{_LAYER}.ln_2", "layers.mlp_norm"),
        *dense_rows(f"{_LAYER}.mlp.c_fc", "layers.up", transposed=True),
        *dense_rows(f"{_LAYER}.mlp.c_proj", "layers.down", transposed=True),
        *norm_rows("transformer.ln_f", "final_norm"),
        WeightRow("score.weight", "score.output.kernel"),
    ),
    derived=r"transformer\.h\.\d+\.attn\.(bias|masked_bias)",  # the causal mask
    prefix="transformer.",
    other_heads=r"(lm_head|score|multiple_choice_head)\..*",
)
TARGETS: dict[str, str | tuple[str, ...]] = {
    "c_attn": "query_key_value",
    "c_proj": ("output", "down"),
    "c_fc": "up",
}
