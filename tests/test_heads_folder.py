"""Folders of scorers: written as they were read, opened by transformers, refused in one line."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers
from safetensors.numpy import load_file, save_file

from safety_jax.base.errors import CheckpointError
from safety_jax.models.encoders import bert, deberta_config, gpt2, heads
from tests.golden import score_cases
from tests.test_heads import scorer_of

GIGABYTES = 5_000_000_000


@pytest.mark.parametrize("name", score_cases.CASES)
def test_round_trip_is_bitwise(name, tmp_path, one_device):
    source = score_cases.write_case(tmp_path / "source", name)
    scorer, weights, _ = scorer_of(source, one_device)
    heads.export(tmp_path / "export", weights, scorer, source, jnp.float32, GIGABYTES)
    found, expected = (
        load_file(folder / "model.safetensors") for folder in (tmp_path / "export", source)
    )
    expected = {key: array for key, array in expected.items() if "normalizer" not in key}
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        assert found[key].tobytes() == array.tobytes(), key
    if "normalised" not in name and name != "beaver_cost":
        assert heads.read_scorer(tmp_path / "export") == scorer


@pytest.mark.parametrize("name", ["deberta_convolution", "roberta", "qwen3"])
def test_random_weights_get_a_config_of_their_own(name, tmp_path, one_device):
    scorer = heads.read_scorer(score_cases.write_case(tmp_path / "source", name))
    weights = heads.initialize(scorer, jax.random.key(0), one_device, jnp.float32)
    heads.export(tmp_path / "export", weights, scorer, None, jnp.float32, GIGABYTES)
    assert heads.read_scorer(tmp_path / "export") == scorer
    again = heads.load(tmp_path / "export", scorer, one_device, jnp.float32)
    for found, expected in zip(*map(jax.tree.leaves, (again, weights)), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_eight_devices_read_transposed_kernels(tmp_path, one_device, eight_devices):
    source = score_cases.write_case(tmp_path / "source", "gpt2")
    scorer, alone, _ = scorer_of(source, one_device)
    _, spread, _ = scorer_of(source, eight_devices)
    for found, expected in zip(*map(jax.tree.leaves, (spread, alone)), strict=True):
        np.testing.assert_array_equal(found, expected)
    heads.export(tmp_path / "export", spread, scorer, source, jnp.float32, GIGABYTES)
    files = [folder / "model.safetensors" for folder in (source, tmp_path / "export")]
    assert files[0].read_bytes() == files[1].read_bytes()


def refusal(folder, mesh) -> str:
    with pytest.raises(CheckpointError) as raised:
        heads.load(folder, heads.read_scorer(folder), mesh, jnp.float32)
    assert "\n" not in str(raised.value)
    return str(raised.value)


REFUSED = {
    "what is not implemented": ("bert", {"is_decoder": True}, "not supported for bert: is_decoder"),
    "position kinds": ("deberta_v3", {"pos_att_type": "p2p"}, "expected any of c2p and p2c"),
    "activation": ("bert", {"hidden_act": "swiglu"}, "hidden_act is 'swiglu'; expected one of"),
    "pooler": ("deberta_v3", {"pooler_hidden_size": 16}, "pooler_hidden_size is 16"),
    "relative keys": ("bert", {"position_embedding_type": "relative_key"}, "relative_key"),
    "even convolution": ("deberta_convolution", {"conv_kernel_size": 4}, "an odd number"),
    "scaling": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse"),
    "labels": ("bert", {"num_labels": 3}, "a name for each of the 3 labels"),
    "problem": ("bert", {"problem_type": "ranking"}, "problem_type 'ranking'"),
    "no head": ("llama", {"architectures": ["LlamaForCausalLM"]}, "a model with a sequence head"),
    "quantised": ("bert", {"quantization_config": {"bits": 8}}, "quantised checkpoint"),
    "another model": ("bert", {"model_type": "t5"}, "model_type 't5' is not supported"),
    "more layers": ("gpt2", {"n_layer": 3}, "missing transformer.h.2."),
    "fewer layers": ("bert", {"num_hidden_layers": 1}, "unexpected bert.encoder.layer.1"),
    "wider": ("bert", {"intermediate_size": 56}, "but config.json asks for [32, 56]"),
    "score type": ("beaver_cost", {"score_type": "safety"}, "score_type is 'safety'"),
    "no statistics": ("beaver_reward", {"do_normalize": True, "mean": [0]}, "var is None"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(case, tmp_path, one_device):
    name, attributes, message = REFUSED[case]
    folder = score_cases.write_case(tmp_path, name, **attributes)
    if case == "no statistics":
        tensors = load_file(folder / "model.safetensors")
        kept = {key: array for key, array in tensors.items() if "normalizer" not in key}
        save_file(kept, folder / "model.safetensors")
    assert message in refusal(folder, one_device)


def test_pickled_weights_are_refused_in_one_line(tmp_path, one_device):
    folder = score_cases.write_case(tmp_path, "deberta_v3")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    message = refusal(folder, one_device)
    assert "holds only pickled weights (pytorch_model.bin)" in message
    assert "DebertaV2ForSequenceClassification.from_pretrained" in message


def test_a_pooler_that_no_head_of_roberta_reads(tmp_path, one_device):
    """As in the folders of early releases, which transformers opens, too."""
    source = score_cases.write_case(tmp_path, "roberta")
    scorer, expected, _ = scorer_of(source, one_device)
    tensors, width = load_file(source / "model.safetensors"), scorer.config.width
    pooler = {
        "roberta.pooler.dense.weight": np.ones((width, width), np.float32),
        "roberta.pooler.dense.bias": np.ones(width, np.float32),
    }
    save_file(tensors | pooler, source / "model.safetensors")
    found = heads.load(source, scorer, one_device, jnp.float32)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_names_of_old_releases(tmp_path, one_device):
    folder = score_cases.write_case(tmp_path, "bert")
    tensors = load_file(folder / "model.safetensors")
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): array
        for name, array in tensors.items()
    }
    save_file(old, folder / "model.safetensors")
    _, weights, _ = scorer_of(folder, one_device)
    norm = tensors["bert.embeddings.LayerNorm.weight"]
    np.testing.assert_array_equal(weights["embedding_norm"]["scale"], norm)
    both = old | {"bert.embeddings.LayerNorm.weight": norm}
    save_file(both, folder / "model.safetensors")
    assert "are two names of one weight" in refusal(folder, one_device)


# ---------------------------------------------------------------------------- transformers

CONFIGS = {
    "deberta-v2": (transformers.DebertaV2Config, deberta_config.DEFAULTS),
    "bert": (transformers.BertConfig, bert.DEFAULTS),
    "roberta": (transformers.RobertaConfig, bert.DEFAULTS | bert.ROBERTA_DEFAULTS["roberta"]),
    "xlm-roberta": (
        transformers.XLMRobertaConfig,
        bert.DEFAULTS | bert.ROBERTA_DEFAULTS["xlm-roberta"],
    ),
    "gpt2": (transformers.GPT2Config, gpt2.DEFAULTS),
}


@pytest.mark.parametrize("model_type", CONFIGS)
def test_defaults_are_those_of_transformers(model_type):
    config_class, defaults = CONFIGS[model_type]
    theirs = config_class().to_dict()
    for name, value in defaults.items():
        if name in theirs and name != "pooler_hidden_size":  # follows from hidden_size
            assert theirs[name] == value, name


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore::FutureWarning")  # raised inside transformers
@pytest.mark.parametrize("name", [name for name in score_cases.CASES if "beaver" not in name])
def test_transformers_opens_an_export(name, tmp_path, one_device):
    """A config.json of our own and the one that came along; sharded files."""
    from tests.golden import make_scores

    source = score_cases.write_case(tmp_path / "source", name)
    scorer, weights, run = scorer_of(source, one_device)
    golden = score_cases.read_golden(name)
    for given in (source, None):
        heads.export(tmp_path / "export", weights, scorer, given, jnp.float32, 20_000)
        written = json.loads((tmp_path / "export" / "config.json").read_text())
        written["pad_token_id"] = score_cases.CASES[name]["pad_token_id"]
        (tmp_path / "export" / "config.json").write_text(json.dumps(written))
        model = make_scores.open_model(tmp_path / "export", written)
        found = make_scores.scores_of(model, golden)
        np.testing.assert_allclose(found, golden["logits"], rtol=0, atol=1e-5)
