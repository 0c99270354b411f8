"""LoRA SFT with transformers and PEFT on random packed rows; prints one line of JSON.

    python -m tests.benchmarks.gpu_torch_worker trl SIZE

Run by gpu.py as a process of its own; SIZE is a `gpu.Size` as JSON. The set-up is TRL's for LoRA:
a bfloat16 base with gradient checkpointing, float32 adapters, autocast, fused AdamW, clipping at 1.
Examples of a row are kept apart by positions that begin anew, which transformers turns into a mask,
or into lengths for FlashAttention where that is installed. Logits of a whole microbatch stand in
memory, as they do in TRL.
"""

import importlib.util
import json
import sys
import time
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

MICROBATCHES = (8, 4, 2, 1)  # rows, tried in this order until one fits


def make_model(size: dict[str, Any], device: str) -> Any:
    attributes = dict(size["model"])
    config = AutoConfig.for_model(attributes.pop("model_type"), **attributes)
    flash = device == "cuda" and importlib.util.find_spec("flash_attn") is not None
    with torch.device(device):
        base = AutoModelForCausalLM.from_config(
            config,
            dtype=torch.bfloat16,
            attn_implementation="flash_attention_2" if flash else "sdpa",
        )
    base.config.use_cache = False
    base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    base.enable_input_require_grads()
    adapters = LoraConfig(
        r=size["lora_rank"], lora_alpha=size["lora_alpha"], lora_dropout=0.0,
        target_modules="all-linear", task_type="CAUSAL_LM",
    )  # fmt: skip
    return get_peft_model(base, adapters).train()


def make_rows(size: dict[str, Any], device: str) -> dict[str, torch.Tensor]:
    """Rows as gpu_training fills them: ids, positions from 0 in each example, all but the first of
    each trained."""
    T, rows = size["row_tokens"], size["rows"]
    positions = torch.cat([torch.arange(T // part) for part in size["pattern"]]).expand(rows, T)
    drawn = torch.Generator().manual_seed(0)
    ids = torch.randint(0, size["model"]["vocab_size"], (rows, T), generator=drawn)
    labels = torch.where(positions == 0, -100, ids)
    found = {"input_ids": ids, "position_ids": positions.contiguous(), "labels": labels}
    return {name: value.to(device) for name, value in found.items()}


def step(model: Any, optimizer: Any, rows: dict[str, torch.Tensor], microbatch: int) -> float:
    """One update on all rows; the mean loss."""
    count, total = len(rows["labels"]), 0.0
    device = rows["labels"].device.type
    for start in range(0, count, microbatch):
        part = {name: value[start : start + microbatch] for name, value in rows.items()}
        with torch.autocast(device, torch.bfloat16):
            loss = model(**part).loss * len(part["labels"]) / count
        loss.backward()
        total += float(loss.detach())
    moving = [p for p in model.parameters() if p.requires_grad]
    torch.nn.utils.clip_grad_norm_(moving, 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return total


def main(size: dict[str, Any]) -> dict[str, Any]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, rows = make_model(size, device), make_rows(size, device)
    moving = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(moving, lr=1e-4, weight_decay=0.0, fused=True)
    first, microbatch = 0.0, 0
    for microbatch in (number for number in MICROBATCHES if number <= size["rows"]):
        try:
            first = step(model, optimizer, rows, microbatch)
            break
        except torch.OutOfMemoryError:
            if microbatch == MICROBATCHES[-1]:
                raise
        optimizer.zero_grad()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(size["steps"]):
        began = time.perf_counter()
        step(model, optimizer, rows, microbatch)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return {
        "seconds": seconds,
        "tokens_per_step": rows["labels"].numel(),
        "rows_per_microbatch": microbatch,
        "attention": model.config._attn_implementation,
        "first_loss": first,
        "expected_loss": float(torch.tensor(size["model"]["vocab_size"]).log()),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "peak_bytes": torch.cuda.max_memory_allocated() if device == "cuda" else None,
    }


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[2]))))
