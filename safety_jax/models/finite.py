"""Finds weights that are not finite: a model that has them answers with noise, so runs end."""

import jax
import jax.numpy as jnp

from safety_jax.base import trees
from safety_jax.models import bits

_all_finite = jax.jit(lambda array: jnp.isfinite(array).all())


def broken(weights: trees.Tree) -> str | None:
    """Says which weight holds numbers that are not finite; None where all are finite."""
    for name, weight in trees.flatten(weights).items():
        if not all(bool(_all_finite(bits.floats(part))) for part in jax.tree.leaves(weight)):
            return f"the weight {name} holds numbers that are not finite; use another copy"
    return None


def origin(weights: trees.Tree, compute_dtype: str) -> str:
    """Says where numbers that are not finite come from: a weight, or else the arithmetic."""
    return broken(weights) or (
        f"all weights are finite, so the numbers overflow in {compute_dtype}, or config.json gives "
        "a value that the model was not made for: compute in float32, or compare config.json with "
        "the original"
    )
