"""Dropout: its random bits are Threefry's, its features fall as often as asked, each on its own."""

import jax
import jax.extend.random
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from safety_jax.base import meshes
from safety_jax.models import dropout


def test_blocks_are_threefrys():
    """As jax computes them, and as the paper's authors publish them for a key of zeros."""
    key = jax.random.key(7)
    first, second = (
        jnp.arange(50, dtype=jnp.uint32),
        jnp.arange(50, dtype=jnp.uint32) * jnp.uint32(0x9E3779B9),
    )
    found = jnp.concatenate(dropout.threefry(jax.random.key_data(key), first, second))
    words = jnp.concatenate([first, second])
    wanted = jax.extend.random.threefry_2x32(jax.random.key_data(key), words)
    np.testing.assert_array_equal(found, wanted)
    zero = jnp.uint32(0)
    known = dropout.threefry(jnp.zeros(2, jnp.uint32), zero, zero)
    assert [int(word) for word in known] == [0x6B200159, 0x99BA4EFE]


@pytest.mark.parametrize("features", [6, 64])
def test_draws_are_even_and_independent(features):
    """By scipy's tests: values, neighbours in a row, in a column, and quarters of a block."""
    drawn = np.asarray(dropout.draws(jax.random.key(1), (4096, features)))
    assert drawn.shape == (4096, features)
    assert drawn.max() < 2**16
    counts = np.bincount(drawn.ravel() >> 8, minlength=256)
    assert stats.chisquare(counts).pvalue > 1e-3
    quarter = -(-features // 4)
    for other in (np.roll(drawn, 1, 0), np.roll(drawn, 1, 1), np.roll(drawn, quarter, 1)):
        assert stats.pearsonr(drawn.ravel(), other.ravel()).pvalue > 1e-3
    assert (drawn != np.asarray(dropout.draws(jax.random.key(2), drawn.shape))).mean() > 0.99


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_features_stay_as_often_as_asked(dtype, eight_devices):
    """And the same ones on eight devices."""
    x, keep = jnp.ones((1024, 48), dtype), jnp.float32(0.9)
    dropped = dropout.drop(x, keep, jax.random.key(0))
    assert dropped.dtype == dtype
    np.testing.assert_allclose(np.unique(dropped.astype(jnp.float32)), [0, 1 / 0.9], rtol=2**-8)
    stayed = int((dropped > 0).sum())
    assert stats.binomtest(stayed, dropped.size, 0.9).pvalue > 1e-3
    sharded = jax.device_put(x, meshes.sharding(eight_devices, ("rows", "width"), x.shape))
    np.testing.assert_array_equal(jax.jit(dropout.drop)(sharded, keep, jax.random.key(0)), dropped)
