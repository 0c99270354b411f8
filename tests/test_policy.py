"""What moves and what stands still, for adapters, full tuning and a start from an adapter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safety_jax.base.errors import ConfigError
from safety_jax.models import lora
from safety_jax.models.execution import float_type
from safety_jax.models.folders import hf, peft, peft_config
from safety_jax.training import policy
from tests.samples import execute_on, on_device, packed_rows, random_adapters

SETTINGS = peft_config.LoraConfig(
    rank=4, alpha=8.0, dropout=0.25, targets=lora.targets(("all-linear",)), rslora=False,
    base_name="base", dtype="float32",
)  # fmt: skip


@pytest.fixture(scope="module")
def folders(config, weights, one_device, tmp_path_factory):
    """A base folder and an adapter folder for it."""
    folder = tmp_path_factory.mktemp("policy")
    hf.export(folder / "base", weights, config, None, "float32", 10**9)
    peft.export(folder / "adapter", random_adapters(config, one_device), SETTINGS)
    return folder


def build(config, folders, mesh, **changes):
    given = dict(
        init="pretrained", base_dtype=jnp.dtype("float32"), adapter=SETTINGS,
        initialization="peft", start_from=None, chunk_tokens=8, key=jax.random.key(0),
    )  # fmt: skip
    run = execute_on(mesh)
    return policy.build(config, run, folders / "base", **(given | changes))


def logprobs(built, key=None):
    trained, trainable, frozen = built
    tokens = on_device(packed_rows([[9, 6], [14]], 16, 96))
    return np.asarray(trained.token_logprobs(trainable, frozen, tokens, key).logprobs)


def test_fresh_adapters_give_the_base_and_merged_gives_the_adapters(config, folders, one_device):
    base = logprobs(build(config, folders, one_device, adapter=None))
    np.testing.assert_array_equal(logprobs(build(config, folders, one_device)), base)
    start = folders / "adapter"
    adapted = logprobs(build(config, folders, one_device, start_from=start))
    merged = build(config, folders, one_device, start_from=start, adapter=None)
    np.testing.assert_allclose(logprobs(merged), adapted, atol=2e-5)
    assert merged[2] == {} and np.abs(adapted - base).max() > 0.1


def test_dropout_needs_a_key_and_follows_it(config, folders, one_device):
    built = build(config, folders, one_device, start_from=folders / "adapter")
    first, again, other = (logprobs(built, jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    assert np.abs(first - logprobs(built)).max() > 1e-3


def test_what_cannot_be_is_refused(config, folders, one_device):
    with pytest.raises(ConfigError, match="model.init 'fresh'"):
        build(config, folders, one_device, init="fresh")
    with pytest.raises(ConfigError, match="set lora.rank=0"):
        build(config, folders, one_device, init="random")
    with pytest.raises(ConfigError, match="model.compute_dtype 'float16': expected bfloat16"):
        float_type("model.compute_dtype", "float16")
