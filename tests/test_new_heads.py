"""New score heads on the trunks of language models, and the folders that they become."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from safety_jax.base.errors import CheckpointError
from safety_jax.models.encoders import heads, score_head
from tests.golden import cases, score_cases
from tests.test_heads import scorer_of, scores_of
from tests.test_heads_folder import GIGABYTES


def test_a_head_on_a_language_model(tmp_path, one_device):
    """From a folder with a language-model head, and from one of the trunk alone."""
    config = cases.read_config("llama_grouped")
    source = cases.write_folder(tmp_path / "source", config)
    scorer = heads.new_scorer(source, ("reward",), "regression")
    key = jax.random.key(1)
    weights = heads.load_trunk(source, scorer, key, one_device, jnp.float32)
    assert set(weights["score"]) == {"output"} and "head" not in weights
    tensors = load_file(source / "model.safetensors")
    np.testing.assert_array_equal(weights["embedding"], tensors["model.embed_tokens.weight"])

    bare = {name.removeprefix("model."): array for name, array in tensors.items()}
    del bare["lm_head.weight"]
    save_file(bare, source / "model.safetensors")
    again = heads.load_trunk(source, scorer, key, one_device, jnp.float32)
    for found, expected in zip(*map(jax.tree.leaves, (again, weights)), strict=True):
        np.testing.assert_array_equal(found, expected)

    heads.export(tmp_path / "export", weights, scorer, source, jnp.float32, GIGABYTES)
    written = json.loads((tmp_path / "export" / "config.json").read_text())
    assert written["architectures"] == ["LlamaForSequenceClassification"]
    assert written["id2label"] == {"0": "reward"} and written["problem_type"] == "regression"
    assert heads.read_scorer(tmp_path / "export") == scorer


def test_a_head_on_a_masked_language_model(tmp_path, one_device):
    """BERT's pooler is read where the folder has one; the classifier is fresh."""
    source = score_cases.write_case(tmp_path, "bert", architectures=["BertForMaskedLM"])
    tensors = load_file(source / "model.safetensors")
    del tensors["classifier.weight"], tensors["classifier.bias"]
    tensors["cls.predictions.bias"] = np.zeros(score_cases.VOCABULARY, np.float32)
    save_file(tensors, source / "model.safetensors")
    scorer = heads.new_scorer(source, ("a", "b", "c"), "multi_label_classification")
    weights = heads.load_trunk(source, scorer, jax.random.key(0), one_device, jnp.float32)
    pooler = tensors["bert.pooler.dense.weight"]
    np.testing.assert_array_equal(weights["score"]["dense"]["kernel"], pooler)
    assert weights["score"]["output"]["kernel"].shape == (3, 32)

    without = {name: array for name, array in tensors.items() if "pooler" not in name}
    save_file(without, source / "model.safetensors")
    weights = heads.load_trunk(source, scorer, jax.random.key(0), one_device, jnp.float32)
    assert np.abs(weights["score"]["dense"]["kernel"]).max() < 0.2
    save_file(without | {"bert.extra": pooler}, source / "model.safetensors")
    with pytest.raises(CheckpointError, match="unexpected bert.extra"):
        heads.load_trunk(source, scorer, jax.random.key(0), one_device, jnp.float32)


def test_gpt2_as_the_hub_has_it(tmp_path, one_device):
    """Names without prefix, and the causal mask as a tensor."""
    source = score_cases.write_case(tmp_path, "gpt2", architectures=["GPT2LMHeadModel"])
    tensors = load_file(source / "model.safetensors")
    bare = {name.removeprefix("transformer."): array for name, array in tensors.items()}
    del bare["score.weight"]
    bare["h.0.attn.bias"] = np.ones((1, 1, 64, 64), np.float32)
    save_file(bare, source / "model.safetensors")
    scorer = heads.new_scorer(source, ("reward",), "regression")
    weights = heads.load_trunk(source, scorer, jax.random.key(0), one_device, jnp.float32)
    kernel = tensors["transformer.h.1.mlp.c_fc.weight"]
    np.testing.assert_array_equal(weights["layers"]["up"]["kernel"][1], kernel.T)


TOKENIZERS = {"own padding": ("<pad>", 3), "padding that ends": ("</s>", None)}


@pytest.mark.parametrize("case", TOKENIZERS)
def test_padding_of_the_exported_config(case, tmp_path, one_device):
    """transformers finds the last token by this id: it must never be one that ends a text."""
    token, expected = TOKENIZERS[case]
    source = cases.write_folder(tmp_path / "source", cases.read_config("llama_grouped"))
    added = {"2": {"content": "</s>"}, "3": {"content": "<pad>"}}
    settings = {"eos_token": "</s>", "pad_token": token, "added_tokens_decoder": added}
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    scorer = heads.new_scorer(source, ("reward",), "regression")
    weights = heads.load_trunk(source, scorer, jax.random.key(0), one_device, jnp.float32)
    heads.export(tmp_path / "export", weights, scorer, source, jnp.float32, GIGABYTES)
    written = json.loads((tmp_path / "export" / "config.json").read_text())
    assert written["pad_token_id"] == expected
    assert (tmp_path / "export" / "tokenizer_config.json").exists()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, 0),
        ({"pad_token_id": None}, None),
        ({"pad_token_id": 3}, 3),
        ({"model_type": "llama"}, None),
        ({"model_type": "phi3"}, 32000),
        ({"model_type": "phi3", "vocab_size": 256}, None),
    ],
)
def test_padding_that_a_config_leaves_out(given, expected):
    """transformers writes no value that is its class's default: 0 for Gemma, 32000 for Phi-3."""
    assert score_head.padding({"model_type": "gemma"} | given) == expected


def test_a_judge_skips_the_padding_of_its_class(tmp_path):
    config = {**cases.GEMMA, "architectures": ["GemmaForSequenceClassification"], "num_labels": 1}
    config.pop("pad_token_id", None)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert heads.read_scorer(tmp_path).head.skips == 0


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore::FutureWarning")  # raised inside transformers
@pytest.mark.parametrize("name", ["llama_grouped", "qwen2_tied", "mistral_window"])
def test_transformers_opens_a_new_head(name, tmp_path, one_device):
    from tests.golden import make_scores

    source = cases.write_folder(tmp_path / "source", cases.read_config(name))
    scorer = heads.new_scorer(source, ("safe", "unsafe"), "single_label_classification")
    weights = heads.load_trunk(source, scorer, jax.random.key(0), one_device, jnp.float32)
    heads.export(tmp_path / "export", weights, scorer, source, jnp.float32, GIGABYTES)
    scorer, weights, run = scorer_of(tmp_path / "export", one_device)
    golden = score_cases.read_golden("llama")
    found = scores_of(scorer, weights, run, golden)
    written = json.loads((tmp_path / "export" / "config.json").read_text())
    model = make_scores.open_model(tmp_path / "export", written)
    model.config.pad_token_id = 0
    assert model.config.id2label == {0: "safe", 1: "unsafe"}
    np.testing.assert_allclose(found, make_scores.scores_of(model, golden), rtol=0, atol=1e-4)
