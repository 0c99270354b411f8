"""Losses, gradients, optimizer steps and schedules of transformers and peft; needs torch.

    python -m tests.golden.make_sft            writes tests/golden/sft.npz
    python -m tests.golden.make_sft --check    compares with it at 1e-5; exit code 1 on difference

Model, batches, adapters and numbers are those of `rows.py`.
"""

import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments, get_scheduler

from tests.golden import cases, compare, rows

Named = dict[str, np.ndarray]


def reference_model() -> torch.nn.Module:
    config = cases.read_config(rows.MODEL)
    with tempfile.TemporaryDirectory() as folder:
        cases.write_folder(Path(folder), config)
        return AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        )


def adapted_model(targets: tuple[str, ...]) -> torch.nn.Module:
    """PEFT's model with the shared A and B written into it, each exactly once."""
    settings = LoraConfig(
        r=rows.RANK,
        lora_alpha=rows.ALPHA,
        target_modules=list(targets),
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(reference_model(), settings)
    shared = rows.adapters(cases.read_config(rows.MODEL), targets)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            with torch.no_grad():
                parameter.copy_(torch.from_numpy(shared.pop(short_name(name))))
    if shared:
        raise RuntimeError(f"peft has no place for {sorted(shared)}")
    return model


def short_name(name: str) -> str:
    """peft's `base_model.model.X.lora_A.default.weight` -> `X.A`; other names as they are."""
    name = name.removeprefix("base_model.model.")
    return name.replace(".lora_A.default.weight", ".A").replace(".lora_B.default.weight", ".B")


def loss_of(model: torch.nn.Module, step: int) -> torch.Tensor:
    """transformers' own loss: the mean over the trained tokens of the whole batch."""
    ids, mask = rows.batch(step)
    inside = np.arange(rows.TOKENS) < rows.lengths(step)[:, None]
    labels = np.where(mask, ids, -100)
    ids, inside, labels = (torch.from_numpy(x) for x in (ids, inside.astype(np.int64), labels))
    return model(input_ids=ids, attention_mask=inside, labels=labels).loss


def gradients(model: torch.nn.Module) -> Named:
    return {
        short_name(name): parameter.grad.numpy()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def summary(prefix: str, named: Named) -> Named:
    """Norms, in the order of sorted names, and the corner of each array."""
    order = sorted(named)
    norms = {f"{prefix}/names": np.array(order)}
    norms[f"{prefix}/norms"] = np.array([np.linalg.norm(named[name]) for name in order])
    corners = {f"{prefix}/corner/{name}": named[name][:3][..., :5] for name in order}
    return norms | corners


def train(model: torch.nn.Module) -> tuple[Named, Named]:
    """Steps as the HF trainer takes them: clip by global norm, then AdamW with its decay groups.

    Returns:
        losses and unclipped gradient norms by step; the weights afterwards.
    """
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            learning_rate=rows.ADAMW["learning_rate"],
            weight_decay=rows.ADAMW["weight_decay"],
            report_to=[],
        )
        groups = Trainer(model, arguments).create_optimizer().param_groups
    optimizer = torch.optim.AdamW(
        [{key: group[key] for key in ("params", "weight_decay")} for group in groups],
        lr=rows.ADAMW["learning_rate"],
        betas=(rows.ADAMW["beta1"], rows.ADAMW["beta2"]),
        eps=rows.ADAMW["epsilon"],
    )
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    losses, norms = [], []
    for step in range(rows.STEPS):
        loss = loss_of(model, step)
        optimizer.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(trainable, rows.ADAMW["clip_norm"]))
        losses.append(loss.detach())
        optimizer.step()
    curves = {"losses": stack(losses), "gradient_norms": stack(norms)}
    trained = {
        short_name(name): parameter.detach().numpy()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    return curves, trained


def stack(values: Iterable[torch.Tensor]) -> np.ndarray:
    return np.array([float(value) for value in values])


def full_tuning() -> Named:
    model = reference_model()
    loss_of(model, 0).backward()
    made = summary("full/gradient", gradients(model))
    model.zero_grad()
    curves, trained = train(model)
    made |= {f"full/{key}": value for key, value in curves.items()}
    return made | summary("full/trained", trained)


def lora(kind: str) -> Named:
    model = adapted_model(rows.TARGETS[kind])
    ids, _ = rows.batch(0)
    with torch.no_grad():
        # One short row: enough to pin scale and orientation of every adapted projection.
        made = {f"{kind}/logits": model(torch.from_numpy(ids[:1, :12])).logits.numpy()}
    loss_of(model, 0).backward()
    made |= summary(f"{kind}/gradient", gradients(model))
    model.zero_grad()
    curves, trained = train(model)
    made |= {f"{kind}/{key}": value for key, value in curves.items()}
    return made | {f"{kind}/trained/{name}": value for name, value in trained.items()}


def schedules() -> Named:
    """Rates of the steps 0, 1, ... for a peak of 1."""
    made = {}
    for ours, theirs in {
        "constant": "constant_with_warmup",
        "linear": "linear",
        "cosine": "cosine",
    }.items():
        for warmup in (0, rows.SCHEDULE_WARMUP):
            optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
            scheduler = get_scheduler(
                theirs,
                optimizer,
                num_warmup_steps=warmup,
                num_training_steps=rows.SCHEDULE_STEPS,
            )
            rates = []
            for _ in range(rows.SCHEDULE_STEPS):
                rates.append(scheduler.get_last_lr()[0])
                optimizer.step()
                scheduler.step()
            made[f"schedule/{ours}/{warmup}"] = np.array(rates)
    return made


def main() -> int:
    torch.set_num_threads(1)
    golden = compare.Golden(cases.FOLDER, compare.parse_check(__doc__ or ""), tolerance=1e-5)
    made = full_tuning() | schedules()
    for kind in rows.TARGETS:
        made |= lora(kind)
    for key, value in made.items():
        if key.endswith(("losses", "gradient_norms")):
            print(key, value)
    golden.arrays(rows.FILE.name, made)
    return golden.finish()


if __name__ == "__main__":
    sys.exit(main())
