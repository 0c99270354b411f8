"""InternLM2 (arXiv 2403.17297) is LLaMA with other names, and is read as LLaMA.

`transformers` has no class for it. Its folders contain their own code, which is never run here; it
computes the same as `LlamaForCausalLM`. Queries, keys and values are one weight, ordered by groups:
the query heads that share a key head, this key head, and its value head. An export has LLaMA's
names, so that it can be read without that code.
"""

from collections.abc import Mapping
from typing import Any

from safety_jax.models.folders import auto_map

MODEL_TYPE = "internlm2"
ARCHITECTURE = "InternLM2ForCausalLM"
_CODE = r"(configuration|modeling)_internlm2\.InternLM2\w+"
# Defaults of its configuration class that differ from those of `LlamaConfig`.
DEFAULTS = {"vocab_size": 103168, "bias": True}

# Names in files, and LLaMA's names. Queries, keys and values are split afterwards.
RENAMED = (
    (r"^model\.tok_embeddings\.", "model.embed_tokens."),
    (r"^output\.(?=weight$)", "lm_head."),
    (r"(?<=\d\.)attention\.wo\.", "self_attn.o_proj."),
    (r"(?<=\d\.)attention\.wqkv\.", "self_attn.wqkv."),
    (r"(?<=\d\.)feed_forward\.w1\.", "mlp.gate_proj."),
    (r"(?<=\d\.)feed_forward\.w3\.", "mlp.up_proj."),
    (r"(?<=\d\.)feed_forward\.w2\.", "mlp.down_proj."),
    (r"(?<=\d\.)attention_norm\.", "input_layernorm."),
    (r"(?<=\d\.)ffn_norm\.", "post_attention_layernorm."),
)
WQKV = ("self_attn.wqkv", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"))


def as_llama(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The attributes of a config.json under LLaMA's names; those of other models unchanged."""
    if given.get("model_type") != MODEL_TYPE:
        return given
    found = {**DEFAULTS, **given, "model_type": "llama"}
    found["attention_bias"] = found.pop("bias")
    if found.get("architectures") in ([ARCHITECTURE], None):
        found.pop("architectures", None)
    return auto_map.without_known(found, _CODE)
