"""Several adapters over one base in one batch: each token is read with its own adapter.

Adapters are concatenated along the rank: A is [L, R₁ + R₂ + …, in], and B likewise. Every token is
multiplied by all of A, and a mask keeps only the ranks of its own adapter (`lora.delta`):

    y = x Wᵀ + (mask · x Aᵀ) Bᵀ,   mask[token, rank] = scale if both have the same adapter, else 0

The result is that of the adapter alone, with additional zeros in its sums. Two dense products serve
any number of adapters with any ranks, targets and layers. S-LoRA and Punica (arXiv 2311.03285,
2310.18547) gather the factors of each token instead, in kernels of their own, and serve thousands
of adapters.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from safety_jax.base import meshes, trees
from safety_jax.models import lora


def stack(
    several: Sequence[lora.Adapters | None],
    parameters: Mapping[str, meshes.Parameter],
    mesh: Mesh,
) -> lora.Adapters:
    """Concatenates adapters, numbered in this order, for all layers and without dropout.

    Args:
        several: None stands for the base; tokens with its number get no adapter.
        parameters: of the model, see `llama.parameters`.
    """
    present = {number: one for number, one in enumerate(several) if one is not None}
    ranks: dict[str, np.ndarray] = {}
    scales: dict[str, np.ndarray] = {}
    where: dict[str, trees.Tree] = {}
    for target in dict.fromkeys(name for one in present.values() for name in one.weights):
        own = {number: one for number, one in present.items() if target in one.weights}
        widths = [one.weights[target]["a"].shape[1] for one in own.values()]
        ranks[target] = np.repeat(np.array([*own], np.int32), widths)
        scales[target] = np.repeat(
            np.array([one.scale for one in own.values()], np.float32), widths
        )
        where |= lora.shardings(parameters, (target,), sum(widths), mesh)
    beside = jax.jit(_beside, static_argnames="targets", out_shardings=where)
    weights = beside([*present.values()], targets=tuple(where))
    return lora.Adapters(weights, 1.0, 0.0, owners=lora.Owners(ranks, scales, None))


def _beside(several: Sequence[lora.Adapters], targets: tuple[str, ...]) -> trees.Tree:
    found: trees.Tree = {}
    for target in targets:
        own = [one for one in several if target in one.weights]
        found[target] = {
            leaf: jnp.concatenate(
                [lora.everywhere(one.weights[target][leaf], one) for one in own],
                axis=1 if leaf == "a" else 2,
            )
            for leaf in own[0].weights[target]
        }
    return found


def assign(adapters: lora.Adapters, tokens: Int[np.ndarray, " tokens"]) -> lora.Adapters:
    """Stacked adapters for tokens, each of which is read with the adapter of its number."""
    assert adapters.owners is not None
    owners = adapters.owners._replace(tokens=np.asarray(tokens, np.int32))
    return dataclasses.replace(adapters, owners=owners)
