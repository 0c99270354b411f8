"""Hugging Face folders of tiny models, in any dtype and number of shards, and what is in them."""

import itertools
import json

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from safety_jax.base.errors import CheckpointError
from safety_jax.models.folders import hf, hub
from tests.golden import cases

DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


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
