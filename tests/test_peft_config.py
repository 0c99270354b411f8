"""adapter_config.json in and out: settings, targets, and what is more than LoRA."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from safety_jax.base.errors import CheckpointError
from safety_jax.models import lora
from safety_jax.models.folders import hf_config, hub, peft, peft_config
from tests.adapter_folders import (
    CASE,
    LAYERS,
    MANY,
    RANK,
    SIZES,
    adapter_tensors,
    refusal,
    write_adapter,
)
from tests.golden import cases


@pytest.fixture(scope="module")
def config():
    return hf_config.parse(cases.read_config(CASE), CASE)


def test_settings_and_scale(tmp_path, config, one_device):
    adapters, settings = peft.load(write_adapter(tmp_path), config, one_device)
    assert settings == peft_config.LoraConfig(
        rank=4,
        alpha=16.0,
        dropout=0.05,
        targets=("query", "value", "down"),
        rslora=False,
        base_name="some/base",
        dtype="float32",
    )
    assert (adapters.scale, adapters.dropout) == (4.0, 0.05)
    stabilised, settings = peft.load(write_adapter(tmp_path, use_rslora=True), config, one_device)
    assert settings.rslora and stabilised.scale == 8.0


ASKED = {
    "names": ["q_proj", "self_attn.v_proj", "down_proj"],
    "a rule": r".*\.(q_proj|v_proj|down_proj)",
    # what peft makes of "all-linear"
    "paths": [f"model.layers.{layer}.{module}" for layer in range(LAYERS) for module in MANY],
    "ends of paths": [f"{layer}.{module}" for layer in range(LAYERS) for module in MANY],
}


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
def test_target_modules_by_name_and_by_rule(asked, tmp_path, config, one_device):
    folder = write_adapter(tmp_path, target_modules=asked)
    assert peft.load(folder, config, one_device)[1].targets == ("query", "value", "down")


@pytest.mark.parametrize("rule", ["(", "a{99999999999}", "(" * 5000])
def test_a_rule_that_is_no_pattern_chooses_nothing(rule):
    assert not peft_config.chooses(rule, "model.layers.0.self_attn.q_proj")


def test_all_linear(tmp_path, config, one_device):
    folder = write_adapter(tmp_path, adapter_tensors(tuple(SIZES)), target_modules="all-linear")
    assert peft.load(folder, config, one_device)[1].targets == tuple(lora.TARGETS.values())


def test_an_old_and_short_config(tmp_path, config, one_device):
    """Releases of 2023 wrote a third of the attributes."""
    folder = write_adapter(tmp_path)
    short = {"peft_type": "LORA", "r": 4, "lora_alpha": 16, "target_modules": ["q_proj"]}
    (folder / peft_config.CONFIG).write_text(json.dumps(short))
    save_file(adapter_tensors(("self_attn.q_proj",)), folder / peft.WEIGHTS)
    settings = peft.load(folder, config, one_device)[1]
    assert (settings.dropout, settings.rslora, settings.base_name) == (0.0, False, "")


def test_exported_attributes(tmp_path, config, one_device):
    adapters, settings = peft.load(write_adapter(tmp_path / "in"), config, one_device)
    settings = dataclasses.replace(settings, base_name="my/base")
    peft.export(tmp_path / "out", adapters, settings)
    expected = {peft_config.CONFIG, peft.WEIGHTS}
    assert {path.name for path in (tmp_path / "out").iterdir()} == expected
    theirs = json.loads((tmp_path / "in" / peft_config.CONFIG).read_text())
    ours = json.loads((tmp_path / "out" / peft_config.CONFIG).read_text())
    assert ours.pop("base_model_name_or_path") == "my/base"
    assert sorted(ours.pop("target_modules")) == theirs["target_modules"]
    for name, value in ours.items():
        assert value == theirs[name] and type(value) is type(theirs[name]), name


def test_settings_of_other_adapters_are_a_bug(tmp_path, config, one_device):
    adapters, settings = peft.load(write_adapter(tmp_path / "in"), config, one_device)
    for change in ({"alpha": 8.0}, {"targets": ("query",)}):
        with pytest.raises(ValueError, match="given with"):
            peft.export(tmp_path / "out", adapters, dataclasses.replace(settings, **change))


ATTRIBUTES = {
    "another method": ({"peft_type": "IA3"}, "peft_type 'IA3'"),
    "another task": ({"task_type": "SEQ_CLS"}, "task_type 'SEQ_CLS'"),
    "ranks by module": ({"rank_pattern": {"q_proj": 8}}, "rank_pattern = {'q_proj': 8}"),
    "alphas by module": ({"alpha_pattern": {"q_proj": 8}}, "alpha_pattern"),
    "biases": ({"bias": "all"}, "bias = 'all'"),
    "whole modules": ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    "DoRA": ({"use_dora": True}, "use_dora = True"),
    "layer 3 of 2": (
        {"layers_to_transform": 3},
        "layers_to_transform = 3; expected numbers from 0",
    ),
    "a layer by name": ({"layers_to_transform": ["0"]}, "expected numbers from 0"),
    "transposed": ({"fan_in_fan_out": True}, "fan_in_fan_out"),
    "bias of B": ({"lora_bias": True}, "lora_bias"),
    "tokens": ({"trainable_token_indices": [1]}, "trainable_token_indices"),
    "replicated layers": ({"layer_replication": [[0, 1], [0, 2]]}, "layer_replication"),
    "a feature of a newer release": ({"use_new_thing": 3}, "use_new_thing = 3"),
    "PiSSA": ({"init_lora_weights": "pissa"}, "also changed the base"),
    "OLoRA": ({"init_lora_weights": "olora"}, "also changed the base"),
    "no rank": ({"r": None}, "expected r >= 1"),
    "rank 0": ({"r": 0}, "expected r >= 1"),
    "rank true": ({"r": True}, "expected r >= 1"),
    "endless alpha": ({"lora_alpha": 1e999}, "lora_alpha inf"),
    "alpha as text": ({"lora_alpha": "16"}, "lora_alpha '16'"),
    "dropout of 1": ({"lora_dropout": 1.0}, "a probability"),
    "RS-LoRA as text": ({"use_rslora": "false"}, "use_rslora 'false'; expected true or false"),
    "no targets": ({"target_modules": None}, "target_modules None"),
    "another rank": ({"r": 8}, "has shape [4, 32]"),
    "a target without keys": ({"target_modules": ["q_proj", "k_proj"]}, "target_modules: k_proj"),
    "an adapted head": ({"target_modules": ["q_proj", "lm_head"]}, "target_modules: lm_head"),
}


@pytest.mark.parametrize("case", ATTRIBUTES)
def test_what_is_more_than_lora_is_refused(case, tmp_path, config, one_device):
    changes, message = ATTRIBUTES[case]
    folder = write_adapter(tmp_path / "adapter", **changes)
    found = refusal(folder, config, one_device)
    assert message in found and "adapter" in found
    broken = ("expected r >= 1", "lora_alpha", "a probability", "target_modules None", "shape")
    broken += ("expected numbers from 0", "expected true or false")
    assert any(word in message for word in broken) or "merge_and_unload()" in found


AS_GOOD_AS_PLAIN = {
    "all layers by number": {"layers_to_transform": [1, 0], "layers_pattern": "layers"},
    "the same rank and alpha by module": {
        "rank_pattern": {"q_proj": RANK}, "alpha_pattern": {".*v_proj": 16},
    },
    "an excluded target": {
        "target_modules": ["q_proj", "v_proj", "down_proj", "k_proj", "lm_head"],
        "exclude_modules": ["self_attn.k_proj", "k_proj", "lm_head"],
    },
    "an excluded target by rule": {
        "target_modules": ["q_proj", "v_proj", "down_proj", "up_proj"],
        "exclude_modules": r".*\.(up|gate)_proj",
    },
}  # fmt: skip


@pytest.mark.parametrize("case", AS_GOOD_AS_PLAIN)
def test_what_says_the_same_in_other_words_loads(case, tmp_path, config, one_device):
    plain = peft.load(write_adapter(tmp_path / "plain"), config, one_device)
    other = write_adapter(tmp_path / "other", **AS_GOOD_AS_PLAIN[case])
    found = peft.load(other, config, one_device)
    assert found[1] == plain[1]
    for one, same in zip(jax.tree.leaves(found[0]), jax.tree.leaves(plain[0]), strict=True):
        np.testing.assert_array_equal(one, same)


def test_the_base_is_found_from_here_or_from_the_adapter(tmp_path, monkeypatch):
    base, adapter = tmp_path / "models" / "base", tmp_path / "models" / "adapter"
    base.mkdir(parents=True)
    write_adapter(adapter, base_model_name_or_path="../base")
    monkeypatch.chdir(tmp_path)
    assert peft_config.base_folder(adapter).samefile(base)
    (tmp_path / "near").mkdir()
    write_adapter(adapter, base_model_name_or_path="near")
    assert peft_config.base_folder(adapter).samefile(tmp_path / "near")
    for named in ("./nowhere", "", None, ["x"], "x" * 300, "x/" * 3000, "a\ud800b"):
        write_adapter(adapter, base_model_name_or_path=named)
        with pytest.raises(CheckpointError, match="adapter_config.json: base_model_name_or_path"):
            peft_config.base_folder(adapter)


def test_the_base_from_the_hub_is_of_the_revision_that_the_adapter_names(tmp_path, monkeypatch):
    """As in `AutoPeftModel.from_pretrained`."""
    asked = []

    def download(repository, revision=None, **_):
        asked.append((repository, revision))
        (tmp_path / "base").mkdir(exist_ok=True)
        (tmp_path / "base" / "model.safetensors").touch()
        return str(tmp_path / "base")

    monkeypatch.setattr(hub.huggingface_hub, "snapshot_download", download)
    for revision in (None, "v1.1"):
        adapter = write_adapter(
            tmp_path / "adapter", base_model_name_or_path="an/other", revision=revision
        )
        peft_config.base_folder(adapter)
    assert asked == [("an/other", None), ("an/other", "v1.1")]
    write_adapter(adapter, base_model_name_or_path="an/other", revision=["v1.1"])
    with pytest.raises(
        CheckpointError, match="revision is .* expected that of the base at the hub"
    ):
        peft_config.base_folder(adapter)
