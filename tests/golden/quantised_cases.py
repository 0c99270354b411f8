"""Kernels, a small model and its adapters, of numbers that need not be stored; for golden files of
quantised bases, and for the tests that read them."""

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

IDS = [[1, 5, 9, 2, 63, 17, 8, 40]]
RANK, ALPHA = 4, 8.0
ROWS = 8  # of kernels whose numbers are kept

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 128,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# What transformers is asked for. The dtype of products is float32, so that errors show.
_FOUR = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "float32"}
FOLDERS: dict[str, dict[str, Any]] = {
    "nf4": _FOUR | {"bnb_4bit_use_double_quant": True},
    "nf4 of plain scales": _FOUR,
    "int8": {"load_in_8bit": True},
}


def kernels() -> dict[str, np.ndarray]:
    """Float32 kernels: scales that do not fill their last block of 256, rows and blocks of zeros,
    sizes far apart, numbers of bfloat16."""
    draw = np.random.default_rng(7)
    uneven = draw.normal(size=(52, 320)) * np.exp(draw.normal(size=(52, 1)) * 2)
    uneven[3], uneven[4, 64:128] = 0, 0
    tiny = draw.normal(size=(3, 64)) * 1e-6
    wide = draw.standard_t(3, size=(24, 192)).astype(ml_dtypes.bfloat16)
    found = {"uneven": uneven, "tiny": tiny, "bfloat16": wide}
    return {name: kernel.astype(np.float32) for name, kernel in found.items()}


def weights() -> dict[str, np.ndarray]:
    """Of the small model, under Hugging Face's names; float32 that float16 holds exactly."""
    draw = np.random.default_rng(11)
    D, F, V = CONFIG["hidden_size"], CONFIG["intermediate_size"], CONFIG["vocab_size"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (V, D)}
    for layer in range(CONFIG["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        shapes |= {f"{at}.self_attn.{name}_proj.weight": (D, D) for name in "qkvo"}
        shapes |= {f"{at}.mlp.{name}_proj.weight": (F, D) for name in ("gate", "up")}
        shapes[f"{at}.mlp.down_proj.weight"] = (D, F)
        shapes |= {f"{at}.{n}_layernorm.weight": (D,) for n in ("input", "post_attention")}
    shapes |= {"model.norm.weight": (D,), "lm_head.weight": (V, D)}
    found = {}
    for name, shape in shapes.items():
        numbers = 1 + 0.1 * draw.normal(size=shape) if len(shape) == 1 else draw.normal(size=shape)
        spread = 1.0 if len(shape) == 1 else 0.1
        found[name] = (spread * numbers).astype(np.float16).astype(np.float32)
    return found


def adapters() -> dict[str, dict[str, np.ndarray]]:
    """Adapters on queries and on the MLP's way down, under our names."""
    draw = np.random.default_rng(13)
    D, F, L = CONFIG["hidden_size"], CONFIG["intermediate_size"], CONFIG["num_hidden_layers"]
    sizes = {"query": (D, D), "down": (D, F)}
    return {
        name: {
            "a": (0.1 * draw.normal(size=(L, RANK, size_in))).astype(np.float32),
            "b": (0.1 * draw.normal(size=(L, size_out, RANK))).astype(np.float32),
        }
        for name, (size_out, size_in) in sizes.items()
    }


def write_folder(folder: Path) -> None:
    """The small model, in float32."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    save_file(weights(), folder / "model.safetensors", metadata={"format": "pt"})


def write_quantised(folder: Path, golden: dict[str, np.ndarray], name: str) -> None:
    """A folder of FOLDERS, from what `make_quantised` kept of it."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = json.loads(str(golden[f"{name}/settings"]))
    (folder / "config.json").write_text(json.dumps(CONFIG | {"quantization_config": settings}))
    tensors = {key: value for key, value in weights().items() if "_proj" not in key}
    # The codes of both kinds of nf4 are the same, and stored once.
    for source in (name.partition(" ")[0], name):
        for key, value in golden.items():
            whole = key.removeprefix(f"{source}/")
            if whole.startswith("model.") and (source == name or whole.endswith("_proj.weight")):
                tensors[whole] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
