"""Score heads on the LLaMA family, which read the last real token, in two layouts.

One is `*ForSequenceClassification` of `transformers` (`score.weight`, no bias), for all families in
`families.py`. The other is that of PKU-Alignment's beaver reward and cost models (safe-rlhf, arXiv
2310.12773), for LLaMA: `score_head.weight`, and a bias and a stored normaliser if config.json asks
for them.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from safety_jax.base import trees
from safety_jax.base.batch import Tokens
from safety_jax.base.errors import CheckpointError
from safety_jax.models import layers, llama, lora
from safety_jax.models.encoders import score_head
from safety_jax.models.execution import Execution
from safety_jax.models.folders import hf, hf_config, hub, safetensors
from safety_jax.models.folders.attributes import Attributes
from safety_jax.models.folders.families import FAMILIES
from safety_jax.models.folders.weight_table import WeightRow, WeightTable
from safety_jax.models.model import Model

BEAVER = ("LlamaForScore", "LlamaModelForScore")
# safe-rlhf's defaults. `bias` is the old name of `score_bias`.
BEAVER_DEFAULTS: dict[str, Any] = {
    "score_dim": 1,
    "score_bias": None,
    "bias": False,
    "score_type": "reward",
    "do_normalize": False,
    "normalizer_type": None,
    "momentum": None,
    "mean": None,
    "var": None,
}
MOST_LABELS = 10_000
EPSILON = 1e-8  # safe-rlhf's normaliser adds it to the deviation

OTHER_HEADS = r"lm_head\.weight|score(_head)?\.(weight|bias)|normalizer\..*"


def layout(config: llama.LlamaConfig) -> WeightTable:
    """The table of the trunk's and the head's weights in a folder."""
    trunk = hf.layout(config)
    kept = (row for row in trunk.rows if row.ours != "head")
    return dataclasses.replace(
        trunk,
        rows=(*kept, WeightRow("score.weight", "score.output.kernel")),
        other_heads=OTHER_HEADS,
    )


def beaver_layout(config: llama.LlamaConfig) -> WeightTable:
    """The same for folders of safe-rlhf."""
    whole = layout(config)
    return dataclasses.replace(
        whole,
        rows=(
            *whole.rows[:-1],
            WeightRow("score_head.weight", "score.output.kernel"),
            WeightRow("score_head.bias", "score.output.bias"),
        ),
        derived=rf"{whole.derived}|normalizer\.(mean|var|count)",
    )


def architecture(model_type: str) -> str:
    """The name of the family's class with a sequence head, as in config.json."""
    family = FAMILIES[model_type]
    plain = family.architecture.replace("ForCausalLM", "ForSequenceClassification")
    return family.classifier or plain


def parse(given: Mapping[str, Any], where: str) -> llama.LlamaConfig:
    """The trunk that a config.json describes, whatever its head.

    Raises:
        CheckpointError: see `hf_config.parse`.
    """
    drop = {"architectures"} | (BEAVER_DEFAULTS.keys() if is_beaver(given) else set())
    return hf_config.parse({name: v for name, v in given.items() if name not in drop}, where)


def is_beaver(given: Mapping[str, Any]) -> bool:
    return given.get("architectures") in [[name] for name in BEAVER]


def without_head(config: llama.LlamaConfig) -> llama.LlamaConfig:
    """The model without a language-model head."""
    return dataclasses.replace(config, tied_embeddings=True)


def trunk(config: llama.LlamaConfig, *, rngs: nnx.Rngs) -> llama.Llama:
    """Declares the trunk's weights."""
    return llama.Llama(without_head(config), rngs=rngs)


def head(config: llama.LlamaConfig, labels: int) -> score_head.HeadConfig:
    return score_head.fresh_head(config, labels, "last", activation=None, bias=False)


def forward(
    config: llama.LlamaConfig,
    weights: trees.Tree,
    tokens: Tokens,
    read: Int[Array, "B S"],
    execution: Execution,
    adapters: lora.Adapters | None,
) -> Float[Array, "B S D"]:
    """The last hidden states of the tokens that are read."""
    model = Model(without_head(config), execution, weights, adapters, tokenizer=None)
    return layers.at(model.forward(tokens), read)


# ---------------------------------------------------------------------------- beaver


def beaver_head(
    given: Mapping[str, Any], config: llama.LlamaConfig, folder: Path
) -> score_head.HeadConfig:
    """The head that a beaver config.json describes, with the numbers of its normaliser.

    A reward is shifted and scaled. A cost is only scaled, so that its sign keeps its meaning.

    Raises:
        CheckpointError: an attribute or a stored number cannot be used.
    """
    where = str(folder / "config.json")
    attributes = Attributes(given, BEAVER_DEFAULTS, where)
    labels = attributes.integer("score_dim", most=MOST_LABELS)
    named = "bias" if attributes.values["score_bias"] is None else "score_bias"
    kind = attributes.one_of("score_type", ("reward", "cost", "critic"))
    mean, deviation = (0.0,) * labels, (1.0,) * labels
    if attributes.boolean("do_normalize") and kind != "critic":
        if kind == "reward":
            mean = _stored(folder, attributes, "mean", labels)
        variance = _stored(folder, attributes, "var", labels)
        deviation = tuple(value**0.5 + EPSILON for value in variance)
    return dataclasses.replace(
        head(config, labels), bias=attributes.boolean(named), mean=mean, deviation=deviation
    )


def _stored(folder: Path, attributes: Attributes, name: str, labels: int) -> tuple[float, ...]:
    """One number of the normaliser per label, from its tensor, or else from config.json."""
    tensor = hub.locate(folder).get(f"normalizer.{name}")
    if tensor is None:
        return attributes.numbers(name, labels)
    tensor.check((labels,))
    values = np.empty(labels, np.float32)
    whole = [safetensors.Piece((slice(0, labels),), values)]
    safetensors.read_chunks(safetensors.chunks(tensor, whole), lambda count: None)
    return tuple(float(value) for value in values)


# ---------------------------------------------------------------------------- writing


def attributes(
    config: llama.LlamaConfig, given: Mapping[str, Any] | None, dtype: str, source: Path | None
) -> dict[str, Any]:
    """The config.json of the trunk with a sequence head. Attributes in `given` are kept if they
    describe exactly this model."""
    carried = None
    if given is not None:
        given = hf_config.text_part(given)
        drop = () if not is_beaver(given) else BEAVER_DEFAULTS
        family = FAMILIES.get(given.get("model_type", ""))
        causal = {"architectures": [family.architecture]} if family else {}
        carried = {name: v for name, v in given.items() if name not in drop} | causal
        carried = carried if hf_config.describes(carried, config) else None
    token_ids = hub.token_ids(source)
    found = hf_config.to_hf_config(config, carried, dtype, token_ids)
    found |= score_head.pad_token(found, token_ids)
    return found | {"architectures": [architecture(found["model_type"])]}


def beaver_attributes(given: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    if not is_beaver(given):
        raise CheckpointError("a beaver model can only be exported with its own config.json")
    return dict(given) | {"dtype": dtype, "torch_dtype": dtype}
