"""One run of TRL's SFTTrainer or DPOTrainer with PEFT over prepared rows; prints a line of JSON.

    python -m tests.benchmarks.trl_worker FOLDER VARIANT

FOLDER is what `sft.prepare` or `dpo.prepare` wrote. Run by contest.py as its own process, so that
its peak memory is its own.
"""

import contextlib
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

# What each variant changes against plain padding to the longest row of a microbatch, in float32,
# without gradient checkpointing. `rows` is that of a microbatch: small ones have less padding, and
# a CPU is busy with few rows already.
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "sft": {
        "defaults": {"rows": 8, "gradient_checkpointing": True},
        "padded": {"rows": 8},
        "padded_small": {"rows": 2},
        "padded_by_length": {"rows": 8, "train_sampling_strategy": "group_by_length"},
        "padding_free": {"rows": 8, "padding_free": True, "max_length": None},
        "packed": {"rows": 2, "packing": True},
        "packed_wide": {"rows": 8, "packing": True},
    },
    # Pairs; TRL 1.16 says that padding_free is out of order for DPO, and packs no pairs.
    "dpo": {
        "defaults": {"rows": 8, "gradient_checkpointing": True},
        "live": {"rows": 8},
        "live_small": {"rows": 2},
        "live_single": {"rows": 1},
        "precomputed": {"rows": 8, "precompute_ref_log_probs": True},
        "precomputed_small": {"rows": 2, "precompute_ref_log_probs": True},
        "precomputed_single": {"rows": 1, "precompute_ref_log_probs": True},
    },
}


class Clock(TrainerCallback):
    """Seconds of each optimizer step, the wait for its batch included."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._since = 0.0

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self._since = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        now = time.perf_counter()
        self.seconds.append(now - self._since)
        self._since = now


class Counted(Trainer):
    """Counts what each step holds; mixed into a trainer."""

    counts: dict[str, list[int]]

    def training_step(self, model, inputs, num_items_in_batch=None):
        step = self.state.global_step
        for name, number in self.count(inputs).items():
            column = self.counts.setdefault(name, [])
            column.extend([0] * (step + 1 - len(column)))
            column[step] += int(number)
        return super().training_step(model, inputs, num_items_in_batch)

    def count(self, inputs) -> dict[str, Any]:
        raise NotImplementedError


class CountedSFT(Counted, SFTTrainer):
    def count(self, inputs) -> dict[str, Any]:
        labels, positions = inputs["labels"], inputs.get("position_ids")
        cells = labels.numel()
        # Trained is a label that has a left neighbour; packed rows say where examples begin.
        return {
            "examples": len(labels) if positions is None else (positions == 0).sum(),
            "trained": (labels[:, 1:] != -100).sum(),
            "cells": cells,
            "real": inputs["attention_mask"].sum() if "attention_mask" in inputs else cells,
        }


class CountedDPO(Counted, DPOTrainer):
    precompute_seconds = 0.0

    def _precompute_ref_logps(self, *args):
        began = time.perf_counter()
        found = super()._precompute_ref_logps(*args)
        self.precompute_seconds = time.perf_counter() - began
        return found

    def count(self, inputs) -> dict[str, Any]:
        mask = inputs["attention_mask"]
        return {
            "examples": len(mask) // 2,
            "trained": inputs["completion_mask"][:, 1:].sum(),
            "cells": mask.numel(),
            "real": mask.sum(),
        }


def arguments(folder: Path, settings: dict[str, Any], variant: str, examples: int):
    """SFTConfig or DPOConfig of a variant."""
    stage, per_step = settings["stage"], settings["batch_size"]
    changes = dict(VARIANTS[stage][variant])
    rows_per_microbatch = changes.pop("rows")
    if changes.get("packing"):
        # A packed row holds several examples: fewer rows make a step of about as many examples.
        tokens = settings["real_tokens"] / examples * per_step
        per_step = max(1, round(tokens / settings["max_length"]))
        rows_per_microbatch = min(rows_per_microbatch, per_step)
        per_step -= per_step % rows_per_microbatch
    plain: dict[str, Any] = {
        "max_length": settings["max_length"],
        "per_device_train_batch_size": rows_per_microbatch,
        "gradient_accumulation_steps": per_step // rows_per_microbatch,
        "num_train_epochs": 1,
        "learning_rate": settings["learning_rate"],
        "lr_scheduler_type": "constant",
        "use_cpu": True,
        # TRL's own choice is autocast over weights of float32.
        "bf16": settings["numbers"] == "own",
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "seed": settings["seed"],
    }
    if stage == "sft":
        plain |= {"completion_only_loss": True}
        return SFTConfig(str(folder / "trl"), **plain | changes)
    plain |= {"beta": settings["beta"], "train_sampling_strategy": "sequential"}
    return DPOConfig(str(folder / "trl"), **plain | changes)


def main(folder: Path, variant: str) -> None:
    settings = json.loads((folder / "settings.json").read_text())
    torch.set_num_threads(settings["threads"])
    rows = json.loads((folder / "rendered.json").read_text())
    clock, targets = Clock(), settings["lora_targets"]
    with contextlib.redirect_stdout(sys.stderr):
        trainer = {"sft": CountedSFT, "dpo": CountedDPO}[settings["stage"]](
            AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32),
            args=arguments(folder, settings, variant, len(rows)),
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(folder / "model"),
            peft_config=LoraConfig(
                r=settings["lora_rank"],
                lora_alpha=settings["lora_alpha"],
                lora_dropout=0.0,
                target_modules=targets[0] if targets == ["all-linear"] else targets,
                task_type="CAUSAL_LM",
            ),
            callbacks=[clock],
        )
        start = folder / "adapter" / "adapter_model.safetensors"
        if start.exists():
            set_peft_model_state_dict(trainer.model, load_file(start))
        trainer.counts = {}
        trainer.train()
    counts = trainer.counts
    print(
        json.dumps(
            {
                "seconds": clock.seconds,
                "examples": counts["examples"],
                "trained_tokens": counts["trained"],
                "losses": [row["loss"] for row in trainer.state.log_history if "loss" in row],
                "padding_share": 1 - sum(counts["real"]) / sum(counts["cells"]),
                "before_seconds": getattr(trainer, "precompute_seconds", 0.0),
                "compile_seconds": 0.0,
                "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
