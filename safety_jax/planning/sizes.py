"""The attributes of known models' config.json, by name."""

from collections.abc import Mapping
from typing import Any

from safety_jax.base import files
from safety_jax.base.errors import ConfigError
from safety_jax.models import llama
from safety_jax.models.folders import hf_config, hub


def _of(
    model_type: str,
    width: int,
    mlp_width: int,
    layers: int,
    heads: int,
    kv_heads: int,
    **others: Any,
) -> dict[str, Any]:
    return {
        "model_type": model_type,
        "hidden_size": width,
        "intermediate_size": mlp_width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        **others,
    }


def _llama(
    width: int, mlp_width: int, layers: int, heads: int, kv_heads: int, **others: Any
) -> dict[str, Any]:
    common = {"vocab_size": 32_000, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5}
    return _of("llama", width, mlp_width, layers, heads, kv_heads, **common | others)


_THREE = {"vocab_size": 128_256, "max_position_embeddings": 8192, "rope_theta": 500_000.0}
SIZES: Mapping[str, Mapping[str, Any]] = {
    "llama2-7b": _llama(4096, 11_008, 32, 32, 32),
    "llama2-13b": _llama(5120, 13_824, 40, 40, 40),
    "llama2-70b": _llama(8192, 28_672, 80, 64, 8),
    "llama3-1b": _llama(2048, 8192, 16, 32, 8, head_dim=64, tie_word_embeddings=True, **_THREE),
    "llama3-3b": _llama(3072, 8192, 28, 24, 8, head_dim=128, tie_word_embeddings=True, **_THREE),
    "llama3-8b": _llama(4096, 14_336, 32, 32, 8, **_THREE),
    "llama3-70b": _llama(8192, 28_672, 80, 64, 8, **_THREE),
    "qwen3-32b": _of(
        "qwen3", 5120, 25_600, 64, 64, 8, head_dim=128, vocab_size=151_936,
        max_position_embeddings=40_960, rope_theta=1_000_000.0, rms_norm_eps=1e-6,
    ),
    "gemma3-27b": _of(
        "gemma3_text", 5376, 21_504, 62, 32, 16, head_dim=128, vocab_size=262_208,
        max_position_embeddings=131_072, query_pre_attn_scalar=168, sliding_window=1024,
        rope_scaling={"rope_type": "linear", "factor": 8.0},
    ),
    "phi4-14b": _of(
        "phi3", 5120, 17_920, 40, 40, 10, vocab_size=100_352, max_position_embeddings=16_384,
        original_max_position_embeddings=16_384, rope_theta=250_000.0, sliding_window=None,
    ),
    "olmo3-32b": _of(
        "olmo3", 5120, 27_648, 64, 40, 8, vocab_size=100_278, max_position_embeddings=65_536,
        sliding_window=4096, rope_theta=500_000.0,
        rope_scaling={"rope_type": "yarn", "factor": 8.0, "beta_fast": 32.0, "beta_slow": 1.0,
                      "original_max_position_embeddings": 8192},
    ),
}  # fmt: skip


def read(name: str) -> llama.LlamaConfig:
    """The config of a model in the table, or of a Hugging Face folder, hub id or GGUF file.

    Raises:
        ConfigError: there is no such model.
        CheckpointError: the folder's config.json cannot be used.
    """
    if name in SIZES:
        return hf_config.parse(SIZES[name], name)
    if not files.expand(name).exists() and "/" not in name:
        raise ConfigError(
            f"model.size {name!r}: expected {', '.join(SIZES)}, or a Hugging Face folder"
        )
    return hf_config.read_config(hub.resolve(name))
