"""A loaded model: config, weights, adapters, tokenizer, and how it runs."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int
from transformers import PreTrainedTokenizerBase

from safety_jax.base import meshes, trees
from safety_jax.base.batch import Tokens
from safety_jax.maths.logprobs import OutputHead
from safety_jax.models import bits, declaration, lora, rotary
from safety_jax.models.execution import Execution
from safety_jax.models.llama import CachedAttend, Llama, LlamaConfig, parameters

_static: Any = {"static": True}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class Model:
    """A causal language model, ready to run.

    A model is a pytree whose leaves are its weights and adapters. Compiled functions accept it as a
    whole, and `jax.grad` with respect to it returns a model. Everything else is static: a function
    is compiled again for another config, execution or tokenizer.

    Without adapters, a model is its base, bit for bit: the reference of DPO is
    `dataclasses.replace(model, adapters=None)`.

    Attributes:
        weights: for `config`, on the mesh of `execution`; see `llama.parameters`. Empty before they
            are read.
        adapters: None for a model without adapters.
        tokenizer: the model's own; None if only token ids are used, as in training.
        ends: token ids that end an answer, see `decoding.ends.model_ends`; empty if not needed.
    """

    config: LlamaConfig = dataclasses.field(metadata=_static)
    execution: Execution = dataclasses.field(metadata=_static)
    weights: trees.Tree
    adapters: lora.Adapters | None
    tokenizer: PreTrainedTokenizerBase | None = dataclasses.field(metadata=_static)
    ends: tuple[int, ...] = dataclasses.field(default=(), metadata=_static)

    @property
    def mesh(self) -> Mesh:
        return self.execution.mesh

    @property
    def bare(self) -> "Model":
        """The model without its tokenizer, so that compiled functions do not depend on it."""
        return dataclasses.replace(self, tokenizer=None, ends=())

    def __repr__(self) -> str:
        """A description without arrays."""
        config, mesh = self.config, self.mesh
        count = sum(math.prod(p.shape) for p in parameters(config).values())
        targets = () if self.adapters is None else self.adapters.weights
        return (
            f"Model({count:,} weights in {config.layers} layers of width {config.width}, "
            f"{config.vocabulary_size:,} tokens, {'adapters on ' if targets else 'no adapters'}"
            f"{', '.join(targets)}; computes in {jnp.dtype(self.execution.compute_dtype).name} on "
            f"{mesh.size} {mesh.devices.flat[0].platform})"
        )

    def forward(
        self, tokens: Tokens, shift: Float[Array, "B T D"] | None = None
    ) -> Float[Array, "B T D"]:
        """The last hidden states, after the final norm, in `execution.compute_dtype`.

        Args:
            shift: added to the embedded tokens. The gradient with respect to it, at zero, is the
                gradient with respect to the tokens' embeddings.
        """

        def attend(q, k, v, kind):
            attention = self.execution.attention
            return attention(q, k, v, tokens.segments, tokens.prefixes, kind), None

        longest, lengths = self.config.frequencies_change_beyond, None
        if longest is not None and tokens.ids.shape[1] > longest:
            if tokens.prefixes is not None:  # examples of two lengths would share its keys
                raise ValueError(f"shared prefixes in rows longer than {longest} tokens")
            lengths = rotary.example_lengths(tokens.positions, tokens.segments)
        turns, module = self._turns(tokens.positions, lengths), self._module()
        return module(tokens.ids, turns, self.execution, self.adapters, attend, shift)[0]

    def cached(
        self,
        ids: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        attend: CachedAttend,
        cache: Any,
    ) -> tuple[Float[Array, "B T D"], Any, Any]:
        """Runs tokens whose past is in a cache.

        No example may be longer than `config.frequencies_change_beyond`.

        Returns:
            The last hidden states after the final norm, the new cache, and what else `attend` keeps
            of every layer, stacked.
        """
        turns, module = self._turns(positions, None), self._module()
        return module.cached(ids, turns, self.execution, self.adapters, attend, cache)

    def _turns(self, positions: Any, lengths: Any) -> rotary.Turns:
        ropes = [kind.rope for kind in self.config.kinds]
        return rotary.turns(ropes, self.config.rotary_size, positions, lengths)

    def _module(self) -> Llama:
        return declaration.bind(Llama, self.config, self.weights)

    def token_gradient(self, gradient: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """The gradient with respect to one-hot tokens, from that with respect to embeddings.

        Entry v is the slope towards token v, in float32. In tied models, the output matrix takes no
        part in it.
        """
        table = bits.floats(self.weights["embedding"])
        table = meshes.gather(table, self.mesh, ("vocab", "embed"))
        slopes = jnp.einsum(
            "...d,vd->...v",
            gradient.astype(table.dtype),
            table,
            preferred_element_type=jnp.float32,
        )
        scale = jnp.asarray(self.config.embedding_scale, self.execution.compute_dtype)
        return slopes * scale.astype(jnp.float32)

    def head(self) -> OutputHead:
        """The output matrix, or the embedding if the two are tied, with the scale and the soft-cap
        of logits."""
        table = bits.floats(self.weights["embedding" if self.config.tied_embeddings else "head"])
        table = meshes.gather(table, self.mesh, ("vocab", "embed"))
        return OutputHead(table, self.config.logit_scale, self.config.logit_softcap)

    def logits(self, hidden: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """Float32 logits from hidden states. Training uses `logprobs.token_logprobs` instead."""
        head = self.head()
        table = head.table.astype(hidden.dtype)
        return head.logits(
            jnp.einsum("btd,vd->btv", hidden, table, preferred_element_type=jnp.float32)
        )
