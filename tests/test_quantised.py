"""Quantised bases: codes are bitsandbytes', logits those of transformers and PEFT, and adapters
learn beside them as beside numbers."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from configs import dpo, evaluate, raft, sft
from safety_jax.base import meshes, trees
from safety_jax.base.batch import Tokens
from safety_jax.base.errors import CheckpointError, ConfigError
from safety_jax.models import llama, lora, quantised
from safety_jax.models.folders import bitsandbytes, hf, hf_config, hub, peft_config
from safety_jax.models.model import Model
from safety_jax.planning import abstract
from safety_jax.stages import checks, rules, shared_schema
from safety_jax.training import policy
from tests.golden import cases, quantised_cases
from tests.samples import execute_on, whole_logits

STORED, FLOAT32 = quantised.STORED, jnp.float32
FOLDERS = ("nf4", "nf4 of plain scales", "int8")


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return dict(np.load(cases.FOLDER / "quantised.npz"))


@pytest.fixture(scope="module")
def folders(golden, tmp_path_factory):
    """The float folder, and what bitsandbytes made of it."""
    root = tmp_path_factory.mktemp("quantised")
    quantised_cases.write_folder(root / STORED)
    for name in FOLDERS:
        quantised_cases.write_quantised(root / name, golden, name)
    return root


@pytest.fixture(scope="module")
def stored(folders, one_device):
    """The weights of every folder as it holds them, once."""
    config = hf.read_config(folders / STORED)
    return {
        name: hf.load(folders / name, config, one_device, FLOAT32) for name in (STORED, *FOLDERS)
    }


def model_of(folders, mesh, weights) -> Model:
    config = hf.read_config(folders / STORED)
    return Model(config, execute_on(mesh, rules=config.rules), weights, None, None)


def adapters() -> lora.Adapters:
    tree = jax.tree.map(jnp.asarray, quantised_cases.adapters())
    return lora.Adapters(tree, quantised_cases.ALPHA / quantised_cases.RANK, 0.0)


def assert_same_parts(found, expected):
    """Codes to the bit; what is a mean, or is counted from one, to the last digit."""
    parts = (jax.tree.leaves_with_path(tree) for tree in (found, expected))
    for (path, left), (_, right) in zip(*parts, strict=True):
        assert (left.shape, left.dtype) == (right.shape, right.dtype), path
        tolerance = 1e-6 if left.dtype == np.float32 else 0
        np.testing.assert_allclose(left, right, rtol=tolerance, err_msg=str(path))


# ---------------------------------------------------------------------------- the formats


@pytest.mark.parametrize("kind", quantised.FORMATS)
@pytest.mark.parametrize("name", quantised_cases.kernels())
def test_codes_and_scales_are_those_of_bitsandbytes(golden, kind, name):
    kernel = quantised_cases.kernels()[name]
    held = jax.jit(quantised.quantise, static_argnums=1)(kernel, kind)
    known = {key: golden[f"{name}/{kind}/{key}"] for key in quantised_parts(kind)}
    if kind == "nf4":
        assert_same_codes(held.codes, known["codes"])
        known["codes"] = held.codes
    assert_same_parts(held, quantised.assembled(kind, known))
    assert held.shape == kernel.shape
    numbers = jax.jit(lambda held: held.dequantised(FLOAT32))(held)
    known_numbers = golden[f"{name}/{kind}/numbers"]
    np.testing.assert_allclose(
        numbers[: quantised_cases.ROWS], known_numbers, rtol=1e-5, atol=1e-12
    )


def assert_same_codes(found, expected):
    """Code by code: bytes hold those of columns in one, those of neighbours in the other."""
    for row, pairs in enumerate(expected):
        group, place = divmod(row, 64)
        held = np.asarray(found[32 * group + place % 32])
        codes = np.stack((pairs >> 4, pairs & 15), -1).reshape(-1)
        np.testing.assert_array_equal(held >> 4 if place < 32 else held & 15, codes, f"row {row}")


def quantised_parts(kind: str) -> list[str]:
    one = meshes.Parameter((1, 1, 64), ("layers", "heads", "embed"))
    return list(quantised.parts("a kernel", one, kind))


def test_tables_are_those_of_bitsandbytes(golden):
    prefix = "nf4/model.layers.0.mlp.up_proj.weight"
    np.testing.assert_array_equal(quantised.NF4, golden[f"{prefix}.quant_map"])
    np.testing.assert_allclose(quantised.DYNAMIC, golden[f"{prefix}.nested_quant_map"], rtol=1e-6)


def test_names_of_the_config_are_those_of_the_formats():
    assert (shared_schema.STORED, *quantised.FORMATS) == shared_schema.KERNELS.names


# ---------------------------------------------------------------------------- folders


@pytest.mark.parametrize("kind", quantised.FORMATS)
def test_a_kernel_quantised_on_reading_is_the_one_that_bitsandbytes_saved(
    folders, stored, one_device, kind
):
    config = hf.read_config(folders / STORED)
    made = hf.load(folders / STORED, config, one_device, FLOAT32, kind)
    assert_same_parts(made, stored[kind])
    floats = {name for name, leaf in trees.flatten(made).items() if isinstance(leaf, jax.Array)}
    assert floats == {name for name in llama.parameters(config) if not name.endswith("kernel")}


@pytest.mark.parametrize("name", FOLDERS)
def test_logits_are_those_of_transformers(folders, stored, golden, one_device, name):
    """And of a float model with the numbers that the codes stand for."""
    assert hf.read_config(folders / name) == hf.read_config(folders / STORED)
    assert bitsandbytes.held(folders / name) == name.partition(" ")[0]
    ids = jnp.asarray(quantised_cases.IDS)
    logits = whole_logits(model_of(folders, one_device, stored[name]), ids)
    np.testing.assert_allclose(logits, golden[f"{name}/logits"], rtol=1e-4, atol=1e-4)
    numbers = trees.map_named(lambda _, leaf: quantised.as_float(leaf, FLOAT32), stored[name])
    plain = whole_logits(model_of(folders, one_device, numbers), ids)
    np.testing.assert_allclose(logits, plain, rtol=1e-5, atol=1e-5)
    whole = whole_logits(model_of(folders, one_device, stored[STORED]), ids)
    assert np.abs(whole - plain).max() > 1e-2  # something was lost


def test_every_mesh_computes_the_same(folders, stored, one_device, eight_devices):
    """Codes are cut like kernels, read or made; a block of nf4 is never cut."""
    config, ids = hf.read_config(folders / STORED), jnp.asarray(quantised_cases.IDS * 4)
    alone = whole_logits(model_of(folders, one_device, stored["nf4"]), ids)
    for source, kernels in (("nf4", STORED), (STORED, "nf4")):
        weights = hf.load(folders / source, config, eight_devices, FLOAT32, kernels)
        assert_same_parts(weights, stored["nf4"])
        codes = weights["layers"]["down"]["kernel"].codes
        assert codes.sharding.shard_shape(codes.shape) == (2, 32, 64)
        planned = abstract.weights(llama.parameters(config), eight_devices, FLOAT32, "nf4")
        for held, known in zip(jax.tree.leaves(weights), jax.tree.leaves(planned), strict=True):
            assert (held.shape, held.dtype) == (known.shape, known.dtype)
            assert held.sharding.is_equivalent_to(known.sharding, held.ndim)
    many = whole_logits(model_of(folders, eight_devices, weights), ids)
    np.testing.assert_allclose(many, alone, rtol=1e-5, atol=1e-5)
    finer = meshes.build(2, 4, 1)
    with pytest.raises(ConfigError, match=r"kernel \(quantised\) has embed = 2, which mesh"):
        hf.load(folders / STORED, config, finer, FLOAT32, "nf4")
    assert hf.load(folders / STORED, config, finer, FLOAT32, "int8")


def test_some_rows_of_a_stored_kernel(folders):
    """As of a kernel that files hold fused: their blocks of scales begin within another's."""
    for name in FOLDERS:
        tensors = bitsandbytes.joined(hub.locate(folders / name))
        whole = tensors["model.layers.1.mlp.gate_proj.weight"]
        one, held = numbers_of(whole.rows(3, 120)), numbers_of(whole)
        np.testing.assert_array_equal(one, held[3:120])


def numbers_of(tensor: bitsandbytes.StoredKernel) -> np.ndarray:
    declared = meshes.Parameter((1, *tensor.shape), ("layers", "mlp", "embed"))
    parts = {
        key: jnp.asarray(tensor.part(key, 0, part.shape[1] if len(part.shape) > 1 else 1))
        for key, part in tensor.parts("a kernel", declared).items()
    }
    return np.asarray(quantised.assembled(tensor.kind, parts, tensor.skipped).dequantised(FLOAT32))


DAMAGED = {
    "another order": ("int8", {"q_proj.weight_format": np.uint8([3])}, "is 3, an order for GPUs"),
    "a scale that is no number": (
        "int8", {"q_proj.SCB": np.full(128, np.nan, np.float32)}, "q_proj.SCB is not finite",
    ),
    "scales of another kernel": (
        "nf4", {"q_proj.weight.absmax": np.zeros(9, np.uint8)}, "expected 256 numbers of U8",
    ),
    "another table": (
        "nf4", {"q_proj.weight.quant_map": np.linspace(-1, 1, 16, dtype=np.float32)},
        "another table than",
    ),
    "a state that is no JSON": (
        "nf4", {"q_proj.weight.quant_state.bitsandbytes__nf4": np.uint8([1, 2])}, "broken JSON",
    ),
    "fp4": (
        "nf4",
        {
            "q_proj.weight.quant_state.bitsandbytes__nf4": np.frombuffer(
                b'{"quant_type": "fp4", "blocksize": 64, "shape": [128, 128]}', np.uint8
            )
        },
        "expected nf4 with a shape",
    ),
    "a layer of numbers": (
        "int8", {"q_proj.weight": np.zeros((128, 128), np.float32), "q_proj.SCB": None,
                 "q_proj.weight_format": None},
        "has different formats in different layers",
    ),
    "nothing beside it": ("int8", {"q_proj.SCB": None, "q_proj.weight_format": None}, "dtype I8"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "changes", "told"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_folders_are_one_line(golden, one_device, tmp_path, name, changes, told):
    quantised_cases.write_quantised(tmp_path, golden, name)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    for key, value in changes.items():
        whole = f"model.layers.0.self_attn.{key}"
        del tensors[whole]
        tensors |= {} if value is None else {whole: value}
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=told):
        hf.load(tmp_path, hf.read_config(tmp_path), one_device, FLOAT32)


@pytest.mark.parametrize(
    "settings",
    [
        {"quant_method": "gptq", "bits": 4},
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
        {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_quant_storage": "bfloat16"},
        "nf4",
    ],
)
def test_other_quantisations_are_refused(settings):
    given = quantised_cases.CONFIG | {"quantization_config": settings}
    with pytest.raises(CheckpointError, match=r"quantised checkpoint .* expected int8 or nf4"):
        hf_config.parse(given, "config.json")


def test_one_format_is_not_made_of_another(folders, one_device, config, weights, tmp_path):
    known = hf.read_config(folders / STORED)
    with pytest.raises(ConfigError, match="base int8: .* has nf4, which would be rounded twice"):
        hf.load(folders / "nf4", known, one_device, FLOAT32, "int8")
    hf.export(tmp_path / "narrow", weights, config, None, "float32", 10**9)
    with pytest.raises(ConfigError, match="rows of 32 numbers, which blocks of 64 do not fill"):
        hf.load(tmp_path / "narrow", config, one_device, FLOAT32, "nf4")


# ---------------------------------------------------------------------------- adapters beside it


@pytest.mark.parametrize("name", ["nf4", "nf4 of plain scales"])
def test_adapters_on_a_quantised_base_are_those_of_peft(folders, stored, golden, one_device, name):
    model = model_of(folders, one_device, stored[name])
    adapted = dataclasses.replace(model, adapters=adapters())
    logits = whole_logits(adapted, jnp.asarray(quantised_cases.IDS))
    np.testing.assert_allclose(logits, golden[f"{name}/adapted"], rtol=1e-4, atol=2e-4)
    assert np.abs(golden[f"{name}/adapted"] - golden[f"{name}/logits"]).max() > 0.1


def test_a_merged_export_is_numbers(folders, stored, golden, tmp_path):
    """What PEFT adds to what bitsandbytes dequantises; the rest is the base. It opens as floats."""
    config, source = hf.read_config(folders / STORED), folders / "nf4"
    hf.export(tmp_path / "merged", stored["nf4"], config, source, "float32", 10**9, adapters())
    assert "quantization_config" not in json.loads((tmp_path / "merged/config.json").read_text())
    found = load_file(tmp_path / "merged" / "model.safetensors")
    merged = found["model.layers.1.self_attn.q_proj.weight"]
    np.testing.assert_allclose(merged, golden["nf4/merged"], rtol=1e-5, atol=1e-6)
    base = stored["nf4"]["layers"]["up"]["kernel"].dequantised(FLOAT32)
    np.testing.assert_array_equal(found["model.layers.1.mlp.up_proj.weight"], base[1])
    assert bitsandbytes.held(tmp_path / "merged") == STORED


def build(folders, mesh, source, kernels, adapter=True):
    config = hf.read_config(folders / STORED)
    settings = peft_config.LoraConfig(
        rank=4, alpha=8.0, dropout=0.0, targets=lora.targets(("all-linear",)), rslora=False,
        base_name="base", dtype="float32",
    )  # fmt: skip
    return policy.build(
        config, execute_on(mesh, "full", config.rules), folders / source, init="pretrained",
        base_dtype=jnp.dtype(FLOAT32), kernels=kernels, adapter=settings if adapter else None,
        initialization="peft", start_from=None, chunk_tokens=8, key=jax.random.key(0),
    )  # fmt: skip


def test_a_policy_begins_as_its_reference_and_learns(folders, one_device):
    """Fresh adapters add nothing, so DPO begins at ln 2; the gradient reaches them through the
    codes, and is that of a float base with the same numbers."""
    tokens = Tokens.one_a_row(jnp.asarray(quantised_cases.IDS), jnp.ones((1, 8), bool))
    tokens = dataclasses.replace(tokens, mask=tokens.positions > 2)
    trained, trainable, frozen = build(folders, one_device, STORED, "nf4")
    reference = jax.jit(trained.reference_logprobs)(None, frozen, tokens)

    @jax.jit
    def step(trainable, frozen):
        def loss(trainable):
            found = trained.token_logprobs(trainable, frozen, tokens, None).logprobs
            return -found.sum(), found

        (_, logprobs), gradient = jax.value_and_grad(loss, has_aux=True)(trainable)
        return logprobs, gradient

    logprobs, gradient = step(trainable, frozen)
    np.testing.assert_allclose(logprobs, reference, atol=2e-6)
    numbers = trees.map_named(lambda _, leaf: quantised.as_float(leaf, FLOAT32), frozen)
    _, expected = step(trainable, numbers)
    for (path, left), right in zip(
        jax.tree.leaves_with_path(gradient), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5, err_msg=str(path))
    assert float(jnp.abs(gradient["down"]["b"]).max()) > 1e-3


@pytest.mark.parametrize(("source", "kernels"), [("int8", STORED), (STORED, "nf4")])
def test_codes_are_not_trained(folders, one_device, source, kernels):
    with pytest.raises(ConfigError, match="codes cannot be trained"):
        build(folders, one_device, source, kernels, adapter=False)


# ---------------------------------------------------------------------------- configs and sizes


def test_configs_that_ask_codes_to_move_are_one_line():
    config = dpo.get_config("paper=script")
    assert config.model.base == "nf4" and not rules.broken_rules(config)
    config.lora.rank = 0
    assert "a quantised base cannot be trained in full" in rules.broken_rules(config)[0]
    rounds = raft.get_config("paper=b500")
    rounds.model.base = "int8"
    assert "raft.adapter is merge" in rules.broken_rules(rounds)[0]
    config = sft.get_config()
    config.model.base = "int4"
    assert "model.base is 'int4'; expected" in checks.problems(config, complete=False)[0]
    assert {c.model.base for c in (sft.get_config(), evaluate.get_config())} == {STORED}


def test_bytes_of_a_kernel_on_paper(one_device):
    """Of 2 layers of [128, 4096]: a byte a number and 4 a row; half a byte a number, a byte for 64
    and 4 for 64 · 256 of them, 4 a layer."""
    numbers = 2 * 128 * 4096
    declared = {
        "layers.up.kernel": meshes.Parameter((2, 128, 4096), ("layers", "mlp", "embed")),
        "layers.mlp_norm": meshes.Parameter((2, 10), ("layers", "norm")),
    }
    expected = {
        STORED: 2 * numbers,
        "int8": numbers + 4 * 2 * 128,
        "nf4": numbers // 2 + numbers // 64 + numbers // 64 // 256 * 4 + 2 * 4,
    }
    for kernels, size in expected.items():
        assert quantised.weights_bytes(declared, 2, kernels) == size + 40
        held = abstract.weights(declared, one_device, jnp.bfloat16, kernels)
        assert abstract.bytes_on_device(held) == size + 40
