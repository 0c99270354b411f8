"""Losses, gradients and metrics of TRL's RewardTrainer; needs torch and trl.

    python -m tests.golden.make_reward            writes tests/golden/reward.npz
    python -m tests.golden.make_reward --check    compares with it at 1e-5; exit code 1 if not

The judge is the tiny LLaMA of `score_cases` with its head, the pairs are those of `rows.py`.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification
from trl import RewardConfig, RewardTrainer

from tests.golden import cases, compare, rows, score_cases
from tests.golden.make_trl import padded


def make_trainer(folder: Path, name: str) -> RewardTrainer:
    margin, centring = rows.REWARDS[name]
    settings = RewardConfig(
        str(folder / "run"),
        center_rewards_coefficient=centring or None,
        per_device_train_batch_size=rows.DPO_PAIRS,
        max_length=None,
        train_sampling_strategy="sequential",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    pairs = [
        {side: row["prompt"] + row[side] for side in ("chosen", "rejected")}
        | ({"margin": margin} if margin else {})
        for row in rows.pair_rows()
    ]
    model = score_cases.write_case(folder / "model", "llama")
    return RewardTrainer(
        AutoModelForSequenceClassification.from_pretrained(model, dtype=torch.float32),
        args=settings,
        train_dataset=Dataset.from_list(pairs),
        processing_class=rows.tokenizer(folder / "tokenizer"),
    )


def step_of(name: str) -> tuple[dict[str, np.ndarray], RewardTrainer]:
    """Loss, gradient norm and metrics of the first step."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(Path(folder), name)
        batch = next(iter(trainer.get_train_dataloader()))
        model = trainer.model.train()
        loss = trainer.compute_loss(model, batch)
        loss.backward()
        squares = [p.grad.double().pow(2).sum() for p in model.parameters() if p.grad is not None]
        made = {
            f"{name}/loss": np.array(loss.item()),
            f"{name}/grad_norm": np.array(torch.stack(squares).sum().sqrt().item()),
        }
        for metric in rows.REWARD_METRICS:
            made[f"{name}/{metric}"] = np.array(trainer._metrics["train"][metric][-1])
        return made, trainer


def main() -> int:
    torch.set_num_threads(1)
    golden = compare.Golden(cases.FOLDER, compare.parse_check(__doc__ or ""), tolerance=1e-5)
    made = {}
    for name in rows.REWARDS:
        found, trainer = step_of(name)
        made |= found
        print(name, found[f"{name}/loss"], found[f"{name}/grad_norm"])
    for column in ("chosen_ids", "rejected_ids"):
        ids = list(trainer.train_dataset[column])
        made[column] = padded(ids, fill=0)
        made[f"{column}/lengths"] = np.array([len(row) for row in ids])
    golden.arrays(rows.REWARD_FILE.name, made)
    return golden.finish()


if __name__ == "__main__":
    sys.exit(main())
