"""The TRL + PEFT half of ladder.py: trains what it prepared, writes losses and the adapter.

python -m tests.benchmarks.ladder_worker FOLDER
"""

import json
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, set_peft_model_state_dict
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from tests.benchmarks.trl_worker import Clock

Rows = list[list[dict[str, list[int]]]]
SFT_ROWS = 2  # of a microbatch: losses are divided by the step's tokens whatever it holds


class AtOurRates(Trainer):
    """With the learning rate of each step as the run had it; mixed into a trainer."""

    rates: list[float]

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        rates = [*self.rates, self.rates[-1]]  # it asks for one more than there are steps
        self.lr_scheduler = LambdaLR(optimizer or self.optimizer, rates.__getitem__)
        return self.lr_scheduler


class OurSFT(AtOurRates, SFTTrainer):
    """Rows come as tokens and labels, which TRL knows itself."""


class WeightedSFT(OurSFT):
    """With a weight for the first tokens of each answer, which TRL does not have.

    Attributes:
        early: the weight, and the number of tokens that have it.
        totals: of each step, the sum of the weights of its tokens.
    """

    early: tuple[float, int]
    totals: list[float]

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = cross_entropy(
            outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="none"
        )
        weights = torch.tensor([weights_of(row != -100, *self.early) for row in labels])
        total = self.totals[self.state.global_step]
        return (loss * weights[:, 1:].flatten()).sum() / total


def weights_of(trained: Iterable[Any], weight: float, tokens: int) -> list[float]:
    """The weight of every token of a row: 0 if it is not trained, `weight` for the first `tokens`
    of each answer, 1 for the rest."""
    found, place = [], 0
    for on in trained:
        place = place + 1 if on else 0
        found.append(0.0 if not on else weight if place <= tokens else 1.0)
    return found


class OurDPO(AtOurRates, DPOTrainer):
    """Rows come as the tokens of both sides: no other tokenizing can differ from the run's."""

    def _prepare_dataset(self, dataset, *_):
        return dataset


class Sides:
    """Pairs as TRL's own collator lays them out: chosen answers, then rejected ones."""

    def __init__(self, pad_id: int):
        self._pad_id = pad_id

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        sides = [row[side] for side in ("chosen", "rejected") for row in rows]
        return {
            "input_ids": padded([side["ids"] for side in sides], self._pad_id),
            "attention_mask": padded([[1] * len(side["ids"]) for side in sides], 0),
            "completion_mask": padded([side["trained"] for side in sides], 0),
        }


def padded(rows: list[list[int]], value: int) -> torch.Tensor:
    return pad_sequence([torch.tensor(row) for row in rows], True, value)


def arguments(folder: Path, settings: dict[str, Any], rows: int, **own: Any) -> dict[str, Any]:
    """What SFTConfig and DPOConfig share.

    Args:
        rows: of a microbatch.
    """
    return {
        "output_dir": str(folder / "trainer"),
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": -(-settings["batch_size"] // rows),
        "num_train_epochs": 1,
        "train_sampling_strategy": "sequential",
        "max_length": None,
        "learning_rate": settings["learning_rate"],
        "weight_decay": settings["weight_decay"],
        "adam_beta1": settings["beta1"],
        "adam_beta2": settings["beta2"],
        "adam_epsilon": settings["epsilon"],
        "max_grad_norm": settings["clip_norm"],
        "remove_unused_columns": False,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "seed": settings["seed"],
    } | own


def make_trainer(folder: Path, settings: dict[str, Any], rows: Rows) -> Trainer:
    """The trainer of a stage, over the prepared model and adapters."""
    tokens = AutoTokenizer.from_pretrained(folder / "model")
    pad_id = 0 if tokens.pad_token_id is None else tokens.pad_token_id
    lora = LoraConfig.from_pretrained(folder / "start")
    lora.inference_mode, lora.lora_dropout = False, 0.0
    given = {
        "model": AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32),
        "processing_class": tokens,
        "peft_config": lora,
    }
    if settings["stage"] == "sft":
        learned = [
            {
                "input_ids": row["ids"],
                "labels": [
                    i if on else -100 for i, on in zip(row["ids"], row["trained"], strict=True)
                ],
            }
            for (row,) in rows
        ]
        args = arguments(folder, settings, SFT_ROWS, dataset_kwargs={"skip_prepare_dataset": True})
        early = settings["early_weight"], settings["early_tokens"]
        kind = OurSFT if early[0] == 1 else WeightedSFT
        trainer = kind(args=SFTConfig(**args), train_dataset=Dataset.from_list(learned), **given)
        if isinstance(trainer, WeightedSFT):
            size = settings["batch_size"]
            weights = [sum(weights_of(row["trained"], *early)) for (row,) in rows]
            trainer.early = early
            trainer.totals = [sum(weights[i : i + size]) for i in range(0, len(rows), size)]
        return trainer
    weight = settings["nll_weight"]
    own = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, weight]} if weight else {}
    # TRL divides the likelihood of chosen answers by the tokens of a microbatch, so that only one
    # of all pairs divides as a run here does; then memory wants what can be computed again.
    args = arguments(
        folder,
        settings,
        settings["batch_size"] if weight else SFT_ROWS,
        beta=settings["beta"],
        gradient_checkpointing=bool(weight),
        **own,
    )
    pairs = [{"chosen": chosen, "rejected": rejected} for chosen, rejected in rows]
    return OurDPO(
        args=DPOConfig(**args),
        train_dataset=Dataset.from_list(pairs),
        data_collator=Sides(pad_id),
        **given,
    )


def main(folder: Path) -> None:
    settings = json.loads((folder / "settings.json").read_text())
    trainer = make_trainer(folder, settings, json.loads((folder / "rows.json").read_text()))
    set_peft_model_state_dict(
        trainer.model, load_file(folder / "start" / "adapter_model.safetensors")
    )
    clock = Clock()
    trainer.add_callback(clock)
    trainer.rates = settings["rates"]
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    (folder / "losses.json").write_text(json.dumps({"losses": losses, "seconds": clock.seconds}))
    trainer.model.peft_config["default"].base_model_name_or_path = settings["base"]
    trainer.model.save_pretrained(folder / "export")
    shutil.rmtree(folder / "trainer", ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
