"""The ladder on the papers' data: `configs/recipe.py:real,slice` with a tiny model."""

import json
import os
from pathlib import Path

import pytest

from configs import recipe as recipe_config
from safety_jax.stages import dpo, evaluate, precision, raft, recipe, reward, sft

pytestmark = [pytest.mark.real_data, pytest.mark.slow]

RUNS = {"sft": sft.run, "reward": reward.run, "raft": raft.run, "dpo": dpo.run,
        "evaluate": evaluate.run}  # fmt: skip
STAGES = {
    name: lambda config, folder, run=run: run(precision.settled(config, "cpu"), folder)
    for name, run in RUNS.items()
}  # as main.py has them
JUDGES = ("judge", "looker", "guard1", "guard2")


def test_the_real_ladder_ends_in_a_report(tmp_path):
    shared = Path(os.environ["SAFETY_JAX_SHARED"])
    config = recipe_config.get_config("real,slice")
    model = str(shared / "models" / "aidreams260k-hf")
    values = {"recipe.base": model, "recipe.trunk": model, "recipe.data": str(shared / "data")}
    for step in (*JUDGES, "sit", "raft", "dpo", "report"):
        values |= {f"{step}.data.template": "plain", f"{step}.data.max_length": 120}
    for step in ("raft", "report"):
        values[f"{step}.sample.lanes"] = 8  # tests have eight devices
    config.update_from_flattened_dict(values)
    recipe.run(config.lock(), str(tmp_path / "ladder"), STAGES)
    found = json.loads((tmp_path / "ladder" / "report" / "report.json").read_text())
    assert list(found["models"]) == ["base", "sit", "raft", "dpo"]
    assert (found["safety"], found["helpfulness"]) == ("guard", "judge")
    compared = {(c["second"], c["measure"]) for c in found["comparisons"]}
    expected = {("dpo", "refused"), ("raft", "mean/judge"), ("sit", "mean/looker")}
    assert expected <= compared
