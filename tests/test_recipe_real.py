"""The ladder on real data: `configs/recipe.py:real` as it stands, but short."""

import json
import os
from pathlib import Path

import pytest

from configs import recipe as recipe_config
from safety_jax.stages import dpo, evaluate, raft, recipe, reward, sft

pytestmark = [pytest.mark.real_data, pytest.mark.slow]

STAGES = {"sft": sft.run, "reward": reward.run, "raft": raft.run, "dpo": dpo.run,
          "evaluate": evaluate.run}  # fmt: skip
PAIRS = "@data/safe_to_serve/pku_safe_rlhf/DPO_safe_rlhf_eval_data.arrow?bad_rows=skip&rows=300"
SHORT = {
    "sit.data.eval_rows": 20,
    "sit.train.max_steps": 2,
    "judge.data.train": (PAIRS,),
    "judge.data.eval_rows": 40,
    "judge.train.max_steps": 2,
    "raft.raft.rounds": 1,
    "raft.raft.prompts": 16,
    "raft.raft.unfinished": "keep",
    "raft.sample.candidates": 2,
    "raft.train.max_steps": 1,
    "dpo.data.train": (PAIRS,),
    "dpo.data.eval_rows": 40,
    "dpo.train.max_steps": 2,
    "report.evaluate.sets": ("I-CoNa?rows=16", "XSTest-safe?rows=16"),
    "report.evaluate.resamples": 200,
}


def test_the_real_ladder_ends_in_a_report(tmp_path):
    shared = Path(os.environ["SAFETY_JAX_SHARED"])
    config = recipe_config.get_config("real")
    values = {
        "recipe.base": str(shared / "models" / "aidreams260k-hf"),
        "recipe.data": str(shared / "data"),
        **SHORT,
    }
    for step in ("sit", "judge", "raft", "dpo"):
        values |= {f"{step}.data.max_length": 120, f"{step}.train.rows_per_microbatch": 8}
    for step in ("sit", "raft", "dpo", "report"):
        values[f"{step}.data.template"] = "plain"
    for group in ("raft.sample", "raft.answer", "report.answer"):
        values[f"{group}.max_new_tokens"] = 16
    values["report.data.max_length"] = 120
    config.update_from_flattened_dict(values)
    recipe.run(config.lock(), str(tmp_path / "ladder"), STAGES)
    found = json.loads((tmp_path / "ladder" / "report" / "report.json").read_text())
    assert list(found["models"]) == ["base", "sit", "raft", "dpo"]
    assert found["helpfulness"] == "judge"
    compared = {(c["second"], c["measure"]) for c in found["comparisons"]}
    assert {("dpo", "refused"), ("raft", "mean/judge"), ("sit", "median/judge")} <= compared
