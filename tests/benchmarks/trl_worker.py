"""One run of TRL's SFTTrainer with PEFT over prepared rows; prints one line of JSON.

    python -m tests.benchmarks.trl_worker FOLDER VARIANT

FOLDER is what `sft.prepare` wrote. Run by `sft.py` as its own process, so that its peak memory is
its own.
"""

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

# What each variant changes against plain padding to the longest row of a microbatch, in float32,
# without gradient checkpointing. `rows` is that of a microbatch: small ones have less padding, and
# a CPU is busy with few rows already.
VARIANTS: dict[str, dict[str, Any]] = {
    "defaults": {"rows": 8, "gradient_checkpointing": True},
    "padded": {"rows": 8},
    "padded_small": {"rows": 2},
    "padded_by_length": {"rows": 8, "train_sampling_strategy": "group_by_length"},
    "padding_free": {"rows": 8, "padding_free": True, "max_length": None},
    "packed": {"rows": 2, "packing": True},
    "packed_wide": {"rows": 8, "packing": True},
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


class CountingTrainer(SFTTrainer):
    """Counts what a step trains: labels that have a left neighbour."""

    trained_tokens: list[int]

    def training_step(self, model, inputs, num_items_in_batch=None):
        step = self.state.global_step
        if step == len(self.trained_tokens):
            self.trained_tokens.append(0)
        self.trained_tokens[step] += int((inputs["labels"][:, 1:] != -100).sum())
        return super().training_step(model, inputs, num_items_in_batch)


def config(folder: Path, settings: dict[str, Any], variant: str, examples: int) -> SFTConfig:
    changes = dict(VARIANTS[variant])
    rows_per_microbatch, per_step = changes.pop("rows"), settings["batch_size"]
    if changes.get("packing"):
        # A packed row holds several examples: fewer rows make a step of about as many examples.
        tokens = settings["real_tokens"] / examples * per_step
        per_step = max(1, round(tokens / settings["max_length"]))
        rows_per_microbatch = min(rows_per_microbatch, per_step)
        per_step -= per_step % rows_per_microbatch
    plain: dict[str, Any] = {
        "completion_only_loss": True,
        "max_length": settings["max_length"],
        "per_device_train_batch_size": rows_per_microbatch,
        "gradient_accumulation_steps": per_step // rows_per_microbatch,
        "num_train_epochs": 1,
        "learning_rate": settings["learning_rate"],
        "lr_scheduler_type": "constant",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "seed": settings["seed"],
    }
    return SFTConfig(str(folder / "trl"), **plain | changes)


def main(folder: Path, variant: str) -> None:
    settings = json.loads((folder / "settings.json").read_text())
    torch.set_num_threads(settings["threads"])
    rows = json.loads((folder / "rendered.json").read_text())
    clock = Clock()
    trainer = CountingTrainer(
        AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32),
        config(folder, settings, variant, len(rows)),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        peft_config=LoraConfig(
            r=settings["lora_rank"],
            lora_alpha=settings["lora_alpha"],
            lora_dropout=0.0,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        ),
        callbacks=[clock],
    )
    trainer.trained_tokens = []
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    print(
        json.dumps(
            {
                "seconds": clock.seconds,
                "compile_seconds": 0.0,
                "trained_tokens": trainer.trained_tokens,
                "losses": losses,
                "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
