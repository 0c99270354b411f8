"""SIT and DPO of a real checkpoint on real rows, opened again by peft and torch."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import dpo as dpo_config
from configs import sft as sft_config
from safety_jax.base import meshes
from safety_jax.models.folders import hf, peft
from safety_jax.stages import dpo, sft
from safety_jax.training import metrics
from tests.opened import by_us

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.torch,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:peft"),
]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory) -> tuple[Path, Path]:
    """The base folder and the run: 24 steps, 500 safety rows among 1,904 benign ones."""
    shared = Path(os.environ["SAFETY_JAX_SHARED"])
    folder = tmp_path_factory.mktemp("runs") / "sit-500"
    base = shared / "models" / "aidreams260k-hf"
    safety = shared / "data/safety_tuned_llamas/training/safety_only_data_Instructions.json"
    config = sft_config.get_config("safety=500")
    config.update_from_flattened_dict(
        {
            "model.path": str(base),
            "model.parameter_dtype": "float32",
            "model.compute_dtype": "float32",
            "model.remat": "none",
            "lora.targets": ("all-linear",),
            "lora.dropout": 0.0,
            "data.train": (str(shared / "data/alpaca/alpaca_data_safety_only.json"),),
            "data.safety": str(safety),
            "data.overlong_prompt": "skip",
            "data.eval_rows": 100,
            "mesh.data": 8,
            "data.max_length": 256,
            "train.batch_size": 32,
            "train.max_steps": 24,
            "optim.learning_rate": 1e-2,
            "log.eval_every_steps": 12,
            "checkpoint.export_merged": True,
            "checkpoint.export_dtype": "float32",
        }
    )
    sft.run(config.lock(), str(folder))
    return base, folder


def test_validation_loss_falls(tuned):
    _, folder = tuned
    rows = metrics.read(folder / "metrics.jsonl")
    first = next(row["loss"] for row in rows if row["step"] == 1)
    evaluations = [row["eval/loss"] for row in rows if "eval/loss" in row]
    assert evaluations[-1] < evaluations[0] < first


@pytest.fixture(scope="module")
def preferred(tmp_path_factory) -> tuple[Path, Path]:
    """The base folder and the run: 8 steps of DPO on PKU-SafeRLHF's pairs."""
    shared = Path(os.environ["SAFETY_JAX_SHARED"])
    folder = tmp_path_factory.mktemp("runs") / "dpo"
    base = shared / "models" / "aidreams260k-hf"
    pairs = shared / "data/safe_to_serve/pku_safe_rlhf/DPO_safe_rlhf_eval_data.arrow"
    config = dpo_config.get_config()
    config.update_from_flattened_dict(
        {
            "model.path": str(base),
            "model.parameter_dtype": "float32",
            "model.compute_dtype": "float32",
            "model.remat": "none",
            "data.train": (f"{pairs}?rows=300&bad_rows=skip",),
            "data.prefer": "all",
            "data.eval_rows": 40,
            "data.max_length": 512,
            "data.overlong_prompt": "skip",
            "dpo.reference_folder": str(folder.parent / "reference"),
            "mesh.data": 8,
            "train.batch_size": 32,
            "train.rows_per_microbatch": 8,
            "train.max_steps": 8,
            "optim.learning_rate": 1e-2,
            "log.eval_every_steps": 4,
            "checkpoint.export_merged": True,
            "checkpoint.export_dtype": "float32",
        }
    )
    dpo.run(config.lock(), str(folder))
    return base, folder


def test_real_pairs_are_told_apart(preferred):
    _, folder = preferred
    rows = metrics.read(folder / "metrics.jsonl")
    margins = [row["rewards/margins"] for row in rows if "rewards/margins" in row]
    assert abs(margins[0]) < 1e-4 < margins[-1]


@pytest.mark.parametrize("run", ["tuned", "preferred"])
def test_peft_and_transformers_open_it(run, request):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base, folder = request.getfixturevalue(run)
    text = "### Instruction:\nName three animals.\n\n### Response:\n"
    ids = AutoTokenizer.from_pretrained(base)(text, return_tensors="np").input_ids
    mesh = meshes.build(1, 1, 1, devices=jax.devices()[:1])
    config = hf.read_config(base)
    adapters, _ = peft.load(folder / "export", config, mesh)
    weights = hf.load(base, config, mesh, jnp.float32)
    ours = by_us(config, weights, ids, mesh, adapters)
    plain = by_us(config, weights, ids, mesh)
    assert np.abs(ours - plain).max() > 0.1

    with torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        adapted = PeftModel.from_pretrained(model, folder / "export").eval()
        by_peft = adapted(torch.tensor(ids)).logits.numpy()
        merged = AutoModelForCausalLM.from_pretrained(folder / "merged").eval()
        by_transformers = merged(torch.tensor(ids)).logits.numpy()
    np.testing.assert_allclose(by_peft, ours, atol=1e-4)
    np.testing.assert_allclose(by_transformers, ours, atol=1e-4)
