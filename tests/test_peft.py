"""PEFT adapter folders in and out: bitwise, and refused where they ask for more than LoRA."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import opened
import pytest
from safetensors.numpy import save_file
from samples import random_adapters

from safety_jax.base.errors import CheckpointError
from safety_jax.models import llama, lora
from safety_jax.models.folders import hf, hf_config, peft, peft_config, peft_names
from tests.golden import cases

CASE = "llama_grouped"
LAYERS, RANK = 2, 4
SIZES = {  # out, in
    "self_attn.q_proj": (32, 32),
    "self_attn.k_proj": (16, 32),
    "self_attn.v_proj": (16, 32),
    "self_attn.o_proj": (32, 32),
    "mlp.gate_proj": (48, 32),
    "mlp.up_proj": (48, 32),
    "mlp.down_proj": (32, 48),
}
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
MANY = ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")
Q_A = "base_model.model.model.layers.{}.self_attn.q_proj.lora_A.weight"


@pytest.fixture(scope="module")
def config():
    return hf_config.parse(cases.read_config(CASE), CASE)


def adapter_tensors(modules=MANY, dtype="float32", rank=RANK, sizes=SIZES) -> dict[str, np.ndarray]:
    """Tensors as PEFT names them, written down independently of ours."""
    random = np.random.default_rng(0)
    tensors = {}
    for layer in range(LAYERS):
        for module in modules:
            size_out, size_in = sizes[module]
            for factor, shape in (("A", (rank, size_in)), ("B", (size_out, rank))):
                name = f"base_model.model.model.layers.{layer}.{module}.lora_{factor}.weight"
                tensors[name] = random.standard_normal(shape).astype(DTYPES[dtype])
    return tensors


def write_adapter(folder, tensors=None, **attributes):
    """A folder as peft 0.21 writes it, with every attribute it writes by default."""
    tensors = adapter_tensors() if tensors is None else tensors
    modules = sorted({name.split(".")[-3] for name in tensors})
    given = {
        "alora_invocation_tokens": None,
        "alpha_pattern": {},
        "arrow_config": None,
        "auto_mapping": None,
        "base_model_name_or_path": "some/base",
        "bias": "none",
        "corda_config": None,
        "ensure_weight_tying": False,
        "eva_config": None,
        "exclude_modules": None,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layer_replication": None,
        "layers_pattern": None,
        "layers_to_transform": None,
        "loftq_config": {},
        "lora_alpha": 16,
        "lora_bias": False,
        "lora_dropout": 0.05,
        "megatron_config": None,
        "megatron_core": "megatron.core",
        "modules_to_save": None,
        "peft_type": "LORA",
        "peft_version": "0.21.2",
        "qalora_group_size": 16,
        "r": RANK,
        "rank_pattern": {},
        "revision": None,
        "target_modules": modules,
        "target_parameters": None,
        "task_type": "CAUSAL_LM",
        "trainable_token_indices": None,
        "use_dora": False,
        "use_qalora": False,
        "use_rslora": False,
    } | attributes
    folder.mkdir(exist_ok=True)
    (folder / peft_config.CONFIG).write_text(json.dumps(given))
    save_file(tensors, folder / peft.WEIGHTS, metadata={"format": "pt"})
    return folder


def refusal(folder, config, mesh) -> str:
    with pytest.raises(CheckpointError) as raised:
        peft.load(folder, config, mesh)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# ---------------------------------------------------------------------------- there and back


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("modules", [MANY, tuple(SIZES)], ids=["some", "all"])
def test_round_trip_is_bitwise(modules, dtype, tmp_path, config, one_device, eight_devices):
    source = write_adapter(tmp_path / "source", adapter_tensors(modules, dtype))
    for mesh in (one_device, eight_devices):
        adapters, settings = peft.load(source, config, mesh)
        assert settings.dtype == dtype
        assert {leaf.dtype for leaf in jax.tree.leaves(adapters.weights)} == {jnp.dtype("float32")}
        peft.export(tmp_path / "export", adapters, settings)
        files = [folder / peft.WEIGHTS for folder in (source, tmp_path / "export")]
        assert files[0].read_bytes() == files[1].read_bytes()
        assert peft.load(tmp_path / "export", config, mesh)[1] == settings


ON_ONE_LAYER = {
    "by number": {"layers_to_transform": [1], "layers_pattern": "layers"},
    "alone": {"layers_to_transform": 1},
    "by path": {"target_modules": [f"model.layers.1.{module}" for module in MANY]},
    "by rule": {"target_modules": r".*\.1\..*(q|v|down)_proj"},
}


@pytest.mark.parametrize("asked", ON_ONE_LAYER)
def test_an_adapter_on_one_layer_goes_both_ways(asked, tmp_path, config, one_device):
    """Rank 1 on the second layer alone: one row a leaf, and what peft calls the layer."""
    tensors = {n: v for n, v in adapter_tensors(rank=1).items() if ".layers.1." in n}
    source = write_adapter(tmp_path / "source", tensors, r=1, **ON_ONE_LAYER[asked])
    adapters, settings = peft.load(source, config, one_device)
    assert (settings.layers, adapters.on, settings.rank) == ((1,), (False, True), 1)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(adapters.weights)} == {1}
    np.testing.assert_array_equal(adapters.weights["query"]["a"][0], tensors[Q_A.format(1)])
    peft.export(tmp_path / "export", adapters, settings)
    files = [folder / peft.WEIGHTS for folder in (source, tmp_path / "export")]
    assert files[0].read_bytes() == files[1].read_bytes()
    written = json.loads((tmp_path / "export" / peft_config.CONFIG).read_text())
    assert written["layers_to_transform"] == [1]
    with pytest.raises(ValueError, match="given with"):
        peft.export(tmp_path / "no", adapters, dataclasses.replace(settings, layers=(0,)))


def test_adapters_on_other_layers_than_the_config_says_are_refused(tmp_path, config, one_device):
    both = write_adapter(tmp_path / "both", layers_to_transform=[0, 0])
    assert "another model: base_model.model.model.layers.1." in refusal(both, config, one_device)
    tensors = {n: v for n, v in adapter_tensors().items() if ".layers.1." in n}
    half = write_adapter(tmp_path / "half", tensors)  # as a file that lost its end
    assert "lacks: " + Q_A.format(0) in refusal(half, config, one_device)
    ragged = adapter_tensors()
    del ragged[Q_A.format(0)]
    rule = write_adapter(tmp_path / "rule", ragged, target_modules=".*_proj")
    assert "expected q_proj" in (said := refusal(rule, config, one_device))
    assert "lacks: " + Q_A.format(0) in said


FUSED = {"self_attn.qkv_proj": (64, 32), "mlp.gate_up_proj": (96, 32), "mlp.down_proj": (32, 48)}


def test_adapters_of_fused_projections_share_a(tmp_path, one_device, eight_devices):
    """Phi-3: each projection has its rows of B, and goes back to where it was, to the bit."""
    config = hf_config.parse(cases.read_config("phi3"), "phi3")
    tensors = adapter_tensors(tuple(FUSED), sizes=FUSED)
    source = write_adapter(tmp_path / "source", tensors)
    for mesh in (one_device, eight_devices):
        adapters, settings = peft.load(source, config, mesh)
        assert settings.targets == ("query+key+value", "gate+up", "down")
        peft.export(tmp_path / "export", adapters, settings)
        files = [folder / peft.WEIGHTS for folder in (source, tmp_path / "export")]
        assert files[0].read_bytes() == files[1].read_bytes()
    a, b = (tensors[Q_A.format(1).replace("q_proj.lora_A", f"qkv_proj.lora_{f}")] for f in "AB")
    layer = lora.by_layer(adapters)
    for name, rows in (("query", b[:32]), ("key", b[32:48]), ("value", b[48:])):
        np.testing.assert_array_equal(layer[name].a[1], a)
        np.testing.assert_array_equal(layer[name].b[1], rows)
    message = refusal(
        write_adapter(tmp_path / "plain", adapter_tensors(MANY[:1])), config, one_device
    )
    assert "expected qkv_proj, o_proj, gate_up_proj, down_proj in all 2 layers" in message


@pytest.mark.parametrize("trunk", peft_names.TRUNKS)
def test_adapters_of_a_model_with_eyes_say_where_its_text_model_is(
    trunk, tmp_path, config, one_device
):
    tensors = {
        name.replace(".model.model.layers.", f".model.{trunk}.layers."): value
        for name, value in adapter_tensors().items()
    }
    source = write_adapter(tmp_path / "source", tensors)
    adapters, settings = peft.load(source, config, one_device)
    assert settings.trunk == trunk
    peft.export(tmp_path / "export", adapters, settings)
    files = [folder / peft.WEIGHTS for folder in (source, tmp_path / "export")]
    assert files[0].read_bytes() == files[1].read_bytes()
    nested = dataclasses.replace(config, nested=True)
    assert peft_names.trunk_of(config) == "model"
    assert peft_names.trunk_of(nested) == "model.language_model"


def test_values_land_in_their_place(tmp_path, config, one_device):
    adapters, _ = peft.load(write_adapter(tmp_path), config, one_device)
    tensors = adapter_tensors()
    assert set(adapters.weights) == {"query", "value", "down"}
    for layer in range(LAYERS):
        prefix = f"base_model.model.model.layers.{layer}"
        for ours, module in zip(("query", "value", "down"), MANY, strict=True):
            for factor in "ab":
                found = adapters.weights[ours][factor][layer]
                name = f"{prefix}.{module}.lora_{factor.upper()}.weight"
                np.testing.assert_array_equal(found, tensors[name])


def test_sharded_as_the_model_shards_them(tmp_path, config, eight_devices):
    adapters, settings = peft.load(write_adapter(tmp_path), config, eight_devices)
    declared = lora.shardings(llama.parameters(config), settings.targets, RANK, eight_devices)
    assert jax.tree.map(lambda leaf: leaf.sharding, adapters.weights) == declared


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


# ---------------------------------------------------------------------------- strictness

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
    broken += ("expected numbers from 0",)
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


def test_mixed_dtypes_are_read_as_float32(tmp_path, config, one_device):
    tensors = adapter_tensors()
    tensors[Q_A.format(0)] = tensors[Q_A.format(0)].astype(np.float16)
    adapters, settings = peft.load(write_adapter(tmp_path / "x", tensors), config, one_device)
    assert settings.dtype == "float32"
    expected = tensors[Q_A.format(0)].astype(np.float32)
    np.testing.assert_array_equal(adapters.weights["query"]["a"][0], expected)


def test_the_base_is_found_from_here_or_from_the_adapter(tmp_path, monkeypatch):
    base, adapter = tmp_path / "models" / "base", tmp_path / "models" / "adapter"
    base.mkdir(parents=True)
    write_adapter(adapter, base_model_name_or_path="../base")
    monkeypatch.chdir(tmp_path)
    assert peft_config.base_folder(adapter).samefile(base)
    (tmp_path / "near").mkdir()
    write_adapter(adapter, base_model_name_or_path="near")
    assert peft_config.base_folder(adapter).samefile(tmp_path / "near")
    for named in ("./nowhere", "", None, ["x"]):
        write_adapter(adapter, base_model_name_or_path=named)
        with pytest.raises(CheckpointError, match="adapter_config.json: base_model_name_or_path"):
            peft_config.base_folder(adapter)


def replaced(old, new=None):
    def change(tensors):
        value = tensors.pop(old)
        return tensors | ({new: value} if new else {})

    return change


TENSORS = {
    "a layer missing": (
        lambda tensors: {name: x for name, x in tensors.items() if ".layers.1." not in name},
        "lacks: base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight",
    ),
    "half a pair": (replaced(Q_A.format(1)), f"lacks: {Q_A.format(1)}"),
    "a layer too many": (
        lambda tensors: tensors | {Q_A.format(2): np.zeros((4, 32), np.float32)},
        "adapts what cannot be adapted here or another model",
    ),
    "an embedding": (
        lambda tensors: tensors | {"base_model.model.model.embed_tokens.lora_embedding_A": Q},
        "lora_embedding_A",
    ),
    "a head": (
        lambda tensors: tensors | {"base_model.model.lm_head.lora_A.weight": Q},
        "lm_head.lora_A.weight",
    ),
    "another architecture": (
        lambda _: {"base_model.model.transformer.h.0.attn.c_attn.lora_A.weight": Q},
        "c_attn",
    ),
    "nothing": (lambda _: {}, "holds no adapter"),
    "another width": (
        lambda tensors: tensors | {Q_A.format(0): np.zeros((4, 48), np.float32)},
        "has shape [4, 48]",
    ),
}
Q = np.zeros((4, 32), np.float32)


@pytest.mark.parametrize("case", TENSORS)
def test_weights_that_do_not_fit_are_refused(case, tmp_path, config, one_device):
    change, message = TENSORS[case]
    folder = write_adapter(tmp_path, change(adapter_tensors()), target_modules=".*")
    assert message in refusal(folder, config, one_device)


def test_a_model_and_an_adapter_in_each_others_place(tmp_path, config, one_device):
    model = cases.write_folder(tmp_path / "model", cases.read_config(CASE))
    assert "a full model; give it as model.path" in refusal(model, config, one_device)
    with pytest.raises(CheckpointError, match="it is an adapter: give it as model.adapter"):
        hf.read_config(write_adapter(tmp_path / "adapter"))


def test_missing_files(tmp_path, config, one_device):
    assert "holds no adapter_config.json" in refusal(tmp_path, config, one_device)
    folder = write_adapter(tmp_path / "adapter")
    (folder / peft.WEIGHTS).rename(folder / "adapter_model.bin")
    assert "only pickled weights" in refusal(folder, config, one_device)
    (folder / "adapter_model.bin").unlink()
    assert "No such file" in refusal(folder, config, one_device)


# ---------------------------------------------------------------------------- peft


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore::FutureWarning")  # raised inside transformers
@pytest.mark.parametrize(
    ("case", "rslora", "layers"),
    [(case, rslora, None) for case in (CASE, "gemma", "phi3_long", "granite4")
     for rslora in (False, True)] + [(CASE, False, (1,)), ("phi3_long", False, (0,))],
)  # fmt: skip
def test_peft_opens_an_export(case, rslora, layers, tmp_path, one_device):
    import peft as theirs

    base = cases.write_folder(tmp_path / "base", cases.read_config(case))
    config = hf.read_config(base)
    weights = hf.load(base, config, one_device, jnp.float32)
    scale = lora.scaling(RANK, 8.0, rslora)
    adapters = dataclasses.replace(random_adapters(config, one_device), scale=scale)
    if layers is not None:
        rows = jax.tree.map(lambda leaf: leaf[np.array(layers)], adapters.weights)
        on = lora.on(layers, config.layers)
        adapters = dataclasses.replace(adapters, weights=rows, on=on)
    targets = tuple(llama.targets(config).values())
    settings = peft_config.LoraConfig(
        RANK, 8.0, 0.1, targets, rslora, str(base), "float32", files=config.files, layers=layers
    )
    peft.export(tmp_path / "export", adapters, settings)

    model = theirs.PeftModel.from_pretrained(opened.model_of(base), tmp_path / "export")
    ids = cases.read_golden(case)["ids"]
    expected = opened.by_transformers(model, ids)
    found = opened.by_us(config, weights, ids, one_device, adapters)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    plain = opened.by_us(config, weights, ids, one_device)
    assert np.abs(found - plain).max() > 0.1  # the adapter is no bystander


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore::FutureWarning")  # raised inside transformers
@pytest.mark.parametrize(
    ("case", "targets", "layers"),
    [
        (CASE, ["q_proj", "v_proj"], None),
        (CASE, ["up_proj"], [1]),
        (CASE, "all-linear", None),
        (CASE, r".*\.(up|down)_proj", None),
        (CASE, r".*\.0\..*\.(up|down)_proj", None),
        ("phi3", "all-linear", None),
        ("phi3", ["qkv_proj", "down_proj"], None),
        ("olmo3", "all-linear", None),
        ("granite4", "all-linear", None),
    ],
)
def test_folders_that_peft_writes(case, targets, layers, tmp_path, one_device):
    import peft as theirs
    import torch

    base = cases.write_folder(tmp_path / "base", cases.read_config(case))
    config = hf.read_config(base)
    settings = theirs.LoraConfig(
        r=RANK, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM", use_rslora=True,
        layers_to_transform=layers,
    )  # fmt: skip
    model = theirs.get_peft_model(opened.model_of(base), settings)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)
    model.save_pretrained(tmp_path / "adapter")
    ids = cases.read_golden(case)["ids"]
    expected = opened.by_transformers(model, ids)

    adapters, read = peft.load(tmp_path / "adapter", config, one_device)
    weights = hf.load(base, config, one_device, jnp.float32)
    found = opened.by_us(config, weights, ids, one_device, adapters)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    merged = opened.by_us(config, lora.merge(weights, adapters), ids, one_device)
    np.testing.assert_allclose(merged, expected, rtol=0, atol=1e-4)
    peft.export(tmp_path / "again", adapters, read)
    files = [tmp_path / folder / peft.WEIGHTS for folder in ("adapter", "again")]
    assert files[0].read_bytes() == files[1].read_bytes()
