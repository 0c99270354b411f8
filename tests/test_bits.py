"""What lies as integers on a CPU computes as the floats that it was (models/bits.py)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safety_jax.base import trees
from safety_jax.models.decoding import caches, layout
from tests.samples import whole_logits


@pytest.mark.parametrize("kept", [jnp.bfloat16, jnp.float32])
def test_matrices_and_caches_lie_as_integers_and_compute_the_same(kept, small_model):
    weights = jax.tree.map(lambda weight: weight.astype(kept), small_model.weights)
    run = dataclasses.replace(small_model.execution, compute_dtype=jnp.dtype(jnp.bfloat16))
    model = dataclasses.replace(small_model, weights=weights, execution=run)
    logits, ids = jax.jit(whole_logits), jnp.arange(21, 33)[None]
    with layout.lent(model) as speaker:
        types = {name: leaf.dtype for name, leaf in trees.flatten(speaker.weights).items()}
        assert {name for name, kind in types.items() if kind == jnp.uint16} == {
            name for name in types if "norm" not in name
        }
        np.testing.assert_array_equal(logits(speaker, ids), logits(model, ids))
    sizes = caches.CacheSizes(1, 1, 32, 32, 32, 32)
    cache = caches.allocate(model.config, sizes, kept, model.mesh)
    held = jnp.uint16 if kept == jnp.bfloat16 else kept
    assert {part.dtype for part in jax.tree.leaves(cache)} == {jnp.dtype(held)}
