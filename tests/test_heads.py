"""Score heads on every trunk: equal to transformers, blind to padding, strict with folders."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers
from safetensors.numpy import load_file, save_file

from safety_jax import mesh as meshes
from safety_jax import trees
from safety_jax.errors import CheckpointError, ConfigError
from safety_jax.models import bert, deberta_config, gpt2, heads, lora
from tests.golden import cases, score_cases

GIGABYTES = 5_000_000_000
# One of each kind, and the parts that stand outside the stacked layers.
KINDS = ("deberta_v3", "deberta_convolution", "bert", "gpt2", "llama")


def scorer_of(folder, mesh, remat="none"):
    scorer = heads.read_scorer(folder)
    run = heads.execution(scorer, mesh, compute_dtype=jnp.float32, backend="auto", remat=remat)
    return scorer, heads.load(folder, scorer, mesh, jnp.float32), run


def batch_of(golden):
    ids, types = (jnp.asarray(golden[name], jnp.int32) for name in ("ids", "types"))
    return ids, types, jnp.asarray(golden["mask"])


def compiled(function):
    """Quickly: these programs run once or twice."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def forward_of(scorer, run):
    def forward(weights, adapters, ids, types, mask):
        return heads.scores(scorer, weights, ids, types, mask, run, adapters)

    return compiled(forward)


def scores_of(scorer, weights, run, golden, adapters=None) -> np.ndarray:
    return np.asarray(forward_of(scorer, run)(weights, adapters, *batch_of(golden)))


@pytest.fixture(scope="module")
def opened(tmp_path_factory, one_device):
    """Scorer, weights, execution and compiled forward pass of a case, made once."""
    made = {}

    def open_case(name):
        if name not in made:
            folder = score_cases.write_case(tmp_path_factory.mktemp(name), name)
            scorer, weights, run = scorer_of(folder, one_device)
            made[name] = (scorer, weights, run, forward_of(scorer, run))
        return made[name]

    return open_case


# ---------------------------------------------------------------------------- scores


@pytest.mark.parametrize("name", score_cases.CASES)
def test_scores_of_every_architecture(name, opened):
    scorer, weights, _, forward = opened(name)
    golden = score_cases.read_golden(name)
    found = forward(weights, None, *batch_of(golden))
    assert found.shape == (score_cases.ROWS, scorer.labels) and found.dtype == jnp.float32
    np.testing.assert_allclose(found, golden["logits"], rtol=0, atol=1e-4)


def changed(**changes):
    return lambda scorer: dataclasses.replace(scorer.config, **changes)


WRONG = {
    "buckets": ("deberta_v3", changed(buckets=6)),
    "bucket size": ("deberta_v3", changed(max_distance=48)),
    "distance": ("deberta_short_distances", changed(max_distance=5)),
    "one product": ("deberta_v3", changed(content_to_position=False)),
    "other product": ("deberta_v3", changed(position_to_content=False)),
    "scale without positions": ("deberta_absolute", changed(content_to_position=False)),
    "epsilon": ("bert_relu", changed(norm_epsilon=1e-2)),
    "first position": ("roberta", changed(first_position=0)),
    "activation": ("gpt2_two_labels", changed(activation="relu")),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_config_value_shows(mistake, opened):
    """What the parity test would see if a value were lost on the way."""
    name, change = WRONG[mistake]
    scorer, weights, run, _ = opened(name)
    wrong = dataclasses.replace(scorer, config=change(scorer))
    flat = trees.flatten(weights)
    fitted = {
        ours: flat[ours][tuple(map(slice, parameter.shape))]
        for ours, parameter in heads.parameters(wrong).items()
    }
    golden = score_cases.read_golden(name)
    found = scores_of(wrong, trees.unflatten(fitted), run, golden)
    assert np.abs(found - golden["logits"]).max() > 1e-3


def gradient_of(scorer, run):
    def total(weights, ids, types, mask):
        scores = heads.scores(scorer, weights, ids, types, mask, run)
        return jnp.sin(scores).sum(), scores

    return compiled(jax.value_and_grad(total, has_aux=True))


@pytest.mark.parametrize("name", KINDS)
def test_padding_moves_nothing(name, opened):
    """The ids that stand there change no score and get no gradient; all gradients are finite."""
    scorer, weights, run, _ = opened(name)
    golden = score_cases.read_golden(name)
    free = max(set(range(score_cases.VOCABULARY)) - set(golden["ids"].ravel().tolist()))
    filled = golden | {"ids": np.where(golden["mask"], golden["ids"], free)}
    (_, scores), gradients = gradient_of(scorer, run)(weights, *batch_of(filled))
    np.testing.assert_allclose(scores, golden["logits"], rtol=0, atol=1e-4)
    flat = trees.flatten(gradients)
    np.testing.assert_array_equal(flat["embedding"][free], 0)
    for ours, gradient in flat.items():
        assert np.isfinite(gradient).all(), ours
        # A constant on all keys cancels in the softmax.
        assert np.abs(gradient).max() > 0 or "bias" in ours, ours


def test_more_padding_moves_nothing(opened):
    scorer, weights, run, forward = opened("deberta_v3")
    golden = score_cases.read_golden("deberta_v3")
    longer = {name: np.pad(golden[name], ((0, 0), (0, 8))) for name in ("ids", "types", "mask")}
    found = forward(weights, None, *batch_of(longer))
    np.testing.assert_allclose(found, golden["logits"], rtol=0, atol=1e-4)


def test_remat_changes_no_gradient(opened):
    scorer, weights, run, _ = opened("deberta_v3")
    batch = batch_of(score_cases.read_golden("deberta_v3"))
    plain, *again = (
        gradient_of(scorer, dataclasses.replace(run, remat=remat))(weights, *batch)[1]
        for remat in ("none", "dots", "full")
    )
    for gradients in again:
        for found, expected in zip(*map(jax.tree.leaves, (gradients, plain)), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_eight_devices_give_the_same_scores(name, tmp_path, eight_devices):
    scorer, weights, run = scorer_of(score_cases.write_case(tmp_path, name), eight_devices)
    split = [array for array in jax.tree.leaves(weights) if not array.is_fully_replicated]
    assert len(split) > 5
    golden = score_cases.read_golden(name)
    found = scores_of(scorer, weights, run, golden)
    np.testing.assert_allclose(found, golden["logits"], rtol=0, atol=1e-4)


def test_mesh_that_does_not_divide(tmp_path):
    scorer = heads.read_scorer(score_cases.write_case(tmp_path, "deberta_v3"))
    with pytest.raises(ConfigError, match="mesh does not divide the model"):
        heads.shardings(scorer, meshes.build(1, 1, 8))


# ---------------------------------------------------------------------------- adapters


@pytest.mark.parametrize("name", [*KINDS, "deberta_own_projections"])
def test_adapters_on_every_trunk(name, opened):
    """Merged = adapted, on all projections."""
    scorer, weights, _, forward = opened(name)
    adapted = heads.targets(scorer, ("all-linear",))
    declared = heads.parameters(scorer)
    kernels = {name for name in declared if name.startswith("layers.") and "kernel" in name}
    assert {f"layers.{target}.kernel" for target in adapted} == kernels
    random = np.random.RandomState(0)
    leaves = {
        leaf: jnp.asarray(0.3 * random.standard_normal(shape), jnp.float32)
        for leaf, (shape, _) in lora.shapes(declared, adapted, 3).items()
    }
    adapters = lora.Adapters(trees.unflatten(leaves), 0.5, 0.0)
    golden = score_cases.read_golden(name)
    found = np.asarray(forward(weights, adapters, *batch_of(golden)))
    assert np.abs(found - golden["logits"]).max() > 1e-2
    merged = lora.merge(weights, adapters)
    again = forward(merged, None, *batch_of(golden))
    np.testing.assert_allclose(again, found, rtol=0, atol=1e-4)


def test_targets_by_name(tmp_path):
    folder = score_cases.write_case(tmp_path, "deberta_v3")
    scorer = heads.read_scorer(folder)
    assert heads.targets(scorer, ("query_proj", "dense")) == ("query", "output", "up", "down")
    with pytest.raises(ConfigError, match="expected 'all-linear' or any of query_proj"):
        heads.targets(scorer, ("q_proj",))


# ---------------------------------------------------------------------------- folders


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
    "new attribute": ("deberta_v3", {"rotary": True}, "not supported for deberta-v2: rotary"),
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


# ---------------------------------------------------------------------------- fresh heads


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
