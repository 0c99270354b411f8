"""A model for writing: every layer's weights as arrays of their own, and one step of it.

Layers are unrolled, so that each cache is an array of its own, read where it lies and updated in
place: a slice of stacked caches would be copied before every matrix product.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from safety_jax.base import meshes, trees
from safety_jax.maths.logprobs import OutputHead
from safety_jax.models import declaration, lora, rotary
from safety_jax.models.execution import Execution
from safety_jax.models.llama import Attend, Llama, LlamaConfig, norm
from safety_jax.models.model import Model


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class UnrolledModel:
    """A model whose layers are not stacked.

    Attributes:
        ends: what stands around the layers.
        layers: each layer's kernels and adapters.
        head: the output matrix [D V], which XLA's CPU matmul reads in half the time that [V D]
            takes.
    """

    config: LlamaConfig = dataclasses.field(metadata={"static": True})
    execution: Execution = dataclasses.field(metadata={"static": True})
    ends: trees.Tree
    layers: tuple[tuple[trees.Tree, dict[str, lora.Leaves]], ...]
    head: Any

    def step(
        self,
        ids: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        attends: Sequence[Attend],
    ) -> tuple[Float[Array, "B T V"], list[Any]]:
        """Float32 logits of new tokens whose past lies in a cache, and the caches after them.

        Args:
            attends: for each layer, what takes (q, k, v) to (attended, the layer's cache).
        """
        config, run = self.config, self.execution
        module = declaration.bind(Llama, config, self.ends)
        # No example grows past the length where its frequencies would change (`generation`).
        lengths = None
        ropes = [kind.rope for kind in config.kinds]
        turns = rotary.turns(ropes, config.rotary_size, positions, lengths)
        x, kept = module.embed(ids, run), []
        parts = zip(self.layers, config.layer_kinds, attends, strict=True)
        for (kernels, leaves), kind, attend in parts:
            layer = declaration.fill(module.layers, kernels)
            x, of_layer = layer(x, rotary.of_kind(turns, kind), kind, run, leaves, attend)
            kept.append(of_layer)
        table = meshes.gather(self.head, run.mesh, ("embed", "vocab")).astype(x.dtype)
        normed = norm(x, module.final_norm, config)
        products = jnp.einsum("btd,dv->btv", normed, table, preferred_element_type=jnp.float32)
        return OutputHead(None, config.logit_scale, config.logit_softcap).logits(products), kept


def _unroll(model: Model) -> UnrolledModel:
    stacked = (model.weights["layers"], lora.by_layer(model.adapters))
    count = jax.tree.leaves(stacked)[0].shape[0]
    layers = [jax.tree.map(lambda leaf, n=number: leaf[n], stacked) for number in range(count)]
    ends = {name: leaf for name, leaf in model.weights.items() if name != "layers"}
    table = model.weights["head" if "head" in model.weights else "embedding"]
    return UnrolledModel(model.config, model.execution, ends, tuple(layers), table.T)


unroll = jax.jit(_unroll)
