"""Labels and losses of TRL's SFTTrainer on prompt/completion rows; needs torch and trl.

    python -m tests.golden.make_trl            writes tests/golden/trl.npz
    python -m tests.golden.make_trl --check    compares with it at 1e-5; exit code 1 on difference

Rows differ in length and a step has two microbatches, so the losses also say how TRL divides: by
the trained tokens of the whole step.
"""

import sys
import tempfile

import numpy as np
import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from tests.golden import cases, compare, rows
from tests.golden.make_sft import reference_model


def settings(folder: str, completion_only: bool) -> SFTConfig:
    return SFTConfig(
        folder,
        completion_only_loss=completion_only,
        per_device_train_batch_size=rows.TRL_ROWS,
        gradient_accumulation_steps=rows.TRL_MICROBATCHES,
        max_steps=rows.TRL_STEPS,
        train_sampling_strategy="sequential",
        learning_rate=rows.ADAMW["learning_rate"],
        lr_scheduler_type="constant",
        adam_beta1=rows.ADAMW["beta1"],
        adam_beta2=rows.ADAMW["beta2"],
        adam_epsilon=rows.TRL_EPSILON,
        weight_decay=rows.ADAMW["weight_decay"],
        max_grad_norm=rows.ADAMW["clip_norm"],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )


def padded(column: list[list[int]], fill: int) -> np.ndarray:
    width = max(map(len, column))
    return np.array([row + [fill] * (width - len(row)) for row in column])


def trained(kind: str) -> dict[str, np.ndarray]:
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            reference_model(),
            settings(folder, completion_only=rows.TRL_TRAINED[kind]),
            train_dataset=Dataset.from_list(rows.text_rows()),
            processing_class=rows.tokenizer(folder),
        )
        trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    prepared = trainer.train_dataset
    return {
        f"{kind}/ids": padded(prepared["input_ids"], fill=0),
        f"{kind}/labels": padded(prepared["labels"], fill=-100),
        f"{kind}/lengths": np.array([len(row) for row in prepared["input_ids"]]),
        f"{kind}/losses": np.array([entry["loss"] for entry in logged]),
        f"{kind}/gradient_norms": np.array([entry["grad_norm"] for entry in logged]),
    }


def main() -> int:
    torch.set_num_threads(1)
    golden = compare.Golden(cases.FOLDER, compare.parse_check(__doc__ or ""), tolerance=1e-5)
    made = {}
    for kind in rows.TRL_TRAINED:
        made |= trained(kind)
        print(kind, made[f"{kind}/losses"], made[f"{kind}/gradient_norms"])
    golden.arrays(rows.TRL_FILE.name, made)
    return golden.finish()


if __name__ == "__main__":
    sys.exit(main())
