"""A model is its weights and what its configs say of them: who edits a config has another one."""

import json

import pytest
from safetensors.numpy import save_file

from configs import sft as sft_config
from safety_jax.base.errors import CheckpointError, ConfigError
from safety_jax.models.folders import config_hash
from safety_jax.stages import groups
from safety_jax.training import workdir

BASE = {"model_type": "qwen2", "hidden_size": 8, "rope_theta": 1e6, "max_position_embeddings": 64}
LORA = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "use_rslora": False, "lora_dropout": 0.1}


def hashed_with(folder, attributes) -> str:
    (folder / "config.json").write_text(json.dumps(attributes))
    return config_hash.of_model(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
        {"rope_theta": 1e5},
        {"sliding_window": 16},
        {"text_config": {"hidden_size": 8}},
    ],
)
def test_what_may_change_the_model_is_part_of_it(change, tmp_path):
    assert hashed_with(tmp_path, BASE | change) != hashed_with(tmp_path, BASE)


def test_names_and_settings_of_generation_are_not(tmp_path):
    more = {"transformers_version": "5.1", "torch_dtype": "bfloat16", "eos_token_id": [1, 2]}
    assert hashed_with(tmp_path, BASE | more) == hashed_with(tmp_path, dict(reversed(BASE.items())))
    nested = {"text_config": BASE | more}, {"text_config": BASE}
    assert hashed_with(tmp_path, nested[0]) == hashed_with(tmp_path, nested[1])
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="config.json"):
        config_hash.of_model(tmp_path)


def test_a_scorer_is_also_what_is_said_of_its_head(tmp_path):
    def hashed(**change) -> str:
        given = BASE | {"id2label": {"0": "safe", "1": "unsafe"}, "pad_token_id": 0} | change
        (tmp_path / "config.json").write_text(json.dumps(given))
        return config_hash.of_scorer(tmp_path)

    assert hashed(transformers_version="5.1", classifier_dropout=0.1) == hashed()
    changes = [
        {},
        {"id2label": {"0": "unsafe", "1": "safe"}},
        {"pad_token_id": 1},
        {"num_labels": 2},
        {"architectures": ["LlamaForScore"]},
        {"rope_theta": 1e5},
    ]
    assert len({hashed(**change) for change in changes}) == len(changes)


def test_an_adapter_is_as_strong_as_its_config_says(tmp_path):
    def hashed(**change) -> str:
        (tmp_path / "adapter_config.json").write_text(json.dumps(LORA | change))
        return config_hash.of_adapter(tmp_path)

    assert hashed(lora_dropout=0.0, base_model_name_or_path="elsewhere") == hashed()
    assert len({hashed(), hashed(lora_alpha=16), hashed(use_rslora=True)}) == 3


def test_a_run_goes_on_with_the_configs_that_it_began_with(tmp_path):
    """The weights are the same at every start."""
    folder, adapter = tmp_path / "model", tmp_path / "adapter"
    for place, name in ((folder, "model"), (adapter, "adapter_model")):
        place.mkdir()
        save_file({}, place / f"{name}.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps(LORA))
    hashed_with(folder, BASE)
    config = sft_config.get_config()
    config.model.path, config.model.adapter = str(folder), str(adapter)
    with workdir.prepare(tmp_path / "run", config) as place:
        place.remember(groups.model_identity(config, folder))
        hashed_with(folder, BASE | {"transformers_version": "5.2"})
        place.remember(groups.model_identity(config, folder))
        hashed_with(folder, BASE | {"rope_scaling": {"rope_type": "linear", "factor": 2.0}})
        with pytest.raises(ConfigError, match=f"began with other contents: model.path {folder}, c"):
            place.remember(groups.model_identity(config, folder))
        hashed_with(folder, BASE)
        (adapter / "adapter_config.json").write_text(json.dumps(LORA | {"lora_alpha": 1}))
        with pytest.raises(ConfigError, match=f"other contents: model.adapter {adapter}, config"):
            place.remember(groups.model_identity(config, folder))
