"""PEFT adapter folders in and out: bitwise, and refused where they ask for more than LoRA."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safety_jax.base.errors import CheckpointError
from safety_jax.models import llama, lora
from safety_jax.models.folders import hf, hf_config, peft, peft_config, peft_names
from tests import opened
from tests.adapter_folders import (
    CASE,
    DTYPES,
    LAYERS,
    MANY,
    RANK,
    SIZES,
    adapter_tensors,
    refusal,
    write_adapter,
)
from tests.golden import cases
from tests.samples import random_adapters

Q_A = "base_model.model.model.layers.{}.self_attn.q_proj.lora_A.weight"


@pytest.fixture(scope="module")
def config():
    return hf_config.parse(cases.read_config(CASE), CASE)


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
    "all but the other": {"exclude_modules": r".*\.layers\.0\..*"},
    "all but the other's": {"exclude_modules": [f"layers.0.{module}" for module in MANY]},
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


# ---------------------------------------------------------------------------- strictness


def test_mixed_dtypes_are_read_as_float32(tmp_path, config, one_device):
    tensors = adapter_tensors()
    tensors[Q_A.format(0)] = tensors[Q_A.format(0)].astype(np.float16)
    adapters, settings = peft.load(write_adapter(tmp_path / "x", tensors), config, one_device)
    assert settings.dtype == "float32"
    expected = tensors[Q_A.format(0)].astype(np.float32)
    np.testing.assert_array_equal(adapters.weights["query"]["a"][0], expected)


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
        "adapts modules that cannot be adapted here, or another model",
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
    "nothing": (lambda _: {}, "no adapter of a LLaMA"),
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
    assert "an adapter without weights" in refusal(folder, config, one_device)


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
