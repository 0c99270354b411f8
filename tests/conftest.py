"""Eight CPU devices, strict rank promotion, and the small models that tests share."""

from tests import environment  # before jax and transformers read it

# isort: split

import gc
import os
import shutil

import jax
import jax.numpy as jnp
import pytest

from safety_jax.base import compilation, meshes
from safety_jax.models import llama, rotary
from safety_jax.models.execution import Execution
from safety_jax.models.model import Model
from tests import costs
from tests.samples import execute_on

# A plugin of pytest has imported jax before its variables were set.
jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"])
compilation.keep("")
jax.config.update("jax_numpy_rank_promotion", "raise")
# One program at a time: two that wait for eight devices each can take each other's threads.
jax.config.update("jax_cpu_enable_async_dispatch", False)


def pytest_sessionstart(session):
    if not hasattr(session.config, "workerinput"):
        environment.sweep(environment.PROGRAMS)


def pytest_collection_modifyitems(items):
    """Dear files first, so that no worker begins one when the others have finished."""
    items.sort(key=lambda item: -costs.SECONDS.get(item.path.stem, 0))  # the rest as it was
    for item in items:
        if item.path.stem in costs.SECONDS:
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish():
    gc.freeze()  # what was imported stays: no collection looks at it again


def pytest_unconfigure():
    shutil.rmtree(environment.CACHE, ignore_errors=True)


@pytest.fixture(scope="session")
def one_device():
    return meshes.build(1, 1, 1, devices=jax.devices()[:1])


@pytest.fixture(scope="session")
def eight_devices():
    return meshes.build(2, 2, 2)


@pytest.fixture(scope="session")
def config() -> llama.LlamaConfig:
    """Two layers, grouped heads, an untied head; spread wide enough that errors show."""
    return llama.LlamaConfig(
        vocabulary_size=96, width=32, mlp_width=64, layers=2, heads=4, kv_heads=2, head_size=8,
        rotary_size=8, pattern=(llama.LayerKind(None, rotary.Rope(1e4)),), norms="before",
        norm_epsilon=1e-5, norm_plus_one=False, query_key_norm="none", tied_embeddings=False,
        query_key_value_bias=False, output_bias=False, mlp_bias=False, activation="silu",
        attention_scale=8**-0.5, attention_softcap=None, embedding_scale=1.0, residual_scale=1.0,
        logit_scale=1.0, logit_softcap=None, files="llama", nested=False, max_positions=128,
        initializer_range=0.3,
    )  # fmt: skip


@pytest.fixture(scope="session")
def execution(one_device) -> Execution:
    return execute_on(one_device)


@pytest.fixture(scope="session")
def weights(config, one_device):
    return llama.initialize(config, jax.random.key(0), one_device, jnp.float32)


@pytest.fixture(scope="session")
def small_model(config, execution, weights) -> Model:
    """The three above; without adapters and tokenizer."""
    return Model(config, execution, weights, None, None)
