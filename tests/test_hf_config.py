"""config.json in and out: transformers' defaults, both spellings of rope, and what is refused."""

import contextlib
import dataclasses
import json

import pytest
import transformers

from safety_jax.base.errors import CheckpointError
from safety_jax.models.encoders import heads, registry
from safety_jax.models.folders import families, hf_config
from safety_jax.models.rotary import Rope
from tests.golden import cases

TOKEN_IDS = {"bos_token_id": 5, "eos_token_id": 6, "pad_token_id": None}


def parse(**attributes):
    return hf_config.parse(attributes, "config.json")


LLAMA = cases.read_config("llama_grouped")
QWEN2 = cases.read_config("qwen2")
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


# Granite 4's own defaults are of a mixture of experts with state spaces.
DENSE = {"num_local_experts": 0, "layer_types": ["attention"] * 32}


@pytest.mark.parametrize("model_type", families.FAMILIES)
def test_defaults_are_those_of_transformers(model_type):
    """Read with nothing given, and with everything that transformers' own class writes."""
    given = DENSE if model_type == "granitemoehybrid" else {}
    theirs = transformers.AutoConfig.for_model(model_type, **given)
    written = json.loads(theirs.to_json_string(False))
    assert parse(model_type=model_type, **given) == parse(**written)
    raw = {field.name: field.default for field in dataclasses.fields(type(theirs))}
    for name, value in families.FAMILIES[model_type].defaults.items():
        if name in raw:  # qwen2 reads head_dim, but does not declare it
            assert raw[name] == value, name
    assert raw["pad_token_id"] == families.FAMILIES[model_type].padding


def old(scaling, theta=10000.0):
    return {"rope_theta": theta, "rope_scaling": scaling}


def new(**parameters):
    return {"rope_parameters": parameters}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, old(None)),
        ({}, new(rope_type="default", rope_theta=10000.0)),
        ({}, new(rope_theta=10000.0, partial_rotary_factor=1.0)),
        (old(None, 5e5), new(rope_type="default", rope_theta=5e5)),
        (old(None, 5e5), {"rope_theta": 1e4, **new(rope_theta=5e5)}),
        (
            old({"type": "linear", "factor": 4.0}),
            new(rope_type="linear", factor=4, rope_theta=1e4),
        ),
        (
            old({"type": "linear", "factor": 4.0}),
            old({"rope_type": "linear", "factor": 4.0})
            | new(rope_type="linear", factor=4.0, rope_theta=1e4),
        ),
        (old(LLAMA3, 5e5), new(rope_theta=5e5, **LLAMA3)),
    ],
)
def test_spellings_of_one_rope(first, second):
    assert parse(model_type="llama", **first) == parse(model_type="llama", **second)


def test_rope_values_arrive():
    def rope(spelled):
        (kind,) = parse(model_type="llama", **spelled).kinds
        return kind.rope

    assert rope(old(LLAMA3, 5e5)) == Rope(5e5, "llama3", 8.0, 64, 1.0, 4.0)
    assert rope(old({"type": "linear", "factor": 4.0})) == Rope(1e4, "linear", 4.0)
    # The longest example of `dynamic` is what the model was made for; YaRN's magnitude is 0.1 ln 4
    # + 1 by itself, DeepSeek's quotient, or what is given.
    assert rope(old({"type": "dynamic", "factor": 2.0})).changes_beyond == 2048
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
    assert rope(old(yarn)).magnitude == pytest.approx(1.1386294)
    assert rope(old(yarn | {"mscale": 0.5, "mscale_all_dim": 1.0})).magnitude == pytest.approx(
        1.0693147 / 1.1386294
    )
    assert rope(old(yarn | {"attention_factor": 1.25, "truncate": False})) == Rope(
        1e4, "yarn", 4.0, 512, magnitude=1.25, truncate=False
    )
    assert rope(old(yarn | {"factor": None})).factor == 4.0


def test_biases_norms_and_windows_follow_the_family():
    def switches(**attributes):
        config = parse(**attributes)
        return (
            config.query_key_value_bias,
            config.output_bias,
            config.mlp_bias,
            config.query_key_norm,
            *[kind.window for kind in config.pattern],
        )

    windowed = {"use_sliding_window": True, "sliding_window": 64, "num_hidden_layers": 2}
    sliding = ["sliding_attention"] * 2
    assert switches(model_type="llama") == (False, False, False, "none", None)
    assert switches(model_type="llama", attention_bias=True)[:2] == (True, True)
    assert switches(model_type="llama", mlp_bias=True)[2]
    assert switches(model_type="mistral") == (False, False, False, "none", 4096)
    assert switches(model_type="mistral", sliding_window=None)[4] is None
    assert switches(model_type="qwen2") == (True, False, False, "none", None)
    assert switches(model_type="qwen2", max_window_layers=2, **windowed)[4] is None
    assert switches(model_type="qwen2", max_window_layers=0, **windowed)[4] == 64
    assert switches(model_type="qwen2", layer_types=sliding, **windowed)[4] == 64
    assert switches(model_type="qwen3") == (False, False, False, "head", None)
    assert switches(model_type="qwen3", attention_bias=True)[:2] == (True, True)
    # Some layers: behind the first ones, by list, every other one, all but every third.
    some = windowed | {"num_hidden_layers": 3}
    assert switches(model_type="qwen2", max_window_layers=1, **some)[4:] == (None, 64, 64)
    listed = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
    assert switches(model_type="qwen3", **some, **listed)[4:] == (64, None)
    assert switches(model_type="gemma2")[4:] == (4096, None)
    three = {"sliding_window_pattern": 3, "sliding_window": 64}
    assert switches(model_type="gemma3_text", **three)[3:] == ("head", 64, 64, None)


@pytest.mark.parametrize("name", cases.CASES)
def test_head_size_is_given_or_derived(name):
    given = cases.read_config(name)
    config = hf_config.parse(given, name)
    derived = given["hidden_size"] // given["num_attention_heads"]
    assert config.head_size == given.get("head_dim", derived)


REFUSED = {
    "no model type": ({"model_type": None}, "model_type None"),
    "another model type": ({"model_type": "gpt2"}, "model_type 'gpt2'"),
    "a list as model type": ({"model_type": ["llama"]}, "model_type"),
    "a classifier": ({"architectures": ["LlamaForSequenceClassification"]}, "architectures"),
    "what the mask reads": ({"is_causal": False}, "is_causal = False"),
    "what the cache reads": ({"attention_chunk_size": 4}, "attention_chunk_size = 4"),
    "two of them": ({"sliding_window": 16, "is_causal": None}, "is_causal = None, sliding_window"),
    "layers by kind": ({"layer_types": ["sliding_attention"] * 2}, "layer_types = "),
    "remote code": ({"auto_map": {"AutoModel": "x.py"}}, "auto_map"),
    "quantised": ({"quantization_config": {"bits": 4}}, "quantised checkpoint"),
    "activation": ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; expected one of silu"),
    "partial rotary": ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
    "a window on llama": ({"sliding_window": 16}, "sliding_window = 16"),
    "absurd depth": ({"num_hidden_layers": 10**7}, "num_hidden_layers is 10000000"),
    "absurd width": ({"hidden_size": 10**30}, "hidden_size is 1000"),
    "infinite": ({"rms_norm_eps": 1e999}, "rms_norm_eps is inf"),
    "not a number": ({"rope_theta": float("nan"), "rope_parameters": None}, "rope settings"),
    "no rope base": ({"rope_theta": 0, "rope_parameters": None}, "'rope_theta': 0}: for type def"),
    "text for a number": ({"hidden_size": "32"}, "hidden_size is '32'"),
    "a fraction": ({"num_hidden_layers": 2.5}, "num_hidden_layers is 2.5"),
    "zero heads": ({"num_attention_heads": 0}, "num_attention_heads is 0"),
    "text for a switch": ({"attention_bias": "yes"}, "attention_bias is 'yes'"),
    "text for epsilon": ({"rms_norm_eps": "1e-5"}, "rms_norm_eps"),
    "uneven groups": ({"num_key_value_heads": 3}, "do not fit"),
    "odd head": ({"head_dim": 7}, "head_dim must be even"),
    "width no multiple of heads": ({"hidden_size": 34, "head_dim": None}, "do not fit"),
    "axial rope": (old({"type": "axial"}), "'axial' is not supported"),
    "yarn by words": (new(rope_type="yarn", factor=2.0, beta_fast="x"), "rope settings"),
    "yarn with more": (new(rope_type="yarn", factor=2.0, mrope_section=[1]), "nothing else"),
    "rope without factor": (old({"type": "linear"}), "expected rope_theta, factor"),
    "rope with more": (old({"type": "linear", "factor": 2.0, "mscale": 1}), "nothing else"),
    "partial rope": (new(rope_theta=1e4, partial_rotary_factor=0.5), "nothing else"),
    "rope by layer type": (new(full_attention={"rope_theta": 1e4}), "nothing else"),
    "rope as text": ({"rope_scaling": "linear"}, "expected an object"),
    "negative theta": ({"rope_theta": -1.0, "rope_parameters": None}, "rope settings"),
    "a cap that Gemma 3 does not apply": (
        {"model_type": "gemma3_text", "hidden_act": None, "attn_logit_softcapping": 50.0},
        "attn_logit_softcapping = 50.0",
    ),
    "experts": ({"model_type": "granitemoehybrid"}, "mixtures of experts are not supported"),
    "state spaces": (
        {"model_type": "granitemoehybrid", "num_local_experts": 0, "layer_types": ["mamba"] * 2},
        "no state spaces",
    ),
    "spellings disagree": (
        old({"type": "linear", "factor": 2.0})
        | new(rope_type="linear", factor=4.0, rope_theta=1e4),
        "disagree",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_one_line(case):
    changes, message = REFUSED[case]
    with pytest.raises(CheckpointError) as raised:
        hf_config.parse(LLAMA | changes, "folder/config.json")
    assert message in str(raised.value)
    assert str(raised.value).startswith("folder/config.json: ")


NONSENSE = (None, -1, 10**30, "x", [[]], {"rope_type": []})


@pytest.mark.parametrize("model_type", ["llama", "deberta-v2", "gpt2"])
def test_any_value_of_any_attribute_is_read_or_refused(model_type, tmp_path):
    """Never another exception, and never work that grows with a number in the file."""
    kind = registry.KINDS[registry.MODEL_TYPES[model_type]]
    theirs = json.loads(transformers.AutoConfig.for_model(model_type).to_json_string(False))
    theirs["architectures"] = [kind.architecture(model_type)]
    more = {"rope_scaling", "num_labels", "quantization_config", "score_dim", "pos_att_type"}
    for name in theirs.keys() | more:
        for value in NONSENSE:
            (tmp_path / "config.json").write_text(json.dumps(theirs | {name: value}))
            with contextlib.suppress(CheckpointError):
                heads.read_scorer(tmp_path)


MIXED = {
    "wrong length": {"layer_types": ["full_attention"]},
    "list against switch": {
        "layer_types": ["sliding_attention"] * 2,
        "use_sliding_window": False,
    },
    "another kind": {"layer_types": ["chunked_attention"] * 2},
    "no list": {"layer_types": "full_attention"},
    "text": {"max_window_layers": "1", "layer_types": None},
}


@pytest.mark.parametrize("case", MIXED)
def test_windows_that_cannot_be_read_are_refused(case):
    given = {**QWEN2, "layer_types": None, "use_sliding_window": True, "sliding_window": 8}
    with pytest.raises(CheckpointError, match="layer_types is |max_window_layers is "):
        hf_config.parse(given | MIXED[case], "config.json")


def test_activations_of_gemma():
    """Every spelling means the tanh approximation; the exact one is refused."""
    configs = [
        parse(model_type="gemma", **given)
        for given in ({}, {"hidden_act": "gelu"}, {"hidden_activation": "gelu_pytorch_tanh"})
    ]
    assert {config.activation for config in configs} == {"gelu_tanh"}
    for given in ({"hidden_activation": "gelu"}, {"hidden_act": "silu"}):
        with pytest.raises(CheckpointError, match="hidden_act"):
            parse(model_type="gemma", **given)


@pytest.mark.parametrize("name", cases.CASES)
def test_exported_config_is_the_same_model_to_old_and_new_readers(name):
    """Carried through from a source, and written afresh; each spelling alone is enough."""
    given = cases.read_config(name)
    config = hf_config.parse(given, name)
    for source in (given, cases.old_spelling(given), None):
        written = hf_config.to_hf_config(config, source, "bfloat16", TOKEN_IDS)
        assert written["dtype"] == written["torch_dtype"] == "bfloat16"
        without_old = {k: v for k, v in written.items() if k not in ("rope_theta", "rope_scaling")}
        without_old.pop("rope_local_base_freq", None)
        without_new = {k: v for k, v in written.items() if k != "rope_parameters"}
        for spelling in (written, without_old, without_new):
            assert hf_config.parse(spelling, name) == config
        # Granite 4's infinity is spelled in a way of transformers' own, which only files may have.
        written.pop("time_step_limit", None)
        theirs = transformers.AutoConfig.for_model(**written).to_dict()
        assert hf_config.parse(theirs, name) == config


def test_the_rotated_share_of_a_head_that_only_the_new_spelling_names():
    """transformers reads `rope_scaling` first, which has no such name."""
    given = cases.read_config("phi3_long")
    del given["partial_rotary_factor"]
    config = hf_config.parse(given, "x")
    assert config.rotary_size < config.head_size
    written = hf_config.to_hf_config(config, given, "float32", TOKEN_IDS)
    theirs = transformers.AutoConfig.for_model(**written).to_dict()
    assert hf_config.parse(theirs, "x") == config


@pytest.mark.parametrize("name", ["phi3_short", "phi3_long"])
def test_longrope_of_phi3_is_written_as_transformers_4_accepts_it(name):
    """With three entries, as published; with more only if these say something of their own."""
    given = cases.read_config(name)
    config = hf_config.parse(given, name)
    for source in (given, None):
        written = hf_config.to_hf_config(config, source, "float32", TOKEN_IDS)
        assert written["rope_scaling"].keys() == {"type", "short_factor", "long_factor"}
    given["rope_parameters"] = given["rope_parameters"] | {"attention_factor": 1.5}
    config = hf_config.parse(given, name)
    written = hf_config.to_hf_config(config, given, "float32", TOKEN_IDS)
    assert written["rope_scaling"]["attention_factor"] == 1.5


def test_source_attributes_are_carried_through_and_fresh_ones_name_the_tokens():
    config = hf_config.parse(LLAMA, "x")
    carried = hf_config.to_hf_config(config, LLAMA | {"use_cache": False}, "float32", TOKEN_IDS)
    assert carried["use_cache"] is False
    assert carried.get("bos_token_id") == LLAMA.get("bos_token_id")
    fresh = hf_config.to_hf_config(config, None, "float32", TOKEN_IDS)
    assert TOKEN_IDS.items() <= fresh.items()


@pytest.mark.parametrize(
    "code",
    [
        # Phi-4-mini as published, and a Phi-3.5 that was trained with transformers.
        {"AutoConfig": "configuration_phi3.Phi3Config", "AutoTokenizer": "Xenova/gpt-4o"},
        {"AutoModelForCausalLM": "microsoft/Phi-3.5-mini-instruct--modeling_phi3.Phi3ForCausalLM"},
    ],
)
def test_code_that_transformers_now_has_is_not_needed(code):
    """And an export, which has no such files, does not ask for them."""
    given = cases.read_config("phi3")
    config = hf_config.parse(given | {"auto_map": code}, "x")
    assert config == hf_config.parse(given, "x")
    written = hf_config.to_hf_config(config, given | {"auto_map": code}, "float32", TOKEN_IDS)
    assert "auto_map" not in written
    for other in ("mine/phi--modeling_mine.Net", ["modeling_phi3.Phi3ForCausalLM", None]):
        with pytest.raises(CheckpointError, match="auto_map"):
            hf_config.parse(given | {"auto_map": code | {"AutoModel": other}}, "x")


def test_no_family_for_a_combination():
    config = dataclasses.replace(hf_config.parse(LLAMA, "x"), output_bias=True)
    with pytest.raises(CheckpointError, match="no supported Hugging Face architecture"):
        hf_config.to_hf_config(config, None, "float32", TOKEN_IDS)


@pytest.mark.parametrize("model_type", families.NESTED)
def test_the_text_model_of_a_model_with_eyes(model_type):
    """What transformers' own configuration says of its text model, and what stands outside."""
    theirs = transformers.AutoConfig.for_model(model_type).to_dict()
    inside = hf_config.parse(theirs["text_config"], "x")
    theirs["tie_word_embeddings"] = inside.tied_embeddings  # what stands outside holds
    assert hf_config.parse(theirs, "x") == dataclasses.replace(inside, nested=True)
    with pytest.raises(CheckpointError, match="quantised"):
        hf_config.parse(theirs | {"quantization_config": {"bits": 4}}, "x")
    written = hf_config.to_hf_config(inside, theirs, "bfloat16", TOKEN_IDS)
    assert written["architectures"] == [families.FAMILIES[written["model_type"]].architecture]
    assert hf_config.parse(written, "x") == inside
