"""Losses, gradients and metrics of TRL's KTOTrainer and ORPOTrainer; needs torch and trl.

    python -m tests.golden.make_kto            writes tests/golden/kto.npz
    python -m tests.golden.make_kto --check    compares with it at 1e-5; exit code 1 on difference

Of KTO, the policy is the shared model and the reference the same with the shared adapters merged:
the other way round than for DPO, for so the reference point is above 0. Its rows are both answers
of DPO's pairs; the rejected ones are undesirable.
"""

import sys
import tempfile
import types

import numpy as np
import torch
from datasets import Dataset
from trl import KTOConfig, KTOTrainer
from trl.experimental.orpo import ORPOTrainer

from tests.golden import cases, compare, rows
from tests.golden.make_dpo import KIND, log_ratios, make_trainer
from tests.golden.make_sft import adapted_model, reference_model
from tests.golden.make_trl import padded

COLUMNS = ("prompt_ids", "completion_ids", "KL_completion_ids")
METRICS = ("rewards/", "logps/", "kl")


def kto_trainer(folder: str) -> KTOTrainer:
    examples = rows.labelled_rows()
    settings = KTOConfig(
        folder,
        **rows.KTO,
        per_device_train_batch_size=len(examples),
        max_length=None,
        train_sampling_strategy="sequential",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    return KTOTrainer(
        reference_model().requires_grad_(True),
        ref_model=adapted_model(rows.TARGETS[KIND]).merge_and_unload(),
        args=settings,
        train_dataset=Dataset.from_list(examples),
        processing_class=rows.tokenizer(folder),
    )


def kto() -> dict[str, np.ndarray]:
    """Loss, gradient norm and metrics of the first step, and the rows as TRL tokenized them."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = kto_trainer(folder)
        batch = next(iter(trainer.get_train_dataloader()))
        model = trainer.model.train()
        loss = trainer.compute_loss(model, batch)
        loss.backward()
        squares = [p.grad.double().pow(2).sum() for p in model.parameters() if p.grad is not None]
        made = {
            "kto/loss": np.array(loss.item()),
            "kto/grad_norm": np.array(torch.stack(squares).sum().sqrt().item()),
            "kto/label": np.array(trainer.train_dataset["label"]),
        }
        for metric, values in trainer._metrics["train"].items():
            if metric.startswith(METRICS):
                made[f"kto/{metric}"] = np.array(values[-1])
        for column in COLUMNS:
            ids = list(trainer.train_dataset[column])
            made[column] = padded(ids, fill=0)
            made[f"{column}/lengths"] = np.array([len(row) for row in ids])
        return made


def orpo() -> dict[str, np.ndarray]:
    """What ORPOTrainer's arithmetic makes of the pairs of the DPO golden."""
    with tempfile.TemporaryDirectory() as folder:
        sums, _, tokens = log_ratios(make_trainer(folder, "sigmoid"))
    means = sums / tokens
    own = types.SimpleNamespace(accelerator=types.SimpleNamespace(device="cpu"), beta=rows.ORPO)
    losses, chosen, rejected, ratio, odds = ORPOTrainer.odds_ratio_loss(own, means[0], means[1])
    return {
        "orpo/odds_loss": -losses.numpy(),
        "orpo/rewards/chosen": chosen.mean().numpy(),
        "orpo/rewards/rejected": rejected.mean().numpy(),
        "orpo/rewards/margins": (chosen - rejected).mean().numpy(),
        "orpo/rewards/accuracies": (chosen > rejected).float().mean().numpy(),
        "orpo/logps/chosen": means[0].mean().numpy(),
        "orpo/logps/rejected": means[1].mean().numpy(),
        "orpo/log_odds_ratio": ratio.numpy(),
        "orpo/log_odds_chosen": odds.numpy(),
    }


def main() -> int:
    torch.set_num_threads(1)
    golden = compare.Golden(cases.FOLDER, compare.parse_check(__doc__ or ""), tolerance=1e-5)
    made = kto() | orpo()
    golden.arrays(rows.KTO_FILE.name, made)
    return golden.finish()


if __name__ == "__main__":
    sys.exit(main())
