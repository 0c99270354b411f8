"""Small GGUF files, written by the package as llama.cpp's converter writes them.

The files are written anew by whoever needs them: weights come of a frozen random stream, and the
package's quantisation is exact. The types it can read and not write are made of random blocks.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind

from tests.golden import cases

# Rows of 256 take the types of large blocks; heads of 16 leave rows of 64 for the others.
KINDS_CONFIG = cases.LLAMA | {
    "hidden_size": 256,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "head_dim": 16,
    "tie_word_embeddings": False,
}
_WIDE = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K") + ("IQ4_XS", "TQ1_0", "TQ2_0", "F16", "BF16")
_WIDE += ("Q4_K", "Q8_0", "Q6_K", "Q4_0", "F32")
_NARROW = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL")
KINDS: dict[str, str] = (
    {
        f"blk.{number // 5}.{('attn_q', 'attn_k', 'attn_v', 'ffn_gate', 'ffn_up')[number % 5]}"
        ".weight": kind
        for number, kind in enumerate(_WIDE)
    }
    | {
        f"blk.{number // 2}.{('attn_output', 'ffn_down')[number % 2]}.weight": kind
        for number, kind in enumerate(_NARROW)
    }
    | {"token_embd.weight": "Q8_0", "output.weight": "MXFP4"}
)
# Where the half-precision scales stand in a block of a type that cannot be written.
SCALES = {
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "IQ4_XS": (0,),
    "IQ4_NL": (0,),
}


def write(
    path: Path,
    config: Mapping[str, Any],
    kinds: Mapping[str, str] | str = "F32",
    change: Callable[[gguf.GGUFWriter], None] = lambda writer: None,
    drop: tuple[str, ...] = (),
    extra: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """The weights of `cases.weights`, under the names and in the order of llama.cpp.

    Args:
        kinds: the type of each tensor by its name, or of all; what is not named is F32.
        change: adds metadata.
        drop: metadata keys and tensors that are left out.
        extra: tensors that are added.
    """
    model_type = str(config["model_type"])
    arch = "llama" if model_type == "mistral" else model_type
    writer = gguf.GGUFWriter(path, arch)
    for key, value in metadata(config, arch).items():
        if key not in drop:
            writer.add_key_value(key, value, _type(value))
    change(writer)
    layers = config["num_hidden_layers"]
    names = gguf.get_tensor_name_map(_ARCHITECTURES[arch], layers)
    for name, weight in cases.weights(dict(config)).items():
        ours = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if ours in drop:
            continue
        if arch == "llama" and ".attn_q." in ours:
            weight = interleaved(weight, config["num_attention_heads"])
        elif arch == "llama" and ".attn_k." in ours:
            weight = interleaved(weight, config["num_key_value_heads"])
        elif arch == "gemma" and "norm" in ours:
            weight = weight + 1
        kind = kinds if isinstance(kinds, str) else kinds.get(ours, "F32")
        _add(writer, ours, weight, "F32" if weight.ndim == 1 else kind)
    for name, weight in (extra or {}).items():
        writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


_ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "gemma": gguf.MODEL_ARCH.GEMMA,
}


def metadata(config: Mapping[str, Any], arch: str) -> dict[str, Any]:
    heads = config["num_attention_heads"]
    head_size = config.get("head_dim") or config["hidden_size"] // heads
    rope = config.get("rope_parameters", {})
    found = {
        "vocab_size": config["vocab_size"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "block_count": config["num_hidden_layers"],
        "feed_forward_length": config["intermediate_size"],
        "rope.dimension_count": head_size,
        "attention.head_count": heads,
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": head_size,
        "attention.value_length": head_size,
        "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "rope.freq_base": float(rope.get("rope_theta", 10_000.0)),
    }
    if rope.get("rope_type") == "linear":
        found |= {"rope.scaling.type": "linear", "rope.scaling.factor": rope["factor"]}
    return {f"{arch}.{key}": value for key, value in found.items()}


def _type(value: Any) -> gguf.GGUFValueType:
    if isinstance(value, float):
        return gguf.GGUFValueType.FLOAT32
    return gguf.GGUFValueType.STRING if isinstance(value, str) else gguf.GGUFValueType.UINT32


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head in the order that rotates neighbours: 0, E/2, 1, E/2 + 1, …"""
    rows = np.arange(len(weight)).reshape(heads, 2, -1)
    return weight[rows.transpose(0, 2, 1).reshape(-1)]


def divisors(rope: Mapping[str, Any], head_size: int) -> np.ndarray:
    """`rope_freqs.weight` of a llama3 scaling, frequency by frequency as its authors tell it."""
    found = []
    for i in range(0, head_size, 2):
        length = 2 * np.pi * rope["rope_theta"] ** (i / head_size)
        turns = rope["original_max_position_embeddings"] / length
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        if turns > high:
            found.append(1.0)
        elif turns < low:
            found.append(rope["factor"])
        else:
            share = (turns - low) / (high - low)
            found.append(1 / ((1 - share) / rope["factor"] + share))
    return np.array(found, np.float32)


def _add(writer: gguf.GGUFWriter, name: str, weight: np.ndarray, kind: str) -> None:
    if kind in SCALES:
        data = random_blocks(weight.shape, kind, float(weight.std()), cases.generator(name))
    else:
        data = gguf.quantize(weight, Kind[kind])
    writer.add_tensor(name, data, raw_dtype=Kind[kind])


def random_blocks(
    shape: tuple[int, ...], kind: str, spread: float, random: np.random.RandomState
) -> np.ndarray:
    """Bytes of a quantised tensor with numbers of about this standard deviation."""
    block, block_bytes = gguf.GGML_QUANT_SIZES[Kind[kind]]
    count = int(np.prod(shape)) // block
    blocks = random.randint(0, 256, (count, block_bytes)).astype(np.uint8)
    _set_scales(blocks, kind, 1.0)
    unit = float(gguf.dequantize(blocks, Kind[kind]).std())
    _set_scales(blocks, kind, spread / unit)
    return blocks.reshape(*shape[:-1], -1)


def _set_scales(blocks: np.ndarray, kind: str, scale: float) -> None:
    for number, at in enumerate(SCALES[kind]):
        half = np.float16(scale * (1.0 if number == 0 else 4.0))  # minima are counted in fewer bits
        blocks[:, at : at + 2] = np.frombuffer(half.tobytes(), np.uint8)


# ---------------------------------------------------------------------------- tokenizers


def add_tokenizer(writer: gguf.GGUFWriter, content: Mapping[str, Any], **settings: Any) -> None:
    """A tokenizer.json of byte-level BPE as metadata.

    Args:
        settings: keys under `tokenizer.ggml`, such as `pre` and `eos_token_id`.
    """
    vocabulary = content["model"]["vocab"]
    tokens = sorted(vocabulary, key=vocabulary.get)
    special = {entry["content"] for entry in content["added_tokens"] if entry["special"]}
    added = {entry["content"] for entry in content["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if t in special else 4 if t in added else 1 for t in tokens])
    writer.add_token_merges([" ".join(pair) for pair in content["model"]["merges"]])
    add_settings(writer, settings)


def add_settings(writer: gguf.GGUFWriter, settings: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        key = f"tokenizer.{name}" if name == "chat_template" else f"tokenizer.ggml.{name}"
        if isinstance(value, bool):
            writer.add_bool(key, value)
        else:
            writer.add_key_value(key, value, _type(value))
