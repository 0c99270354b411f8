"""Hugging Face folders in and out: bitwise, strict both ways, the same on every mesh."""

import dataclasses
import itertools
import json
import resource
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import opened
import pytest
from safetensors.numpy import load_file, save_file
from samples import random_adapters, with_window

from safety_jax.base import trees
from safety_jax.base.errors import CheckpointError, ConfigError
from safety_jax.models import llama
from safety_jax.models.folders import hf, hub, safetensors, streaming
from tests.golden import cases

GIGABYTES = 5_000_000_000
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
TOKENIZER = {"bos_token": "<s>", "added_tokens_decoder": {"1": {"content": "<s>"}}}


def write_folder(folder, name, dtype="float32", shards=1, changes=None, **attributes):
    """A case's folder in any dtype and number of shards; `changes` alters its tensors."""
    config = cases.read_config(name) | {"dtype": dtype} | attributes
    tensors = {key: value.astype(DTYPES[dtype]) for key, value in cases.weights(config).items()}
    tensors = changes(tensors) if changes else tensors
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(tensors, folder / hub.WEIGHTS, metadata={"format": "pt"})
        return folder
    weight_map = {}
    for number in range(shards):
        file = f"model-{number}.safetensors"
        part = dict(itertools.islice(tensors.items(), number, None, shards))
        save_file(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / hub.INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return folder


def stored(folder) -> dict[str, np.ndarray]:
    """Every tensor of a folder, by the library."""
    tensors: dict[str, np.ndarray] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found = load_file(file)
        assert not tensors.keys() & found.keys()
        tensors |= found
    return tensors


def assert_same_bytes(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        assert found[name].tobytes() == array.tobytes(), name


def load(folder, mesh, dtype=jnp.float32):
    return hf.load(folder, hf.read_config(folder), mesh, dtype)


def refusal(folder, mesh, error=CheckpointError) -> str:
    with pytest.raises(error) as raised:
        load(folder, mesh)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# ---------------------------------------------------------------------------- there and back


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["llama_tied", "qwen2", "gemma_untied", "phi3", "olmo3"])
def test_round_trip_is_bitwise(name, dtype, shards, tmp_path, one_device):
    source = write_folder(tmp_path / "source", name, dtype, shards)
    config = hf.read_config(source)
    weights = load(source, one_device, DTYPES[dtype])
    limit = GIGABYTES if shards == 1 else 10_000
    hf.export(tmp_path / "export", weights, config, source, DTYPES[dtype], limit)
    assert_same_bytes(stored(tmp_path / "export"), stored(source))
    assert hf.read_config(tmp_path / "export") == config
    assert json.loads((tmp_path / "export" / "config.json").read_text())["dtype"] == dtype
    if shards == 1:
        files = [folder / hub.WEIGHTS for folder in (source, tmp_path / "export")]
        assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("name", cases.CASES)
def test_every_family_maps_every_weight(name, tmp_path, one_device):
    """Against names and shapes written down independently, and each value in its place."""
    source = write_folder(tmp_path, name)
    config = hf.read_config(source)
    flat = trees.flatten(load(source, one_device))
    expected = stored(source)
    seen = set()
    if config.files != "llama":
        expected |= split_by_hand(expected, config)
    for ours, names in hf.hf_names(config).items():
        arrays = flat[ours] if ours.startswith("layers.") else [flat[ours]]
        for theirs, array in zip(names, arrays, strict=True):
            np.testing.assert_array_equal(array, expected[theirs], err_msg=theirs)
            seen.add(theirs)
    fused = ("qkv_proj", "gate_up_proj", "input_linear")
    assert seen == {name for name in expected if not any(part in name for part in fused)}


def split_by_hand(tensors, config):
    """The parts of the fused weights of Phi-3 and Granite 4."""
    found = {}
    query, key = config.heads * config.head_size, config.kv_heads * config.head_size
    for layer in range(config.layers):
        prefix = f"model.layers.{layer}."
        both = "mlp.gate_up_proj" if config.files == "phi3" else "shared_mlp.input_linear"
        gate, up = np.split(tensors[f"{prefix}{both}.weight"], 2)
        found |= {f"{prefix}mlp.gate_proj.weight": gate, f"{prefix}mlp.up_proj.weight": up}
        if config.files != "phi3":
            continue
        whole = tensors[f"{prefix}self_attn.qkv_proj.weight"]
        parts = np.split(whole, [query, query + key])
        for name, part in zip(("q_proj", "k_proj", "v_proj"), parts, strict=True):
            found[f"{prefix}self_attn.{name}.weight"] = part
    return found


def as_internlm2(tensors, groups):
    """The weights of a LLaMA in InternLM2's names and order, as its own code takes them apart:
    `rearrange("(h gs d) -> h gs d", gs=2 + queries per key)`, the last two of gs key and value."""
    renamed = {
        "model.embed_tokens": "model.tok_embeddings", "lm_head": "output",
        "self_attn.o_proj": "attention.wo", "mlp.gate_proj": "feed_forward.w1",
        "mlp.up_proj": "feed_forward.w3", "mlp.down_proj": "feed_forward.w2",
        "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    found = {}
    for name, tensor in tensors.items():
        if "q_proj" in name:
            parts = [tensors[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            apart = [part.reshape(groups, -1, *part.shape[1:]) for part in parts]
            whole = np.concatenate(apart, axis=1).reshape(-1, *tensor.shape[1:])
            found[name.replace("self_attn.q_proj", "attention.wqkv")] = whole
        elif "k_proj" not in name and "v_proj" not in name:
            for ours, theirs in renamed.items():
                name = name.replace(ours, theirs)
            found[name] = tensor
    return found


@pytest.mark.parametrize("bias", [False, True])
def test_internlm2_is_a_llama_under_other_names(bias, tmp_path, one_device, monkeypatch):
    """The same weights, whatever pieces they are read in; exported, they are a LLaMA's folder."""
    known = write_folder(tmp_path / "llama", "llama_grouped", attention_bias=bias)
    tensors, attributes = stored(known), json.loads((known / "config.json").read_text())
    groups = attributes["num_key_value_heads"]
    random = np.random.default_rng(0)
    if bias:
        for name, tensor in list(tensors.items()):
            if "self_attn" in name:
                values = random.normal(size=len(tensor)).astype(np.float32)
                tensors[name.replace("weight", "bias")] = values
        save_file(tensors, known / hub.WEIGHTS, metadata={"format": "pt"})
    own = {"model_type": "internlm2", "architectures": ["InternLM2ForCausalLM"], "bias": bias}
    code = {"AutoModel": "modeling_internlm2.InternLM2ForCausalLM"}
    del attributes["attention_bias"]
    folder = tmp_path / "internlm2"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(attributes | own | {"auto_map": code}))
    save_file(as_internlm2(tensors, groups), folder / hub.WEIGHTS, metadata={"format": "pt"})
    monkeypatch.setattr(safetensors, "CHUNK_BYTES", 700)  # pieces end within heads

    config = hf.read_config(folder)
    assert config == hf.read_config(known)
    found, expected = load(folder, one_device), load(known, one_device)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    hf.export(tmp_path / "export", found, config, folder, np.float32, GIGABYTES)
    assert_same_bytes(stored(tmp_path / "export"), tensors)
    written = json.loads((tmp_path / "export" / "config.json").read_text())
    assert written["architectures"] == ["LlamaForCausalLM"] and "auto_map" not in written

    (folder / "config.json").write_text(
        json.dumps(attributes | own | {"auto_map": {"AutoModel": "modeling_other.Net"}})
    )
    assert "auto_map" in refusal(folder, one_device)


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_the_text_model_of_a_model_with_eyes_is_read_alone(prefix, tmp_path, one_device):
    """From both of the names that its weights had; what is written is the text model."""
    plain = write_folder(tmp_path / "plain", "gemma3")

    def within(tensors):
        named = {name.replace("model.", prefix, 1): x for name, x in tensors.items()}
        return named | {"vision_tower.x": VECTOR, "multi_modal_projector.y": VECTOR}

    source = write_folder(tmp_path / "source", "gemma3", changes=within)
    text = json.loads((source / "config.json").read_text()) | {"architectures": None}
    whole = {"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 8}}
    (source / "config.json").write_text(json.dumps(whole))
    config = hf.read_config(source)
    assert config == dataclasses.replace(hf.read_config(plain), nested=True)
    weights = load(source, one_device)
    hf.export(tmp_path / "export", weights, config, source, jnp.float32, GIGABYTES)
    assert_same_bytes(stored(tmp_path / "export"), stored(plain))
    assert hf.read_config(tmp_path / "export") == hf.read_config(plain)
    written = json.loads((tmp_path / "export" / "config.json").read_text())
    assert written["architectures"] == ["Gemma3ForCausalLM"]


@pytest.mark.parametrize("name", ["llama_tied", "llama_grouped", "qwen2", "qwen3"])
def test_eight_devices_hold_the_same_weights(name, tmp_path, one_device, eight_devices):
    source = write_folder(tmp_path / "source", name, "bfloat16", shards=2)
    config = hf.read_config(source)
    alone, spread = (load(source, mesh, jnp.bfloat16) for mesh in (one_device, eight_devices))
    shardings = trees.flatten(llama.shardings(config, eight_devices))
    split = 0
    for ours, array in trees.flatten(spread).items():
        assert array.sharding == shardings[ours]
        split += array.addressable_shards[0].data.size < array.size
        expected = trees.flatten(alone)[ours]
        assert np.asarray(array).tobytes() == np.asarray(expected).tobytes(), ours
    assert split > 5
    hf.export(tmp_path / "export", spread, config, source, jnp.bfloat16, GIGABYTES)
    assert_same_bytes(stored(tmp_path / "export"), stored(source))


def test_shards_of_one_weight_may_be_read_in_turns(tmp_path, eight_devices, monkeypatch):
    source = write_folder(tmp_path, "llama_grouped")
    expected = load(source, eight_devices)
    monkeypatch.setattr(streaming, "HOST_BUFFER_BYTES", 1)
    for ours, array in trees.flatten(load(source, eight_devices)).items():
        np.testing.assert_array_equal(array, trees.flatten(expected)[ours], err_msg=ours)


def test_cpu_arrays_are_the_buffers_that_were_read(tmp_path, one_device, monkeypatch):
    """Adopted, not copied: otherwise a load would hold the weights twice."""
    buffers = []
    make = streaming._aligned_empty

    def remember(shape, dtype):
        buffers.append(make(shape, dtype))
        return buffers[-1]

    monkeypatch.setattr(streaming, "_aligned_empty", remember)
    weights = load(write_folder(tmp_path, "llama_grouped"), one_device, jnp.bfloat16)
    places = {buffer.ctypes.data for buffer in buffers}
    for array in jax.tree.leaves(weights):
        assert array.unsafe_buffer_pointer() in places


def test_cast_while_reading(tmp_path, one_device):
    source = write_folder(tmp_path, "llama_grouped")
    weights = load(source, one_device, jnp.bfloat16)
    expected = stored(source)["model.norm.weight"].astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(weights["final_norm"], expected)
    assert {array.dtype for array in jax.tree.leaves(weights)} == {jnp.dtype(jnp.bfloat16)}


# ---------------------------------------------------------------------------- strictness


def without(*names):
    return lambda tensors: {name: x for name, x in tensors.items() if name not in names}


def with_extra(**extra):
    return lambda tensors: tensors | {name.replace("__", "."): x for name, x in extra.items()}


def renamed(old, new):
    return lambda tensors: {new if name == old else name: x for name, x in tensors.items()}


GATE = "model.layers.1.mlp.gate_proj.weight"
VECTOR = np.zeros(4, np.float32)
STRICT = {
    "missing": (without(GATE), f"missing {GATE}"),
    "missing in bulk": (lambda _: {"x": VECTOR}, "and 17 more; unexpected model.x"),
    "unmapped": (with_extra(model__extra__weight=VECTOR), "unexpected model.extra.weight"),
    "renamed": (renamed(GATE, "model.w1"), f"missing {GATE}; unexpected model.w1"),
    "a layer too many": (
        with_extra(model__layers__2__mlp__gate_proj__weight=VECTOR),
        "unexpected model.layers.2.mlp.gate_proj.weight",
    ),
    "a bias without switch": (
        with_extra(model__layers__0__self_attn__q_proj__bias=VECTOR),
        "unexpected model.layers.0.self_attn.q_proj.bias",
    ),
    "untied without head": (without(HEAD), f"missing {HEAD}"),
    "another shape": (
        lambda tensors: tensors | {GATE: tensors[GATE].T.copy()},
        f"tensor {GATE} has shape [32, 48], but config.json asks for [48, 32]",
    ),
    "another dtype": (
        lambda tensors: tensors | {GATE: tensors[GATE].astype(np.float64)},
        f"tensor {GATE} has dtype F64",
    ),
}


@pytest.mark.parametrize("case", STRICT)
def test_weights_that_do_not_fit_are_refused(case, tmp_path, one_device):
    changes, message = STRICT[case]
    folder = write_folder(tmp_path / "model", "llama_grouped", changes=changes)
    assert message in refusal(folder, one_device)


def test_frequencies_that_old_releases_stored_are_ignored(tmp_path, one_device):
    extra = {f"model__layers__{layer}__self_attn__rotary_emb__inv_freq": VECTOR for layer in (0, 1)}
    source = write_folder(tmp_path, "llama_grouped", changes=with_extra(**extra))
    assert "rotary" not in " ".join(trees.flatten(load(source, one_device)))


def test_a_stored_head_of_a_tied_model_must_equal_the_embedding(tmp_path, one_device):
    def with_head(tensors, delta):
        return tensors | {HEAD: tensors[EMBEDDING] + np.float32(delta)}

    same = write_folder(tmp_path / "same", "llama_tied", changes=lambda t: with_head(t, 0))
    assert "head" not in load(same, one_device)
    other = write_folder(tmp_path / "other", "llama_tied", changes=lambda t: with_head(t, 1))
    assert f"{HEAD} differs from {EMBEDDING}" in refusal(other, one_device)


def test_truncated_weights(tmp_path, one_device):
    folder = write_folder(tmp_path / "model", "llama_grouped")
    content = (folder / hub.WEIGHTS).read_bytes()
    (folder / hub.WEIGHTS).write_bytes(content[: len(content) // 2])
    message = refusal(folder, one_device)
    assert "truncated" in message and hub.WEIGHTS in message


def test_mesh_that_does_not_divide(tmp_path, eight_devices):
    folder = write_folder(tmp_path, "llama_multi_query")
    assert "mesh does not divide" in refusal(folder, eight_devices, ConfigError)


# ---------------------------------------------------------------------------- export


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = write_folder(tmp_path_factory.mktemp("models") / "source", "llama_grouped")
    for name in ("tokenizer.json", "vocab.json", "LICENSE.txt", "notes.txt", "pytorch_model.bin"):
        (folder / name).write_text('{"added_tokens": []}')
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER))
    (folder / hub.WEIGHTS).rename(folder / "real.safetensors")  # as in the Hub's cache
    (folder / hub.WEIGHTS).symlink_to("real.safetensors")
    (folder / "generation_config.json").write_text('{"temperature": 0.6}')
    return folder


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_export_takes_tokenizer_and_configs_along(source, tmp_path, one_device):
    config = hf.read_config(source)
    target = tmp_path / "runs" / "export"
    hf.export(target, load(source, one_device), config, source, jnp.float32, GIGABYTES)
    assert names(target) == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
        "LICENSE.txt",
    }
    assert json.loads((target / "generation_config.json").read_text()) == {"temperature": 0.6}
    assert not any(path.is_symlink() for path in target.iterdir())


def test_shards_stay_below_the_limit_and_the_index_is_complete(source, tmp_path, one_device):
    config, limit = hf.read_config(source), 13_000
    hf.export(tmp_path / "x", load(source, one_device), config, source, jnp.float32, limit)
    files = sorted((tmp_path / "x").glob("*.safetensors"))
    index = json.loads((tmp_path / "x" / hub.INDEX).read_text())
    assert [file.name for file in files] == sorted(set(index["weight_map"].values()))
    assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    sizes = [sum(array.nbytes for array in load_file(file).values()) for file in files]
    assert max(sizes) <= limit and len(files) > 3
    assert index["metadata"]["total_size"] == sum(sizes)
    assert_same_bytes(stored(tmp_path / "x"), load_file(source / hub.WEIGHTS))


def test_a_tensor_above_the_limit_gets_its_own_file(source, tmp_path, one_device):
    config = hf.read_config(source)
    hf.export(tmp_path / "x", load(source, one_device), config, source, jnp.float32, 1)
    assert len(list((tmp_path / "x").glob("*.safetensors"))) == len(load_file(source / hub.WEIGHTS))


def test_export_in_another_dtype(source, tmp_path, one_device):
    config = hf.read_config(source)
    hf.export(tmp_path / "x", load(source, one_device), config, source, jnp.bfloat16, GIGABYTES)
    written = json.loads((tmp_path / "x" / "config.json").read_text())
    assert written["dtype"] == written["torch_dtype"] == "bfloat16"
    expected = {
        name: array.astype(ml_dtypes.bfloat16)
        for name, array in load_file(source / hub.WEIGHTS).items()
    }
    assert_same_bytes(stored(tmp_path / "x"), expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_adapter_is_added_in_float32_whatever_the_base_is_held_in(
    dtype, tmp_path, one_device, eight_devices
):
    """Against sums in float64 on a base held in bfloat16; and how much rounding takes of them."""
    folder = write_folder(tmp_path / "source", "llama_grouped", "bfloat16")
    config = hf.read_config(folder)
    for mesh in (one_device, eight_devices):
        adapters = random_adapters(config, mesh)
        adapters = dataclasses.replace(adapters, scale=adapters.scale * 2e-3)
        held = load(folder, mesh, jnp.bfloat16)
        lost = hf.export(tmp_path / "x", held, config, None, dtype, GIGABYTES, adapters)
        before, after = stored(folder), stored(tmp_path / "x")
        stayed = []
        for target, pair in adapters.weights.items():
            for layer, name in enumerate(hf.hf_names(config)[f"layers.{target}.kernel"]):
                a, b = (np.asarray(pair[factor][layer], np.float64) for factor in "ab")
                base, found = before.pop(name), after.pop(name)
                exact = base.astype(np.float64) + adapters.scale * (b @ a)
                relative = 2.0**-8 if dtype == "bfloat16" else 1e-6
                np.testing.assert_allclose(found.astype(np.float64), exact, relative, 1e-6)
                stayed.append(exact.astype(DTYPES[dtype]) == base)
        assert_same_bytes(after, {k: v.astype(DTYPES[dtype]) for k, v in before.items()})
        share = np.concatenate([part.ravel() for part in stayed]).mean()
        np.testing.assert_allclose(lost, share, atol=2e-3)
        assert 0.1 < share < 0.9 if dtype == "bfloat16" else share < 1e-3


def test_a_model_from_random_weights_gets_a_config_of_its_own(source, tmp_path, one_device):
    """The source then lends its tokenizer only, whatever its config.json says."""
    config = with_window(dataclasses.replace(hf.read_config(source), layers=1), 7)
    weights = llama.initialize(config, jax.random.key(0), one_device, jnp.float32)
    for given in (source, None):
        hf.export(tmp_path / "x", weights, config, given, jnp.float32, GIGABYTES)
        assert hf.read_config(tmp_path / "x") == config
        written = json.loads((tmp_path / "x" / "config.json").read_text())
        assert written["model_type"] == "mistral"
        assert written["bos_token_id"] == (None if given is None else 1)
        generation = json.loads((tmp_path / "x" / "generation_config.json").read_text())
        assert generation["bos_token_id"] == written["bos_token_id"]
        again = load(tmp_path / "x", one_device)
        for found, expected in zip(jax.tree.leaves(again), jax.tree.leaves(weights), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_weights_of_another_config_are_a_bug(source, tmp_path, one_device):
    config = dataclasses.replace(hf.read_config(source), tied_embeddings=True)
    with pytest.raises(ValueError, match="not those of the config"):
        hf.export(tmp_path / "x", load(source, one_device), config, None, jnp.float32, GIGABYTES)


def test_the_source_is_never_replaced(source, one_device):
    config, weights = hf.read_config(source), load(source, one_device)
    with pytest.raises(CheckpointError, match="the model's own folder"):
        hf.export(source, weights, config, source, jnp.float32, GIGABYTES)


def test_a_full_disk_leaves_the_older_export(source, tmp_path, one_device):
    """The limit on file size stands for the full disk: a real write fails with a real error."""
    config, weights = hf.read_config(source), load(source, one_device)
    shutil.copytree(source, tmp_path / "export")
    before = names(tmp_path / "export")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(CheckpointError, match="cannot write .*export"):
            hf.export(tmp_path / "export", weights, config, source, jnp.float32, GIGABYTES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == {"export"} and names(tmp_path / "export") == before
    assert_same_bytes(load_file(tmp_path / "export" / hub.WEIGHTS), load_file(source / hub.WEIGHTS))


# ---------------------------------------------------------------------------- transformers


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore::FutureWarning")  # raised inside transformers
@pytest.mark.parametrize("spelling", ["new", "old"])
@pytest.mark.parametrize("name", cases.CASES)
def test_transformers_opens_an_export(name, spelling, tmp_path, one_device):
    """Every family, sharded, with only one of the two spellings of rope left in config.json."""
    source = write_folder(tmp_path / "source", name)
    config = hf.read_config(source)
    weights = load(source, one_device)
    hf.export(tmp_path / "export", weights, config, source, jnp.float32, 20_000)
    attributes = json.loads((tmp_path / "export" / "config.json").read_text())
    drop = ("rope_theta", "rope_scaling") if spelling == "new" else ("rope_parameters",)
    attributes = {key: value for key, value in attributes.items() if key not in drop}
    (tmp_path / "export" / "config.json").write_text(json.dumps(attributes))

    ids = cases.read_golden(name)["ids"]
    expected = opened.by_transformers(opened.model_of(tmp_path / "export"), ids)
    found = opened.by_us(config, weights, ids, one_device)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
