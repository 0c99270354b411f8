"""Hugging Face folders in and out: bitwise, strict both ways, the same on every mesh."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from safety_jax.base import trees
from safety_jax.base.errors import ConfigError
from safety_jax.models import llama
from safety_jax.models.folders import hf, hub, safetensors, streaming
from tests.golden import cases
from tests.hf_folders import DTYPES, assert_same_bytes, load, refusal, stored, write_folder

GIGABYTES = 5_000_000_000
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


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
    code = {"AutoModel": "internlm/internlm2-7b--modeling_internlm2.InternLM2ForCausalLM"}
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


def test_a_model_without_a_head_hears_of_tied_weights(tmp_path, one_device):
    folder = write_folder(tmp_path / "model", "llama_grouped", changes=without(HEAD))
    message = refusal(folder, one_device)
    assert message.endswith("set tie_word_embeddings to true in config.json")
    other = write_folder(tmp_path / "other", "llama_grouped", changes=without(GATE))
    assert "tie_word_embeddings" not in refusal(other, one_device)


def test_truncated_weights(tmp_path, one_device):
    folder = write_folder(tmp_path / "model", "llama_grouped")
    content = (folder / hub.WEIGHTS).read_bytes()
    (folder / hub.WEIGHTS).write_bytes(content[: len(content) // 2])
    message = refusal(folder, one_device)
    assert "truncated" in message and hub.WEIGHTS in message


def test_mesh_that_does_not_divide(tmp_path, eight_devices):
    folder = write_folder(tmp_path, "llama_multi_query")
    assert "mesh does not divide" in refusal(folder, eight_devices, ConfigError)
