"""Converts the metadata of a GGUF file to the attributes of a `config.json`. As in `hf_config.py`,
a key that might matter and is not implemented raises."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from safety_jax.base.errors import CheckpointError
from safety_jax.models import rotary
from safety_jax.models.folders.attributes import MOST_LAYERS, Attributes
from safety_jax.models.folders.families import FAMILIES
from safety_jax.models.folders.gguf_header import Header
from safety_jax.models.folders.gguf_tensors import ROTARY

# llama.cpp's names of architectures, and Hugging Face's model_type. Mistral's files also say llama.
ARCHITECTURES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma": "gemma"}
ACTIVATIONS = {"gemma": "gelu_pytorch_tanh"}

# Keys that are read, without the prefix of the architecture.
READ = frozenset(
    "block_count context_length embedding_length feed_forward_length attention.head_count"
    " attention.head_count_kv attention.key_length attention.value_length"
    " attention.layer_norm_rms_epsilon rope.freq_base rope.dimension_count rope.scaling.type"
    " rope.scaling.factor rope.scale_linear vocab_size".split()
)
# Keys of features that are not implemented, with the values that turn them off. None: any value is
# accepted, because the key matters only together with another one, or tells how the file was made.
SWITCHED_OFF: Mapping[str, tuple[Any, ...] | None] = {
    "attention.causal": (True,),
    "attention.sliding_window": (0,),
    "attn_logit_softcapping": (0.0,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "final_logit_softcapping": (0.0,),
    "pooling_type": (0,),
    "rope.scaling.attn_factor": (1.0,),
    "rope.scaling.finetuned": None,
    "rope.scaling.original_context_length": None,
    "tensor_data_layout": None,
    "use_parallel_residual": (False,),
}
# Files of Llama 3.1 and later have a tensor with the divisors of all frequencies, but not the
# settings from which these were computed. The factor is the largest divisor, the original positions
# are a power of two, and all releases share the other two settings.
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
ORIGINAL_POSITIONS = tuple(2**power for power in range(5, 21))
CLOSE = 1e-4  # the tolerance for numbers that a converter computed in float32


def attributes(header: Header, file: Path, divisors: np.ndarray | None) -> dict[str, Any]:
    """The attributes of the model's config.json.

    Args:
        divisors: the content of the tensor `rope_freqs.weight`; None without this tensor.

    Raises:
        CheckpointError: the architecture is not supported; or a key is missing, has the wrong type,
            or belongs to a feature that is not implemented.
    """
    architecture = header.metadata.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise CheckpointError(
            f"{file}: general.architecture is {architecture!r:.60}; expected one of "
            f"{', '.join(ARCHITECTURES)}"
        )
    prefix = f"{architecture}."
    given = {
        key.removeprefix(prefix): value
        for key, value in header.metadata.items()
        if key.startswith(prefix)
    }
    values = Attributes(given, dict.fromkeys(READ), f"{file}: {architecture}")
    _refuse_unknown(given, prefix, file)
    model_type = ARCHITECTURES[architecture]
    width, heads = values.integer("embedding_length"), values.integer("attention.head_count")
    head_size = values.integer("attention.key_length", when_absent=max(1, width // heads))
    for key in ("attention.value_length", "rope.dimension_count"):
        if values.integer(key, when_absent=head_size) != head_size:
            raise values.refuse(key, f"{head_size}, the size of a head")
    positions = values.integer("context_length")
    vocabulary = header.metadata.get("tokenizer.ggml.tokens")
    counted = len(vocabulary) if isinstance(vocabulary, list) and vocabulary else None
    found = {
        "model_type": model_type,
        "architectures": [FAMILIES[model_type].architecture],
        "vocab_size": values.integer("vocab_size", when_absent=counted),
        "hidden_size": width,
        "intermediate_size": values.integer("feed_forward_length"),
        "num_hidden_layers": values.integer("block_count", most=MOST_LAYERS),
        "num_attention_heads": heads,
        "num_key_value_heads": values.integer("attention.head_count_kv", when_absent=heads),
        "head_dim": head_size,
        "max_position_embeddings": positions,
        "rms_norm_eps": _decimal(values.number("attention.layer_norm_rms_epsilon")),
        "hidden_act": ACTIVATIONS.get(architecture, "silu"),
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "rope_theta": _theta(values),
        "rope_scaling": _scaling(values, divisors, head_size),
    }
    if model_type == "llama":
        found["attention_bias"] = "blk.0.attn_q.bias" in header.tensors
        found["mlp_bias"] = "blk.0.ffn_up.bias" in header.tensors
    return found


def _refuse_unknown(given: Mapping[str, Any], prefix: str, file: Path) -> None:
    refused = [
        key
        for key, value in given.items()
        if key not in READ
        and (key not in SWITCHED_OFF or (off := SWITCHED_OFF[key]) is not None and value not in off)
    ]
    if refused:
        listed = ", ".join(f"{prefix}{key} = {given[key]!r}"[:60] for key in sorted(refused)[:5])
        raise CheckpointError(f"{file}: not supported: {listed}; use another model")


def _decimal(number: float) -> float:
    """The shortest decimal number with this float32 value: files say 9.999999747e-06 for 1e-05."""
    return float(str(np.float32(number)))


def _theta(values: Attributes) -> float:
    if values.values["rope.freq_base"] is None:
        return 10_000.0
    theta = _decimal(values.number("rope.freq_base"))
    if theta <= 0:
        raise values.refuse("rope.freq_base", "a number above 0")
    return theta


# ---------------------------------------------------------------------------- scaled rotation


def _scaling(
    values: Attributes, divisors: np.ndarray | None, head_size: int
) -> dict[str, Any] | None:
    """`rope_scaling`; None without scaling.

    Raises:
        CheckpointError: the kind of scaling is not implemented.
    """
    kind = values.values["rope.scaling.type"]
    factor = 1.0
    for key in ("rope.scaling.factor", "rope.scale_linear"):
        if values.values[key] is not None:
            factor = _decimal(values.number(key))
    if kind not in (None, "none", "linear"):
        raise values.refuse("rope.scaling.type", "none or linear")
    if divisors is not None:
        if kind == "linear" and factor != 1.0:
            raise values.refuse("rope.scaling.type", f"none beside the tensor {ROTARY}")
        return _llama3(values, divisors, head_size)
    # llama.cpp scales linearly if only a factor is given.
    if kind == "none" or factor == 1.0:
        return None
    if factor <= 0:
        raise values.refuse("rope.scaling.factor", "a number above 0")
    return {"type": "linear", "factor": factor}


def _llama3(values: Attributes, divisors: np.ndarray, head_size: int) -> dict[str, Any] | None:
    """The llama3 scaling that gives these divisors."""
    if not np.isfinite(divisors).all() or (divisors <= 0).any():
        raise CheckpointError(f"{values.where}: {ROTARY}: expected finite numbers above 0")
    factor = float(divisors.max())
    if abs(factor - 1) < CLOSE:
        return None
    factor = _decimal(factor)
    for positions in ORIGINAL_POSITIONS:
        low, high = LLAMA3.values()
        rope = rotary.Rope(_theta(values), "llama3", factor, positions, low, high)
        expected = _divisors(rope, head_size)
        if len(divisors) == len(expected) and np.allclose(divisors, expected, rtol=CLOSE):
            original = {"original_max_position_embeddings": positions}
            return {"rope_type": "llama3", "factor": factor, **LLAMA3, **original}
    raise CheckpointError(
        f"{values.where}: the tensor {ROTARY} is not a scaling of Llama 3 "
        f"({', '.join(f'{name} {value:g}' for name, value in LLAMA3.items())}), the only supported "
        "one; use a Hugging Face folder"
    )


def _divisors(rope: rotary.Rope, head_size: int) -> np.ndarray:
    """The divisor of each frequency, see `rotary.frequencies`. Computed with numpy, because folders
    are opened before devices."""
    inverse = rope.theta ** -(np.arange(0, head_size, 2) / head_size)
    turns = rope.original_max_positions * inverse / (2 * math.pi)
    low, high = rope.low_frequency_factor, rope.high_frequency_factor
    keep = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return 1 / (keep + (1 - keep) / rope.factor)
