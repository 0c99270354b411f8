"""A run that goes on from an adapter is a run of that adapter's rank, alpha, targets and layers; of
its base all is looked at before it trains."""

import json
import shutil

import pytest

from configs import dpo, sft
from safety_jax.base.errors import CheckpointError
from safety_jax.stages import continued, groups, results
from tests.adapter_folders import CASE, adapter_tensors, write_adapter
from tests.hf_folders import write_folder


@pytest.fixture
def config(tmp_path):
    config = sft.get_config()
    config.model.path = str(write_folder(tmp_path / "base", CASE))
    config.model.adapter = str(
        write_adapter(tmp_path / "adapter", base_model_name_or_path="an/other")
    )
    config.lora.rank, config.lora.layers = 32, "0"
    config.lora.rslora = True
    return config


def test_the_adapter_says_what_is_trained(config, capsys):
    found = continued.settled(config)
    assert (found.lora.rank, found.lora.alpha, found.lora.rslora) == (4, 16.0, False)
    assert found.lora.targets == ("q_proj", "v_proj", "down_proj") and found.lora.layers == ""
    assert found.lora.dropout == config.lora.dropout
    told = capsys.readouterr().out
    assert "has rank 4, alpha 16, on q_proj, v_proj, down_proj of all layers" in told
    # Another base has other weights, and what was learned on it need not fit.
    assert "warning: it names an/other as its base" in told
    assert config.lora.rank == 32


def test_an_adapter_on_some_layers(config, tmp_path, capsys):
    tensors = {k: v for k, v in adapter_tensors().items() if ".layers.1." in k}
    write_adapter(tmp_path / "adapter", tensors, layers_to_transform=[1], use_rslora=True,
                  base_model_name_or_path="/elsewhere/base")  # fmt: skip
    found = continued.settled(config)
    assert found.lora.layers == "1" and found.lora.rslora
    told = capsys.readouterr().out
    assert "alpha 16, rank-stabilised, on" in told and "warning" not in told


def test_the_card_says_what_it_began_with(config):
    assert results.began_with(config) == f" It began with the adapter `{config.model.adapter}`."
    config.model.adapter = ""
    assert results.began_with(config) == ""


def test_without_an_adapter_nothing_changes(config):
    config.lora.rank = 0  # it is merged, and all weights are trained
    assert continued.settled(config) is config
    config = dpo.get_config()
    assert continued.settled(config) is config


def test_an_adapter_that_cannot_be_gone_on_from(config, tmp_path):
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"use_dora": True}))
    with pytest.raises(CheckpointError, match="not supported: use_dora = True; merge it"):
        continued.settled(config)
    for kind, way_out in (("IA3", "merge it"), ("PROMPT_TUNING", "cannot be merged either")):
        file.write_text(json.dumps({"peft_type": kind, "task_type": "CAUSAL_LM"}))
        with pytest.raises(CheckpointError, match=f"peft_type '{kind}'.*{way_out}"):
            continued.settled(config)


# ---------------------------------------------------------------------------- the base


def test_what_an_export_copies_is_looked_at_before_training(tmp_path, one_device):
    config = sft.get_config("demo")
    shutil.copytree(config.model.path, tmp_path / "base")
    config.model.path = str(tmp_path / "base")
    (tmp_path / "base" / "generation_config.json").write_text('{"eos_token_id": [2], ')
    with pytest.raises(CheckpointError, match=r"generation_config\.json: not valid JSON"):
        groups.base(config, one_device)
    (tmp_path / "base" / "generation_config.json").write_text('{"eos_token_id": "</s>"}')
    with pytest.raises(CheckpointError, match="eos_token_id is '</s>'; expected a token id"):
        groups.base(config, one_device)
