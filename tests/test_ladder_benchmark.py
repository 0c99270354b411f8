"""A finished run learned again in TRL + PEFT (tests/benchmarks/ladder.py): the same losses, and an
adapter of the same numbers."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from safety_jax.base.errors import ConfigError
from safety_jax.stages import dpo, sft
from tests import test_dpo, test_end_to_end
from tests.benchmarks import ladder
from tests.test_dpo import pairs  # noqa: F401
from tests.test_end_to_end import inputs  # noqa: F401

WEIGHTS = "export/adapter_model.safetensors"
# A warm-up and a fall, so that the rates of both are seen to be the same.
SCHEDULE = {"optim__schedule": "cosine", "optim__warmup_steps": 2, "train__max_steps": 4,
            "train__batch_size": 8}  # fmt: skip


@pytest.mark.torch
@pytest.mark.parametrize("weight", [1.0, 6.0])
def test_sft_in_trl_learns_the_same(weight, inputs, tmp_path):  # noqa: F811
    config = test_end_to_end.configure(inputs, **SCHEDULE, sft__early_weight=weight)
    sft.run(config, str(tmp_path / "ours"))
    same(ladder.compare(tmp_path / "ours", tmp_path / "trl"), tmp_path)


@pytest.mark.torch
def test_dpo_in_trl_learns_the_same(inputs, pairs, tmp_path):  # noqa: F811
    config = test_dpo.configure(inputs, dpo__nll_weight=1.0, **SCHEDULE)
    dpo.run(config, str(tmp_path / "ours"))
    same(ladder.compare(tmp_path / "ours", tmp_path / "trl"), tmp_path)


def same(found: ladder.Compared, folder) -> None:
    assert list(found.ours) == [1, 2, 3, 4]
    assert found.worst < 2e-5, str(found)
    ours, theirs = (load_file(folder / name / WEIGHTS) for name in ("ours", "trl"))
    assert ours.keys() == theirs.keys()
    for name, weights in ours.items():
        assert np.abs(weights).max() > 1e-3, "B begins at 0, and has moved"
        np.testing.assert_allclose(weights, theirs[name], atol=2e-4, err_msg=name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lora__dropout": 0.1}, "lora.dropout is 0.1; expected 0"),
        ({"lora__rank": 0}, "lora.rank is 0; expected adapters"),
        ({"sft__objective": "constrained"}, "the objective is constrained; expected likelihood"),
    ],
)
def test_runs_that_nobody_can_repeat_are_refused(change, message, inputs, tmp_path):  # noqa: F811
    config = test_end_to_end.configure(inputs, **change).to_dict()
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "identity.json").write_text("{}")
    with pytest.raises(ConfigError, match=message):
        ladder.read_config(tmp_path)
