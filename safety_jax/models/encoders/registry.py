"""The architectures that can carry a score head. A new one is an entry of KINDS."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from flax import nnx

from safety_jax.models import llama
from safety_jax.models.encoders import (
    bert,
    deberta,
    deberta_config,
    gpt2,
    llama_heads,
    score_head,
)
from safety_jax.models.folders import weight_table
from safety_jax.models.folders.families import FAMILIES


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The functions of an architecture.

    Attributes:
        module: declares the trunk's weights.
        forward: (config, weights, tokens, read, run, adapters) to the hidden states [B, S, D] of
            the tokens in the cells `read` [B, S]; no segment of a row sees another.
        layout: (config) to the table of the weights in a folder.
        targets: (config) to Hugging Face's names of the projections that can have adapters, and our
            names.
        parse: (attributes of config.json, file name for messages) to the trunk's config.
        head: (config, labels) to the head of a new scorer.
        architecture: (model_type) to the name of the class with a sequence head.
        attributes: (config, given, dtype, source) to the exported config.json, without labels.
        pairs: see `heads.Scorer`.
        causal: a token attends to earlier ones only.
    """

    module: Callable[..., nnx.Module]
    forward: Callable[..., Any]
    layout: Callable[[Any], weight_table.WeightTable]
    targets: Callable[[Any], Mapping[str, str | tuple[str, ...]]]
    parse: Callable[[Mapping[str, Any], str], Any]
    head: Callable[[Any, int], score_head.HeadConfig]
    architecture: Callable[[str], str]
    attributes: Callable[..., dict[str, Any]]
    pairs: bool
    causal: bool


LLAMA = Architecture(
    module=llama_heads.trunk,
    forward=llama_heads.forward,
    layout=llama_heads.layout,
    targets=llama.targets,
    parse=llama_heads.parse,
    head=llama_heads.head,
    architecture=llama_heads.architecture,
    attributes=llama_heads.attributes,
    pairs=False,
    causal=True,
)
DEBERTA = Architecture(
    module=deberta.Deberta,
    forward=deberta.forward,
    layout=lambda config: deberta_config.LAYOUT,
    targets=lambda config: deberta_config.TARGETS,
    parse=deberta_config.parse,
    head=deberta_config.head,
    architecture=lambda model_type: deberta_config.ARCHITECTURE,
    attributes=deberta_config.attributes,
    pairs=True,
    causal=False,
)
BERT = Architecture(
    module=bert.Bert,
    forward=bert.forward,
    layout=lambda config: bert.BERT_LAYOUT,
    targets=lambda config: bert.TARGETS,
    parse=bert.parse,
    head=bert.head,
    architecture=lambda model_type: bert.ARCHITECTURES[model_type],
    attributes=bert.attributes,
    pairs=True,
    causal=False,
)
GPT2 = Architecture(
    module=gpt2.Gpt2,
    forward=gpt2.forward,
    layout=lambda config: gpt2.LAYOUT,
    targets=lambda config: gpt2.TARGETS,
    parse=gpt2.parse,
    head=gpt2.head,
    architecture=lambda model_type: gpt2.ARCHITECTURE,
    attributes=gpt2.attributes,
    pairs=False,
    causal=True,
)
KINDS = {
    "llama": LLAMA,
    "beaver": dataclasses.replace(LLAMA, layout=llama_heads.beaver_layout),
    "deberta": DEBERTA,
    "bert": BERT,
    "roberta": dataclasses.replace(BERT, layout=lambda config: bert.ROBERTA_LAYOUT),
    "gpt2": GPT2,
}
MODEL_TYPES = dict.fromkeys(FAMILIES, "llama") | {
    deberta_config.MODEL_TYPE: "deberta",
    "bert": "bert",
    "roberta": "roberta",
    "xlm-roberta": "roberta",
    gpt2.MODEL_TYPE: "gpt2",
}
