"""Attributes of config.json that only transformers knows: told, or ignored as it ignores them."""

import pytest
import transformers

from safety_jax.models.folders import families, hf_config, upstream
from tests.golden import cases


def parse(**attributes):
    return hf_config.parse(attributes, "config.json")


LLAMA = cases.read_config("llama_grouped")


def test_what_does_not_matter_is_ignored(capsys):
    noise = {
        "_name_or_path": "x",
        "torch_dtype": "float16",
        "attention_dropout": 0.1,
        "top_p": 0.9,
        "pretraining_tp": 1,
        "quantization_config": None,
        "use_mrope": False,
        "is_causal": True,
        "layer_types": ["full_attention"] * LLAMA["num_hidden_layers"],
    }
    assert hf_config.parse(LLAMA | noise, "x") == hf_config.parse(LLAMA, "x")
    assert not capsys.readouterr().out


def test_what_transformers_does_not_read_is_told_once_and_changes_nothing(capsys):
    """Found by running transformers with each: its logits and answers stay the same."""
    noise = {
        "gate_kind": "swiglu",
        "max_seq_length": 512,
        "pretraining_tp": 2,
        "tie_encoder_decoder": True,
        "use_sliding_window": True,
        "logit_softcap": 30.0,
        "\x1b[1m": [],
    }
    for _ in range(2):
        assert hf_config.parse(LLAMA | noise, "m/config.json") == hf_config.parse(LLAMA, "x")
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("note: m/config.json: ") and "pretraining_tp = 2, " in line
    assert "'\\x1b[1m' = []" in line and "does not read this of a llama model" in line
    for named in (["LlamaModel"], ["MyLlamaForCausalLM"]):
        assert hf_config.parse(LLAMA | {"architectures": named}, "") == hf_config.parse(LLAMA, "")


@pytest.mark.parametrize("model_type", families.FAMILIES)
def test_what_transformers_reads_is_found_in_its_source(model_type):
    """Every size of its configuration, what its mask and its cache read, and no more."""
    read = upstream.read_by_transformers(model_type)
    family = families.FAMILIES[model_type]
    implemented = {
        "hidden_size",
        "num_hidden_layers",
        family.activation,
        "rms_norm_eps",
        "head_dim",
    }
    elsewhere = {"is_causal", "attention_chunk_size", "sliding_window", "partial_rotary_factor"}
    assert implemented | elsewhere <= read
    assert not read & {"activation", "pretraining_tp", "unk_token_id", "use_mrope", "is_decoder"}
    assert ("use_bidirectional_attention" in read) == model_type.startswith("gemma")


def test_without_its_source_what_the_configuration_declares_counts_as_read(monkeypatch, tmp_path):
    monkeypatch.setattr(transformers, "__file__", str(tmp_path / "__init__.py"))
    read = upstream.read_by_transformers.__wrapped__("llama")
    assert {"hidden_size", "pretraining_tp"} <= read and "activation" not in read
