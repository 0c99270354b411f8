"""Finds weights that are not finite. A model with such weights answers with noise, so runs end."""

import jax
import jax.numpy as jnp

from safety_jax.base import trees
from safety_jax.models import bits

_all_finite = jax.jit(lambda array: jnp.isfinite(array).all())


def broken(weights: trees.Tree) -> str | None:
    """A message that names a weight with numbers that are not finite; None if all are finite."""
    for name, weight in trees.flatten(weights).items():
        if not all(bool(_all_finite(bits.floats(part))) for part in jax.tree.leaves(weight)):
            return f"the weight {name} holds numbers that are not finite; use another copy"
    return None


def origin(weights: trees.Tree, compute_dtype: str) -> str:
    """A message on the cause of numbers that are not finite: a weight, or the arithmetic."""
    return broken(weights) or (
        f"all weights are finite, so the numbers overflow in {compute_dtype}, or config.json gives "
        "a value that the model was not made for: compute in float32, or compare config.json with "
        "the original"
    )
