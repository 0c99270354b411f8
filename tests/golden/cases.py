"""Tiny random models shared by the generators (which need torch) and the tests (which do not).

A case is a Hugging Face config; its weights come from a numpy seed, so that only configs and
answers are stored. `numpy.random.RandomState` is used because its stream is frozen for good, which
the newer generators do not promise.
"""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

FOLDER = Path(__file__).parent
VOCABULARY = 96
TOKENS = 96

LLAMA = {
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
}
# Head size 16 and this base put one wavelength below 64/4 tokens, one between and six above 64:
# every branch of the llama3 rule is taken, and shows within 96 tokens.
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
ROPE_500K = {"rope_type": "default", "rope_theta": 500000.0}
GEMMA = LLAMA | {"model_type": "gemma", "head_dim": 16, "rms_norm_eps": 1e-6}
# Four layers of two kinds; the window of 16 tokens shows within 96, and so do the soft-caps.
GEMMA2 = GEMMA | {
    "model_type": "gemma2",
    "num_hidden_layers": 4,
    "sliding_window": 16,
    "query_pre_attn_scalar": 24,
    "attn_logit_softcapping": 2.0,
    "final_logit_softcapping": 3.0,
    "tie_word_embeddings": True,
}
# Layers 0, 1, 3 and 4 of five have the window and a rope of their own; the last is cut off from its
# period, as in Gemma 3 4B.
GEMMA3 = GEMMA | {
    "model_type": "gemma3_text",
    "num_hidden_layers": 5,
    "sliding_window": 16,
    "sliding_window_pattern": 3,
    "query_pre_attn_scalar": 24,
    "tie_word_embeddings": True,
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 1000.0},
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e5},
    },
}
# Fused projections; three quarters of a head turn. The example of 96 tokens is longer than 64, and
# not longer than 96, so that each set of factors is used.
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
PHI3 = LLAMA | {"model_type": "phi3", "sliding_window": 40, **IDS}
LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 1000.0,
    "partial_rotary_factor": 0.75,
    "short_factor": [1.0, 1.1, 1.3],
    "long_factor": [1.5, 2.0, 3.0],
}
PHI3_LONG = PHI3 | {
    "tie_word_embeddings": True,
    "original_max_position_embeddings": 64,
    "partial_rotary_factor": 0.75,
    "rope_parameters": LONG_ROPE,
}
YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 24,
    "beta_fast": 2.0,
    "beta_slow": 0.5,
}
OLMO2 = LLAMA | {"model_type": "olmo2", **IDS}
# The fourth of five layers sees all, with its own rope.
OLMO3 = OLMO2 | {
    "model_type": "olmo3",
    "num_hidden_layers": 5,
    "sliding_window": 16,
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 500000.0},
        "full_attention": YARN_ROPE,
    },
}
SMOLLM3 = LLAMA | {
    "model_type": "smollm3",
    "num_hidden_layers": 4,
    "no_rope_layer_interval": 3,
    **IDS,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
}
GRANITE = LLAMA | {
    "model_type": "granite",
    "tie_word_embeddings": True,
    "embedding_multiplier": 6.0,
    "attention_multiplier": 0.2,
    "residual_multiplier": 0.3,
    "logits_scaling": 4.0,
}
# Without experts and state spaces: what is fused is the MLP, under names of its own.
GRANITE4 = GRANITE | {
    "model_type": "granitemoehybrid",
    "shared_intermediate_size": 48,
    "num_local_experts": 0,
    "position_embedding_type": "rope",
    "layer_types": ["full_attention"] * 2,
    "mamba_n_heads": 2,
}
# Queries grow every 24 tokens.
MINISTRAL3 = LLAMA | {
    "model_type": "ministral3",
    "head_dim": 16,
    **IDS,
    "rope_parameters": YARN_ROPE
    | {"mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.5},
}
QWEN3 = LLAMA | {"model_type": "qwen3", "head_dim": 16, "rms_norm_eps": 1e-6}

CASES: dict[str, dict[str, Any]] = {
    "llama_multi_head": LLAMA | {"num_key_value_heads": 4},
    "llama_grouped": LLAMA,
    "llama_multi_query": LLAMA | {"num_key_value_heads": 1},
    "llama_tied": LLAMA | {"tie_word_embeddings": True},
    "llama_head_dim": LLAMA | {"head_dim": 16},
    "llama_attention_bias": LLAMA | {"attention_bias": True},
    "llama_mlp_bias": LLAMA | {"mlp_bias": True},
    "llama_epsilon": LLAMA | {"rms_norm_eps": 1e-6},
    "llama_rope_base": LLAMA | {"rope_parameters": ROPE_500K},
    "llama_rope_linear": LLAMA | {"rope_parameters": LINEAR_ROPE},
    "llama_rope_llama3": LLAMA
    | {"head_dim": 16, "tie_word_embeddings": True, "rope_parameters": LLAMA3_ROPE},
    "mistral": LLAMA | {"model_type": "mistral", "sliding_window": None, "head_dim": 8},
    "mistral_window": LLAMA | {"model_type": "mistral", "sliding_window": 16, "head_dim": 8},
    "qwen2": LLAMA | {"model_type": "qwen2", "rms_norm_eps": 1e-6},
    "qwen2_tied": LLAMA
    | {"model_type": "qwen2", "tie_word_embeddings": True, "rms_norm_eps": 1e-6},
    "qwen3": QWEN3,
    "qwen3_tied": QWEN3 | {"tie_word_embeddings": True},
    "gemma": GEMMA | {"num_key_value_heads": 1},
    "gemma_untied": GEMMA | {"tie_word_embeddings": False},
    "gemma2": GEMMA2,
    "gemma3": GEMMA3,
    "phi3": PHI3,
    "phi3_short": PHI3_LONG | {"original_max_position_embeddings": 96},
    "phi3_long": PHI3_LONG,
    "olmo2": OLMO2,
    "olmo3": OLMO3,
    "qwen2_windows": LLAMA
    | {
        "model_type": "qwen2",
        "num_hidden_layers": 3,
        "use_sliding_window": True,
        "sliding_window": 16,
        "max_window_layers": 1,
    },
    "llama_rope_yarn": LLAMA | {"rope_parameters": YARN_ROPE},
    "llama_rope_dynamic": LLAMA
    | {
        "max_position_embeddings": 48,
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
    },
    "smollm3": SMOLLM3,
    "granite": GRANITE,
    "granite4": GRANITE4,
    "granite4_nope": GRANITE4 | {"position_embedding_type": "nope"},
    "ministral3": MINISTRAL3,
}

# Answers are decoded for these: every family, tied and untied, with and without a window.
DECODE_CASES = (
    *("llama_grouped", "mistral_window", "qwen2", "qwen3_tied", "gemma"),
    *("gemma2", "gemma3", "phi3_long", "olmo3", "smollm3", "granite", "ministral3"),
)
DECODE_EOS = (7, 11, 20)
DECODE_TOKENS = 24
DECODE_BEAMS = 4
# (case, beams); beam search knows nothing of the model but its logits and the cache.
DECODE_RUNS = tuple((name, 1) for name in DECODE_CASES) + (
    ("llama_grouped", DECODE_BEAMS),
    ("mistral_window", DECODE_BEAMS),
)


def decode_prompts(name: str) -> list[list[int]]:
    """Shorter and longer than the window of 16, and one of a single token."""
    random = generator(f"{name} prompts")
    return [random.randint(21, VOCABULARY, length).tolist() for length in (5, 17, 1, 30, 9)]


def read_config(name: str) -> dict[str, Any]:
    """The case's `config.json`, as transformers 5 saved it."""
    return json.loads((FOLDER / "families" / name / "config.json").read_text())


def read_golden(name: str) -> dict[str, np.ndarray]:
    """`ids` [1, T] and `logits` [1, T, V] of a case."""
    return dict(np.load(FOLDER / "families" / name / "golden.npz"))


def generator(name: str) -> np.random.RandomState:
    return np.random.RandomState(zlib.crc32(name.encode()))


FOUR_NORMS = ("input", "post_attention", "pre_feedforward", "post_feedforward")
AFTER = ("post_attention", "post_feedforward")
LAYER_NORMS = {"gemma2": FOUR_NORMS, "gemma3_text": FOUR_NORMS, "olmo2": AFTER, "olmo3": AFTER}


def shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Hugging Face weight names and shapes of a config, written down independently of ours."""
    width, mlp = config["hidden_size"], config["intermediate_size"]
    heads = config["num_attention_heads"]
    head = config.get("head_dim") or width // heads
    query, key = heads * head, config.get("num_key_value_heads", heads) * head
    attention = {"q": (query, width), "k": (key, width), "v": (key, width), "o": (width, query)}
    qwen2 = config["model_type"] == "qwen2"
    biased = {"q", "k", "v"} if qwen2 else set("qkvo") if config.get("attention_bias") else set()
    named: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], width)}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        for norm in LAYER_NORMS.get(config["model_type"], ("input", "post_attention")):
            named[f"{prefix}{norm}_layernorm.weight"] = (width,)
        if config["model_type"] == "phi3":
            rows = query + 2 * key
            named[f"{prefix}self_attn.qkv_proj.weight"] = (rows, width)
            named[f"{prefix}self_attn.o_proj.weight"] = attention["o"]
            named[f"{prefix}mlp.gate_up_proj.weight"] = (2 * mlp, width)
            named[f"{prefix}mlp.down_proj.weight"] = (width, mlp)
            continue
        for letter, shape in attention.items():
            named[f"{prefix}self_attn.{letter}_proj.weight"] = shape
            if letter in biased:
                named[f"{prefix}self_attn.{letter}_proj.bias"] = shape[:1]
        if config["model_type"] in ("qwen3", "gemma3_text"):
            named[prefix + "self_attn.q_norm.weight"] = (head,)
            named[prefix + "self_attn.k_norm.weight"] = (head,)
        if config["model_type"] in ("olmo2", "olmo3"):
            named[prefix + "self_attn.q_norm.weight"] = (query,)
            named[prefix + "self_attn.k_norm.weight"] = (key,)
        if config["model_type"] == "granitemoehybrid":
            named[f"{prefix}shared_mlp.input_linear.weight"] = (2 * mlp, width)
            named[f"{prefix}shared_mlp.output_linear.weight"] = (width, mlp)
            continue
        for kind, shape in {"gate": (mlp, width), "up": (mlp, width), "down": (width, mlp)}.items():
            named[f"{prefix}mlp.{kind}_proj.weight"] = shape
            if config.get("mlp_bias"):
                named[f"{prefix}mlp.{kind}_proj.bias"] = shape[:1]
    named["model.norm.weight"] = (width,)
    if not config.get("tie_word_embeddings"):
        named["lm_head.weight"] = (config["vocab_size"], width)
    return named


def weights(config: dict[str, Any]) -> dict[str, np.ndarray]:
    """Float32 weights whose spread makes errors show: logits reach about 4.

    Embeddings are small, so that the norm's epsilon matters in the first layer; the final norm
    makes up for it where embeddings are tied. Queries and keys are large, so that attention is
    far from uniform and rotary positions matter.
    """
    # Norms of Gemma multiply by 1 + w.
    centre = 1.0 if config["model_type"].startswith("gemma") else 0.0
    made = {}
    for name, shape in shapes(config).items():
        normal = generator(name).standard_normal(shape)
        if name == "model.embed_tokens.weight":
            value = 0.02 * normal
        elif name == "model.norm.weight":
            value = (1 + 0.1 * normal) * (10.0 if config.get("tie_word_embeddings") else 1.0)
            value = value - centre
        elif "norm" in name:
            value = 1 + 0.1 * normal - centre
        elif name.endswith(".bias"):
            value = 0.2 * normal
        else:
            gain = 1.5 if any(part in name for part in ("q_proj", "k_proj", "qkv_proj")) else 1.0
            value = gain * normal / shape[1] ** 0.5
        made[name] = value.astype(np.float32)
    return made


def old_spelling(config: dict[str, Any]) -> dict[str, Any]:
    """The same config as transformers 4 wrote it: rope in two keys, `torch_dtype`, no defaults."""
    old = {key: value for key, value in config.items() if key not in ("rope_parameters", "dtype")}
    rope = dict(config["rope_parameters"])
    if "full_attention" in rope:  # by type of layer, which in the old spelling had names of its own
        if config["model_type"] == "gemma3_text":
            old["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = dict(rope["full_attention"])
    old["rope_theta"] = rope.pop("rope_theta")
    if "partial_rotary_factor" in rope:
        old["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    kind = rope.pop("rope_type")
    # The oldest files say "type"; it became "rope_type" with Llama 3.1. Gemma 3 knows no other.
    newer = kind == "llama3" or config["model_type"] in ("gemma3_text", "olmo3")
    kind_key = "rope_type" if newer else "type"
    old["rope_scaling"] = None if kind == "default" else {kind_key: kind} | rope
    old["torch_dtype"] = "float32"
    old["transformers_version"] = "4.43.0"
    if config["model_type"] == "llama":
        if config["head_dim"] * config["num_attention_heads"] == config["hidden_size"]:
            del old["head_dim"]
        if config["num_key_value_heads"] == config["num_attention_heads"]:
            del old["num_key_value_heads"]
    return old


def write_folder(folder: Path, config: dict[str, Any]) -> Path:
    """Writes `config.json` and `model.safetensors` as a Hugging Face model folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    save_file(weights(config), folder / "model.safetensors", metadata={"format": "pt"})
    return folder
