"""Kernels that bitsandbytes quantises, and folders that transformers saves with it; needs torch.

    python -m tests.golden.make_quantised            writes tests/golden/quantised.npz
    python -m tests.golden.make_quantised --check    compares with it; exit code 1 on difference

The float model is made from numbers that tests make again (`quantised_cases`); of each folder the
tensors are kept as they stand in its file, and what transformers, and PEFT on top of it, compute.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import bitsandbytes.functional as bnb
import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from tests.golden import compare, quantised_cases


def kernels() -> dict[str, np.ndarray]:
    """Codes and scales of single kernels, and the numbers that they stand for."""
    found = {}
    for name, kernel in quantised_cases.kernels().items():
        given = torch.from_numpy(kernel)
        codes, state = bnb.quantize_4bit(given, quant_type="nf4", compress_statistics=True)
        found[f"{name}/nf4/codes"] = codes.reshape(kernel.shape[0], -1).numpy()
        found[f"{name}/nf4/scales"] = state.absmax.reshape(kernel.shape[0], -1).numpy()
        found[f"{name}/nf4/outer"] = state.state2.absmax.numpy()
        found[f"{name}/nf4/mean"] = state.offset.numpy()
        found[f"{name}/nf4/numbers"] = bnb.dequantize_4bit(codes, state)[
            : quantised_cases.ROWS
        ].numpy()
        int8, scales, _ = bnb.int8_vectorwise_quant(given.clone())
        found[f"{name}/int8/codes"], found[f"{name}/int8/scales"] = int8.numpy(), scales.numpy()
        found[f"{name}/int8/numbers"] = bnb.int8_vectorwise_dequant(int8, scales)[
            : quantised_cases.ROWS
        ].numpy()
    return found


def folder(source: Path, name: str, settings: dict[str, Any]) -> dict[str, np.ndarray]:
    """What a folder holds that transformers quantised and saved, and what its model computes."""
    quantisation = BitsAndBytesConfig(**settings)
    model = AutoModelForCausalLM.from_pretrained(
        source, dtype=torch.float32, quantization_config=quantisation, device_map="cpu"
    )
    model.train()  # nothing drops out; else bitsandbytes multiplies in bfloat16 on some CPUs
    with tempfile.TemporaryDirectory() as saved:
        model.save_pretrained(saved)
        config = json.loads((Path(saved) / "config.json").read_text())
        tensors = load_file(Path(saved) / "model.safetensors")
    found = {
        f"{name}/{key}": tensor.numpy()
        for key, tensor in tensors.items()
        if "_proj" in key and not (name == "nf4 of plain scales" and key.endswith("_proj.weight"))
    }
    found[f"{name}/settings"] = np.array(json.dumps(config["quantization_config"]))
    ids = torch.tensor(quantised_cases.IDS)
    with torch.no_grad():
        if name == "int8":
            found[f"{name}/logits"] = dequantised(source, tensors)(ids).logits.numpy()
            return found
        found[f"{name}/logits"] = model(ids).logits.float().numpy()
        adapted = adapt(model)
        found[f"{name}/adapted"] = adapted(ids).logits.float().numpy()
        projection = adapted.base_model.model.model.layers[1].self_attn.q_proj
        base = bnb.dequantize_4bit(projection.weight.data, projection.weight.quant_state)
        found[f"{name}/merged"] = (base + projection.get_delta_weight("default")).numpy()
    return found


def dequantised(source: Path, tensors: dict[str, torch.Tensor]) -> Any:
    """The float model with the numbers that int8 codes stand for: its own product would round
    activations too."""
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    for name, scales in tensors.items():
        if name.endswith(".SCB"):
            module = name.removesuffix(".SCB")
            numbers = bnb.int8_vectorwise_dequant(tensors[f"{module}.weight"], scales)
            model.get_submodule(module).weight.data = numbers
    return model


def adapt(model: Any) -> PeftModel:
    """The model with adapters of the numbers that tests make too."""
    rank, alpha = quantised_cases.RANK, quantised_cases.ALPHA
    adapted = get_peft_model(
        model, LoraConfig(r=rank, lora_alpha=alpha, target_modules=["q_proj", "down_proj"])
    ).train()
    layers = adapted.base_model.model.model.layers
    for name, pair in quantised_cases.adapters().items():
        for number, layer in enumerate(layers):
            part = layer.self_attn.q_proj if name == "query" else layer.mlp.down_proj
            part.lora_A["default"].weight.data = torch.from_numpy(pair["a"][number])
            part.lora_B["default"].weight.data = torch.from_numpy(pair["b"][number])
    return adapted


def main() -> int:
    torch.set_num_threads(1)
    check = compare.parse_check(__doc__ or "")
    golden = compare.Golden(Path(__file__).parent, check, tolerance=1e-5)
    arrays = kernels()
    with tempfile.TemporaryDirectory() as source:
        quantised_cases.write_folder(Path(source))
        for name, settings in quantised_cases.FOLDERS.items():
            arrays |= folder(Path(source), name, settings)
    golden.arrays("quantised.npz", arrays)
    return golden.finish()


if __name__ == "__main__":
    sys.exit(main())
