"""Tiny random models with a score head, shared by their generator (which needs torch) and tests.

A case is a Hugging Face config. Names and shapes of its weights are stored as `transformers` (for
the beaver layout: `make_scores.Beaver`) gives them; values come from a numpy seed, see `cases.py`.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tests.golden import cases

FOLDER = cases.FOLDER / "scorers"
ROWS, TOKENS, VOCABULARY = 4, 40, 96
LENGTHS = (40, 23, 9, 1)
# Cases that are scored again with padding and end of text as one token.
ENDED, ENDED_BY = ("llama", "gpt2"), 2
# Buckets and longest distances, and how far the golden tables reach. The first is v3's.
BUCKETS = ((256, 512), (256, 1024), (64, 512), (16, 256), (8, 64))
LONGEST = 1100

COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
REWARD = {"id2label": {"0": "reward"}, "problem_type": "regression"}
TWO = {"id2label": {"0": "safe", "1": "unsafe"}, "problem_type": "single_label_classification"}

# The settings of microsoft/deberta-v3-*; 8 buckets: distances from 5 on share some.
V3 = COMMON | {
    "model_type": "deberta-v2",
    "type_vocab_size": 0,
    "relative_attention": True,
    "position_buckets": 8,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": "p2c|c2p",
    "position_biased_input": False,
    "max_relative_positions": -1,
    "pooler_hidden_act": "gelu",
}
BERT = COMMON | {"model_type": "bert"}
ROBERTA = COMMON | {"model_type": "roberta", "type_vocab_size": 1, "pad_token_id": 1}
GPT2 = {
    "model_type": "gpt2",
    "vocab_size": VOCABULARY,
    "n_positions": 64,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "pad_token_id": 0,
}
LLAMA = COMMON | {"model_type": "llama", "num_key_value_heads": 2, "rms_norm_eps": 1e-5}
BEAVER = LLAMA | {"architectures": ["LlamaForScore"], "score_dim": 1, "id2label": {"0": "score"}}

CASES: dict[str, dict[str, Any]] = {
    "deberta_v3": V3 | REWARD,
    "deberta_v3_two_labels": V3 | TWO | {"pooler_hidden_act": "tanh", "hidden_act": "gelu_new"},
    "deberta_no_buckets": V3 | REWARD | {"position_buckets": -1},
    "deberta_short_distances": V3
    | REWARD
    | {"position_buckets": -1, "max_relative_positions": 6, "norm_rel_ebd": "none"},
    "deberta_long_distances": V3 | REWARD | {"max_relative_positions": 256, "position_buckets": 16},
    "deberta_own_projections": V3 | REWARD | {"share_att_key": False},
    "deberta_c2p": V3 | REWARD | {"share_att_key": False, "pos_att_type": ["c2p"]},
    "deberta_p2c": V3 | REWARD | {"share_att_key": False, "pos_att_type": ["p2c"]},
    "deberta_no_positions": V3 | REWARD | {"pos_att_type": None},
    "deberta_absolute": COMMON | REWARD | {"model_type": "deberta-v2", "pos_att_type": "c2p"},
    "deberta_types": V3 | TWO | {"type_vocab_size": 2, "position_biased_input": True},
    "deberta_convolution": V3
    | REWARD
    | {"conv_kernel_size": 3, "conv_act": "gelu", "conv_groups": 2, "num_hidden_layers": 3},
    "deberta_narrow_embedding": V3 | REWARD | {"embedding_size": 16},
    "bert": BERT | TWO,
    "bert_relu": BERT | REWARD | {"hidden_act": "relu", "layer_norm_eps": 1e-5},
    "roberta": ROBERTA | TWO,
    "xlm_roberta": ROBERTA | TWO | {"model_type": "xlm-roberta"},
    "gpt2": GPT2 | REWARD,
    "gpt2_two_labels": GPT2 | TWO | {"n_inner": 48, "activation_function": "gelu"},
    "llama": LLAMA | REWARD,
    "llama_tied": LLAMA | TWO | {"tie_word_embeddings": True},
    "mistral": LLAMA | REWARD | {"model_type": "mistral", "sliding_window": 16, "head_dim": 8},
    "qwen2": LLAMA | REWARD | {"model_type": "qwen2"},
    "qwen3": LLAMA | REWARD | {"model_type": "qwen3", "head_dim": 16},
    "beaver_reward": BEAVER | {"score_type": "reward", "bias": False, "do_normalize": False},
    "beaver_normalised": BEAVER
    | {
        "architectures": ["LlamaModelForScore"],
        "score_type": "reward",
        "score_bias": True,
        "do_normalize": True,
        "normalizer_type": "ExponentialMovingAverage",
        "momentum": 0.9,
    },
    "beaver_cost": BEAVER
    | {
        "score_type": "cost",
        "bias": True,
        "do_normalize": True,
        "normalizer_type": "RunningMeanStd",
    },
}


def read_configs() -> dict[str, dict[str, Any]]:
    """`{case: {"config": config.json, "shapes": {name: shape}}}`."""
    return json.loads((FOLDER / "cases.json").read_text())


def read_golden(name: str) -> dict[str, np.ndarray]:
    """`ids`, `types`, `mask` [B, T] and `logits` [B, labels] of a case."""
    stored = np.load(FOLDER / "golden.npz")
    return {key: stored[f"{name}/{key}"] for key in ("ids", "types", "mask", "logits")}


def batch(name: str) -> dict[str, np.ndarray]:
    """Rows of several lengths, padded on the right, each a pair of texts where there are types."""
    case = CASES[name]
    mask = np.arange(TOKENS)[None] < np.array(LENGTHS)[:, None]
    ids = cases.generator(name).randint(3, VOCABULARY, (ROWS, TOKENS))
    ids = np.where(mask, ids, case["pad_token_id"])
    second = np.arange(TOKENS)[None] >= np.array(LENGTHS)[:, None] // 2
    kinds = case.get("type_vocab_size", 2 if case["model_type"] == "bert" else 0)
    types = (second & mask).astype(np.int64) if kinds > 1 else np.zeros_like(ids)
    return {"ids": ids, "types": types, "mask": mask}


def ended(name: str) -> dict[str, np.ndarray]:
    """The batch of a case in which rows end in the token that is padding as well."""
    made = batch(name)
    made["ids"][~made["mask"]] = ENDED_BY
    for row, count in enumerate((1, 2, 0, 1)):  # the last row is nothing else
        made["ids"][row, LENGTHS[row] - count : LENGTHS[row]] = ENDED_BY
    made["ids"][1, 0] = ENDED_BY
    return made


def read_ended(name: str) -> tuple[np.ndarray, np.ndarray]:
    """`ids` and `logits` of `ended`; what else there is in the batch is that of the case."""
    stored = np.load(FOLDER / "golden.npz")
    return stored[f"{name}/ended_ids"], stored[f"{name}/ended_logits"]


def weights(shapes: dict[str, list[int]]) -> dict[str, np.ndarray]:
    """Values whose spread makes errors show: scores of about 1, attention far from uniform."""
    made = {}
    for name, shape in shapes.items():
        normal = cases.generator(name).standard_normal(shape)
        if name == "normalizer.var":
            value = 1 + normal**2
        elif name.endswith("bias") or name.startswith("normalizer"):
            value = 0.3 * normal
        elif len(shape) == 1:
            value = 1 + 0.1 * normal
        elif "embed" in name or "wte" in name or "wpe" in name:
            value = normal
        else:
            gain = 2.0 if any(part in name for part in ("query", "key", "q_proj", "k_proj")) else 1
            value = gain * normal / shape[-1] ** 0.5
        made[name] = np.asarray(value, np.float32)
    return made


def write_folder(folder: Path, config: dict[str, Any], tensors: dict[str, np.ndarray]) -> Path:
    """A Hugging Face model folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_case(folder: Path, name: str, **attributes: Any) -> Path:
    stored = read_configs()[name]
    return write_folder(folder, stored["config"] | attributes, weights(stored["shapes"]))
