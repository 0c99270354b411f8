"""Adapters: off is the base bit for bit, merged is the adapter model, dropout is what it says."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safety_jax.base import trees
from safety_jax.base.batch import Tokens
from safety_jax.base.errors import ConfigError
from safety_jax.models import llama, lora
from safety_jax.models.model import Model
from tests.samples import random_adapters

ROW = Tokens.one_a_row(jnp.arange(24)[None] % 17, jnp.ones((1, 24), bool))


@pytest.fixture(scope="module")
def forward(config, execution):
    def run(weights, adapters):
        return Model(config, execution, weights, adapters, None).forward(ROW)

    return jax.jit(run)


@pytest.mark.parametrize("initialization", ["peft", "zero_a"])
def test_fresh_adapters_leave_the_base_bit_for_bit(
    initialization, config, weights, one_device, forward
):
    leaves = lora.initialize(
        llama.parameters(config), lora.targets(("all-linear",)), 4, initialization,
        jax.random.key(1), one_device,
    )  # fmt: skip
    adapted = forward(weights, lora.Adapters(leaves, 2.0, 0.0))
    np.testing.assert_array_equal(adapted, forward(weights, None))


def test_initialization_follows_peft(config, one_device):
    """kaiming_uniform with a = sqrt(5) is uniform in ±1/sqrt(in): variance 1 / (3 in)."""
    wide = dataclasses.replace(config, width=256)
    leaves = lora.initialize(
        llama.parameters(wide), ("query",), 64, "peft", jax.random.key(1), one_device
    )
    a, b = leaves["query"]["a"], leaves["query"]["b"]
    assert float(jnp.abs(a).max()) <= 256**-0.5
    np.testing.assert_allclose(a.var(), 1 / (3 * 256), rtol=0.02)
    np.testing.assert_array_equal(b, 0)


def test_merged_equals_adapter_model(config, weights, one_device, forward):
    adapters = random_adapters(config, one_device)
    merged = lora.merge(weights, adapters)
    adapted = forward(weights, adapters)
    np.testing.assert_allclose(forward(merged, None), adapted, atol=2e-5)
    assert float(jnp.abs(adapted - forward(weights, None)).max()) > 0.1


def test_small_updates_add_up_in_a_base_of_bfloat16(config, weights, one_device):
    """Each is below what bfloat16 can show beside the weight; eight of them are not lost."""
    held = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), weights)
    adapters = random_adapters(config, one_device)
    query = {"query": adapters.weights["query"]}
    small = dataclasses.replace(adapters, weights=query, scale=1e-4)
    promoted = lora.promote(held, ("query",))
    merged = promoted
    for _ in range(8):
        merged = lora.merge(merged, small)
    types = [jax.tree.map(lambda leaf: leaf.dtype, tree) for tree in (promoted, merged)]
    assert types[0] == types[1] and types[0] != jax.tree.map(lambda leaf: leaf.dtype, held)
    update = np.asarray(query["query"]["b"] @ query["query"]["a"]) * 8e-4
    kernels = [trees.flatten(tree)["layers.query.kernel"] for tree in (held, merged)]
    np.testing.assert_allclose(
        np.asarray(kernels[1]) - np.asarray(kernels[0], np.float32), update, atol=1e-6
    )
    np.testing.assert_array_equal(held["embedding"], merged["embedding"])


def test_scaling_and_targets():
    assert lora.scaling(4, 8.0, rslora=False) == 2.0
    assert lora.scaling(4, 8.0, rslora=True) == 4.0
    assert lora.targets(("v_proj", "q_proj")) == ("query", "value")
    assert len(lora.targets(("all-linear",))) == 7
    with pytest.raises(ConfigError, match="output head cannot be adapted"):
        lora.targets(("lm_head",))
    with pytest.raises(ConfigError, match="give each by a flag of its own"):
        lora.targets(("q_proj,v_proj",))


def test_dropout_keeps_the_mean_and_needs_a_key(one_device):
    """keep = 3/4: an entry is 0 or 4/3, its mean 1; each layer, projection and feature draws its
    own."""
    x = jnp.ones((2048, 15))  # an odd number of features
    identity = {"a": jnp.eye(15)[None], "b": jnp.eye(15)[None]}
    adapters = lora.Adapters({"query": identity, "value": identity}, 1.0, 0.25)
    keyed = dataclasses.replace(adapters, key=jax.random.key(0))
    leaves = {
        name: jax.tree.map(lambda leaf: leaf[0], layer)
        for name, layer in lora.by_layer(keyed).items()
    }
    query, value = (
        np.asarray(lora.delta(x, leaves[name], one_device)) for name in ("query", "value")
    )
    np.testing.assert_allclose(np.unique(query), [0, 4 / 3], rtol=1e-6)
    np.testing.assert_allclose(query.mean(), 1, atol=0.02)
    assert (query != value).mean() > 0.2
    # Two features that are drawn alike would be 1; 0 is what independent ones come to.
    alike = np.corrcoef(query.T) - np.eye(15)
    assert np.abs(alike).max() < 5 / np.sqrt(2048)
    still = jax.tree.map(lambda leaf: leaf[0], lora.by_layer(adapters)["query"])
    np.testing.assert_array_equal(lora.delta(x, still, one_device), x)


def test_adapters_on_one_layer_are_adapters_without_the_others(
    config, weights, one_device, forward
):
    """The second layer's rows alone do to the bit what all do when the first layer's B is zero,
    and they are all that has a gradient."""
    every = random_adapters(config, one_device)
    quiet = trees.map_named(
        lambda name, leaf: leaf if name.endswith(".a") else leaf.at[0].set(0), every.weights
    )
    rows = jax.tree.map(lambda leaf: leaf[1:], every.weights)
    some = dataclasses.replace(every, weights=rows, on=lora.on((1,), 2))
    adapted = forward(weights, some)
    quietened = dataclasses.replace(every, weights=quiet)
    np.testing.assert_array_equal(adapted, forward(weights, quietened))
    merged, same = lora.merge(weights, some), lora.merge(weights, quietened)
    for name, kernel in trees.flatten(merged).items():
        np.testing.assert_array_equal(kernel, trees.flatten(same)[name])
    gradient = jax.grad(lambda one: jnp.sin(forward(weights, one)).sum())(some)
    for name, leaf in trees.flatten(gradient.weights).items():
        assert leaf.shape[0] == 1 and np.abs(leaf).max() > 0, name


def test_layers_by_number():
    assert lora.layer_numbers("", 4) is None
    assert lora.layer_numbers("0-3", 4) is None
    assert lora.layer_numbers("2-4, 7,0", 9) == (0, 2, 3, 4, 7)
    assert lora.on((0, 2), 4) == (True, False, True, False)
    for text in ("4", "3-1", "1-9", "x", "1-", "-1", "1,,2", "1.5"):
        with pytest.raises(ConfigError, match=r"lora\.layers"):
            lora.layer_numbers(text, 4)


def test_gradient_reaches_every_leaf(config, weights, one_device, forward):
    adapters = random_adapters(config, one_device)

    def total(leaves):
        return jnp.sin(forward(weights, dataclasses.replace(adapters, weights=leaves))).sum()

    for name, leaf in trees.flatten(jax.grad(total)(adapters.weights)).items():
        assert (np.abs(leaf).max(axis=(1, 2)) > 0).all(), name
