"""Exported folders: whole, below the size limit, with all that belongs to a model."""

import dataclasses
import json
import resource
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from safety_jax.base.errors import CheckpointError
from safety_jax.models import llama
from safety_jax.models.folders import hf, hub
from tests import opened
from tests.golden import cases
from tests.hf_folders import DTYPES, assert_same_bytes, load, stored, write_folder
from tests.samples import random_adapters, with_window

GIGABYTES = 5_000_000_000
TOKENIZER = {"bos_token": "<s>", "added_tokens_decoder": {"1": {"content": "<s>"}}}


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
