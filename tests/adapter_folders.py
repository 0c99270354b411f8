"""Adapter folders as peft writes them, written down independently of what reads them."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from safety_jax.base.errors import CheckpointError
from safety_jax.models.folders import peft, peft_config

CASE = "llama_grouped"
LAYERS, RANK = 2, 4
SIZES = {  # out, in
    "self_attn.q_proj": (32, 32),
    "self_attn.k_proj": (16, 32),
    "self_attn.v_proj": (16, 32),
    "self_attn.o_proj": (32, 32),
    "mlp.gate_proj": (48, 32),
    "mlp.up_proj": (48, 32),
    "mlp.down_proj": (32, 48),
}
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
MANY = ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")


def adapter_tensors(modules=MANY, dtype="float32", rank=RANK, sizes=SIZES) -> dict[str, np.ndarray]:
    """Tensors as PEFT names them, written down independently of ours."""
    random = np.random.default_rng(0)
    tensors = {}
    for layer in range(LAYERS):
        for module in modules:
            size_out, size_in = sizes[module]
            for factor, shape in (("A", (rank, size_in)), ("B", (size_out, rank))):
                name = f"base_model.model.model.layers.{layer}.{module}.lora_{factor}.weight"
                tensors[name] = random.standard_normal(shape).astype(DTYPES[dtype])
    return tensors


def write_adapter(folder, tensors=None, **attributes):
    """A folder as peft 0.21 writes it, with every attribute it writes by default."""
    tensors = adapter_tensors() if tensors is None else tensors
    modules = sorted({name.split(".")[-3] for name in tensors})
    given = {
        "alora_invocation_tokens": None,
        "alpha_pattern": {},
        "arrow_config": None,
        "auto_mapping": None,
        "base_model_name_or_path": "some/base",
        "bias": "none",
        "corda_config": None,
        "ensure_weight_tying": False,
        "eva_config": None,
        "exclude_modules": None,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layer_replication": None,
        "layers_pattern": None,
        "layers_to_transform": None,
        "loftq_config": {},
        "lora_alpha": 16,
        "lora_bias": False,
        "lora_dropout": 0.05,
        "megatron_config": None,
        "megatron_core": "megatron.core",
        "modules_to_save": None,
        "peft_type": "LORA",
        "peft_version": "0.21.2",
        "qalora_group_size": 16,
        "r": RANK,
        "rank_pattern": {},
        "revision": None,
        "target_modules": modules,
        "target_parameters": None,
        "task_type": "CAUSAL_LM",
        "trainable_token_indices": None,
        "use_dora": False,
        "use_qalora": False,
        "use_rslora": False,
    } | attributes
    folder.mkdir(exist_ok=True)
    (folder / peft_config.CONFIG).write_text(json.dumps(given))
    save_file(tensors, folder / peft.WEIGHTS, metadata={"format": "pt"})
    return folder


def refusal(folder, config, mesh) -> str:
    with pytest.raises(CheckpointError) as raised:
        peft.load(folder, config, mesh)
    assert "\n" not in str(raised.value)
    return str(raised.value)
