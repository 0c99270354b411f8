"""Losses, gradients and metrics of TRL's DPOTrainer, and of its CPOTrainer; W-DOOR as its authors
wrote it down; needs torch and trl.

    python -m tests.golden.make_dpo            writes tests/golden/dpo.npz
    python -m tests.golden.make_dpo --check    compares with it at 1e-5; exit code 1 on difference

The policy is the shared model with the shared adapters merged, the reference is the model without
them, so that no difference is zero and a test may train all weights or the adapters.
"""

import sys
import tempfile
import types

import numpy as np
import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer
from trl.experimental.cpo import CPOTrainer

from tests.golden import cases, compare, rows
from tests.golden.make_sft import adapted_model, reference_model
from tests.golden.make_trl import padded

KIND = "query_value"


def make_trainer(folder: str, name: str) -> DPOTrainer:
    losses, beta = rows.DPO_LOSSES[name]
    settings = DPOConfig(
        folder,
        beta=beta,
        loss_type=list(losses),
        loss_weights=list(losses.values()),
        label_smoothing=rows.DPO_SMOOTHING if name == "robust" else 0.0,
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
    return DPOTrainer(
        adapted_model(rows.TARGETS[KIND]).merge_and_unload().requires_grad_(True),
        ref_model=reference_model(),
        args=settings,
        train_dataset=Dataset.from_list(rows.pair_rows()),
        processing_class=rows.tokenizer(folder),
    )


def step_of(name: str) -> tuple[dict[str, np.ndarray], DPOTrainer]:
    """Loss, gradient norm and metrics of the first step."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(folder, name)
        batch = next(iter(trainer.get_train_dataloader()))
        model = trainer.model.train()
        loss = trainer.compute_loss(model, batch)
        loss.backward()
        squares = [p.grad.double().pow(2).sum() for p in model.parameters() if p.grad is not None]
        made = {
            f"{name}/loss": np.array(loss.item()),
            f"{name}/grad_norm": np.array(torch.stack(squares).sum().sqrt().item()),
        }
        for metric, values in trainer._metrics["train"].items():
            if metric.startswith(("rewards/", "logps/", "mean_token_accuracy")):
                made[f"{name}/{metric}"] = np.array(values[-1])
        return made, trainer


def token_rows(trainer: DPOTrainer) -> dict[str, np.ndarray]:
    """Prompt and answers as TRL tokenized them, padded, with their lengths."""
    made = {}
    for column in ("prompt_ids", "chosen_ids", "rejected_ids"):
        ids = list(trainer.train_dataset[column])
        made[column] = padded(ids, fill=0)
        made[f"{column}/lengths"] = np.array([len(row) for row in ids])
    return made


def log_ratios(trainer: DPOTrainer) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Summed log π and log π/π_ref of chosen and rejected answers [2, pairs], tokens [2, pairs]."""
    batch = next(iter(trainer.get_train_dataloader()))
    mask = batch["completion_mask"][:, 1:]
    sums = []
    with torch.no_grad():
        for model in (trainer.model, trainer.ref_model):
            logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            picked = logits.log_softmax(-1)[:, :-1].gather(-1, batch["input_ids"][:, 1:, None])
            sums.append((picked[..., 0] * mask).sum(1).reshape(2, -1))
    return sums[0], sums[0] - sums[1], mask.sum(1).reshape(2, -1)


def cpo_numbers(trainer: DPOTrainer) -> dict[str, np.ndarray]:
    """What CPOTrainer's arithmetic makes of the same pairs: SimPO, and label smoothing."""

    def numbers(inputs: torch.Tensor, **settings: float | str) -> tuple[np.ndarray, ...]:
        own = types.SimpleNamespace(
            accelerator=types.SimpleNamespace(device="cpu"), alpha=0.0, **settings
        )
        found = CPOTrainer.cpo_loss(own, inputs[0], inputs[1])
        return tuple(value.mean().numpy() for value in found)

    policy, ratios, tokens = log_ratios(trainer)
    simpo = {"beta": 2.0, "simpo_gamma": rows.DPO_MARGIN, "label_smoothing": 0.0}
    smoothed = {"beta": 0.1, "label_smoothing": rows.DPO_SMOOTHING}
    loss, chosen, rejected = numbers(policy / tokens, loss_type="simpo", **simpo)
    return {
        "simpo/loss": loss,
        "simpo/rewards/chosen": chosen,
        "simpo/rewards/rejected": rejected,
        "simpo/rewards/margins": chosen - rejected,
        "simpo/logps/chosen": (policy / tokens)[0].mean().numpy(),
        "simpo/logps/rejected": (policy / tokens)[1].mean().numpy(),
        "conservative/loss": numbers(ratios, loss_type="sigmoid", **smoothed)[0],
    }


def token_logprobs(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """log-probability of every answer's tokens [2 pairs, T - 1], 0 elsewhere; chosen ones first."""
    logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    picked = logits.log_softmax(-1)[:, :-1].gather(-1, batch["input_ids"][:, 1:, None])
    return picked[..., 0] * batch["completion_mask"][:, 1:]


def weighted_door_numbers(trainer: DPOTrainer) -> dict[str, np.ndarray]:
    """W-DOOR (arXiv 2503.03710): tokens of the refusal weighed by exp(r / τ), r = log π*/π_ref, and
    the harmful answer unlearned token by token; of either sign of r, for the authors' code
    (`exp_weights` of github.com/wicai24/DOOR-Alignment) has the other one than their equation."""
    batch, beta = next(iter(trainer.get_train_dataloader())), rows.DOOR_BETA
    proxy = adapted_model(rows.TARGETS[rows.DOOR_PROXY]).merge_and_unload()
    with torch.no_grad():
        by_proxy, by_reference = (token_logprobs(m, batch) for m in (proxy, trainer.ref_model))
    made = {}
    for name, rewards in (("ratio", by_proxy - by_reference), ("inverse", by_reference - by_proxy)):
        trainer.model.zero_grad()
        policy = token_logprobs(trainer.model, batch)
        refusals = -(torch.exp(rewards / rows.DOOR_TEMPERATURE) * policy)[: rows.DPO_PAIRS]
        answers = batch["completion_mask"][rows.DPO_PAIRS :, 1:]
        harmful = (policy - by_reference)[rows.DPO_PAIRS :]
        unlearned = -torch.nn.functional.logsigmoid(-beta * harmful) * 2 / beta * answers
        loss = refusals.sum(-1).mean() + unlearned.sum(-1).mean()
        loss.backward()
        squares = [p.grad.double().pow(2).sum() for p in trainer.model.parameters()]
        made |= {
            f"weighted_door/{name}/loss": np.array(loss.item()),
            f"weighted_door/{name}/grad_norm": np.array(torch.stack(squares).sum().sqrt().item()),
        }
    return made


def main() -> int:
    torch.set_num_threads(1)
    golden = compare.Golden(cases.FOLDER, compare.parse_check(__doc__ or ""), tolerance=1e-5)
    made = {}
    for name in rows.DPO_LOSSES:
        found, trainer = step_of(name)
        made |= found
        print(name, found[f"{name}/loss"], found[f"{name}/grad_norm"])
    made |= token_rows(trainer) | cpo_numbers(trainer) | weighted_door_numbers(trainer)
    golden.arrays(rows.DPO_FILE.name, made)
    return golden.finish()


if __name__ == "__main__":
    sys.exit(main())
