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
}

# Answers are decoded for these: every family, tied and untied, with and without a window.
DECODE_CASES = ("llama_grouped", "mistral_window", "qwen2", "qwen3_tied", "gemma")
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
        named[prefix + "input_layernorm.weight"] = (width,)
        named[prefix + "post_attention_layernorm.weight"] = (width,)
        for letter, shape in attention.items():
            named[f"{prefix}self_attn.{letter}_proj.weight"] = shape
            if letter in biased:
                named[f"{prefix}self_attn.{letter}_proj.bias"] = shape[:1]
        if config["model_type"] == "qwen3":
            named[prefix + "self_attn.q_norm.weight"] = (head,)
            named[prefix + "self_attn.k_norm.weight"] = (head,)
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
    centre = 1.0 if config["model_type"] == "gemma" else 0.0  # its norms multiply by 1 + w
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
            gain = 1.5 if "q_proj" in name or "k_proj" in name else 1.0
            value = gain * normal / shape[1] ** 0.5
        made[name] = value.astype(np.float32)
    return made


def old_spelling(config: dict[str, Any]) -> dict[str, Any]:
    """The same config as transformers 4 wrote it: rope in two keys, `torch_dtype`, no defaults."""
    old = {key: value for key, value in config.items() if key not in ("rope_parameters", "dtype")}
    rope = dict(config["rope_parameters"])
    old["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type")
    # The oldest files say "type"; it became "rope_type" with Llama 3.1.
    kind_key = "rope_type" if kind == "llama3" else "type"
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
