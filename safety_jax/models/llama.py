"""The LLaMA family in Flax NNX; `models/folders/families.py` lists the models that belong to it.

Families differ only in values of their config. Layers are stacked on axis 0 and run by one
`lax.scan`. Kernels keep Hugging Face's `[out, in]` orientation, so that weights stream in and out
unchanged. If layers differ in window or rope, the number of each layer's kind is scanned with its
weights.

The NNX modules below declare each parameter once (shape, initializer, logical axes) and contain the
forward pass; `model.Model` binds them to weights.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from safety_jax.base import meshes, trees
from safety_jax.models import bits, declaration, lora, products, rotary
from safety_jax.models.attention import Rule
from safety_jax.models.execution import REMAT, Execution
from safety_jax.models.layers import Projection, stacked
from safety_jax.models.rotary import Rope


@dataclasses.dataclass(frozen=True)
class LayerKind:
    """The settings in which layers of one model may differ.

    Attributes:
        window: how many tokens each token sees, including itself; None for all earlier ones.
        rope: None for a layer without position embedding.
    """

    window: int | None
    rope: Rope | None


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """The architecture of a checkpoint; `models/folders/hf.py` reads it from `config.json`."""

    vocabulary_size: int
    width: int
    mlp_width: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    rotary_size: int  # the number of dimensions of a head, from the first, that rope rotates
    pattern: tuple[LayerKind, ...]  # repeated from the first layer to the last
    norms: str  # of a sublayer: "before" it, "after" it (on its output), or "both"
    norm_epsilon: float
    norm_plus_one: bool  # stored norm scales are w in 1 + w
    query_key_norm: str  # "none", "head" (of each head) or "width" (over all heads of a token)
    tied_embeddings: bool
    query_key_value_bias: bool
    output_bias: bool
    mlp_bias: bool
    activation: str  # of the gated MLP, a name in ACTIVATIONS
    attention_scale: float  # multiplies the products of queries and keys
    attention_softcap: float | None  # see `attention.Rule`
    embedding_scale: float  # rounded to the compute dtype
    residual_scale: float  # multiplies the output of a sublayer before it is added
    logit_scale: float
    logit_softcap: float | None
    files: str  # how files name and fuse projections: a name in `lora.TARGETS_OF`
    nested: bool  # the text model of a vision model, which shows in the names of adapters
    max_positions: int
    initializer_range: float

    @property
    def kinds(self) -> tuple[LayerKind, ...]:
        """The distinct kinds of layers, in the order of their first layer."""
        return tuple(dict.fromkeys(self.pattern[: self.layers]))

    @property
    def layer_kinds(self) -> tuple[int, ...]:
        """The number of each layer's kind."""
        numbers = {kind: number for number, kind in enumerate(self.kinds)}
        return tuple(
            numbers[self.pattern[layer % len(self.pattern)]] for layer in range(self.layers)
        )

    @property
    def windows(self) -> tuple[int | None, ...]:
        """The window of each layer, see `LayerKind`."""
        return tuple(self.kinds[number].window for number in self.layer_kinds)

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rule of attention for each kind of layer."""
        return tuple(
            Rule(kind.window, self.attention_scale, self.attention_softcap) for kind in self.kinds
        )

    @property
    def longest_shared_row(self) -> int | None:
        """The longest row in which segments may share a prefix; None for any length.

        A window counts cells of a row, and another segment may be between a token and its prefix.
        Rotary frequencies that depend on the length of an example would differ between examples
        that share a prefix.
        """
        limits = [*(kind.window for kind in self.kinds), self.frequencies_change_beyond]
        return min((limit for limit in limits if limit is not None), default=None)

    @property
    def frequencies_change_beyond(self) -> int | None:
        """The longest example whose rotary frequencies do not depend on its length; None if they
        never do."""
        ropes = [kind.rope for kind in self.kinds if kind.rope is not None]
        limits = [rope.changes_beyond for rope in ropes if rope.changes_beyond is not None]
        return min(limits, default=None)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
}
STREAM = ("stream", "tokens", "width")  # the axes of activations between sublayers
# The axes of queries, keys and values in attention, with all heads of a token in one axis.
LANES = ("rows", "tokens", "whole_heads")
# (q [B T H E], k [B T K E], v [B T K E], kind) -> (attended [B T H E], what is kept of the layer)
# q and k are rotated; kind is the number of the layer's kind.
Attend = Callable[[jax.Array, jax.Array, jax.Array, Any], tuple[jax.Array, Any]]
# (layer, cache of all layers, q, k, v, kind) -> (attended, (cache, what is kept of the layer))
CachedAttend = Callable[..., tuple[jax.Array, tuple[Any, Any]]]


def targets(config: LlamaConfig) -> Mapping[str, str]:
    """The projections that can be adapted: Hugging Face's names, and ours."""
    return lora.TARGETS_OF[config.files]


# ---------------------------------------------------------------------------- parameters


def parameters(config: LlamaConfig) -> dict[str, meshes.Parameter]:
    """Every weight by its dotted name, in the order of declaration."""
    return declaration.parameters(Llama, config)


def shardings(config: LlamaConfig, mesh: Mesh) -> trees.Tree:
    """The sharding of every weight.

    Raises:
        ConfigError: the mesh does not divide an axis.
    """
    heads = {"heads": config.heads, "kv_heads": config.kv_heads}
    return declaration.shardings(parameters(config), mesh, heads)


def initialize(config: LlamaConfig, key: jax.Array, mesh: Mesh, dtype: DTypeLike) -> trees.Tree:
    """Random weights, created with their shardings: normal(0, initializer_range), norms 1, biases
    0."""
    return declaration.initialize(Llama, config, key, shardings(config, mesh), dtype)


# ---------------------------------------------------------------------------- modules


def scale_parameter(config: LlamaConfig, size: int, axis: str) -> nnx.Param:
    make = jnp.zeros if config.norm_plus_one else jnp.ones
    return nnx.Param(make((size,)), out_sharding=(axis,))


def norm(x: Float[Array, "*B D"], scale: nnx.Param, config: LlamaConfig) -> Float[Array, "*B D"]:
    """Root mean square norm, computed in float32 (Zhang and Sennrich 2019, arXiv 1910.07467)."""
    wide = x.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + config.norm_epsilon)
    factor = scale[...].astype(jnp.float32) + (1.0 if config.norm_plus_one else 0.0)
    return (wide * inverse * jnp.broadcast_to(factor, x.shape)).astype(x.dtype)


class LlamaLayer(nnx.Module):
    """One decoder layer: attention, then a gated MLP, both with norms and a residual connection."""

    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs):
        self.config = config
        D, F, E = config.width, config.mlp_width, config.head_size
        query, key_value = config.heads * E, config.kv_heads * E
        project = functools.partial(Projection, spread=config.initializer_range, rngs=rngs)
        before, after = config.norms != "after", config.norms != "before"
        if before:
            self.attention_norm = scale_parameter(config, D, "norm")
        qkv_bias = config.query_key_value_bias
        self.query = project(D, query, ("heads", "embed"), qkv_bias)
        self.key = project(D, key_value, ("kv_heads", "embed"), qkv_bias)
        self.value = project(D, key_value, ("kv_heads", "embed"), qkv_bias)
        self.output = project(query, D, ("embed", "heads"), config.output_bias)
        if config.query_key_norm == "head":
            self.query_norm = scale_parameter(config, E, "head_size")
            self.key_norm = scale_parameter(config, E, "head_size")
        elif config.query_key_norm == "width":
            self.query_norm = scale_parameter(config, query, "heads")
            self.key_norm = scale_parameter(config, key_value, "kv_heads")
        if after:
            self.attention_output_norm = scale_parameter(config, D, "norm")
        if before:
            self.mlp_norm = scale_parameter(config, D, "norm")
        self.gate = project(D, F, ("mlp", "embed"), config.mlp_bias)
        self.up = project(D, F, ("mlp", "embed"), config.mlp_bias)
        self.down = project(F, D, ("embed", "mlp"), config.mlp_bias)
        if after:
            self.mlp_output_norm = scale_parameter(config, D, "norm")

    def __call__(
        self,
        x: Float[Array, "B T D"],
        turn: rotary.Turns,
        kind: Any,
        execution: Execution,
        adapters: dict[str, lora.Leaves],
        attend: Attend,
    ) -> tuple[Float[Array, "B T D"], Any]:
        """The layer's output, and what `attend` keeps of the layer.

        Args:
            turn: for the layer's kind.
            kind: the number of the layer's kind, for `attend`.
        """
        config = self.config
        before, after = config.norms != "after", config.norms != "before"

        normed = norm(x, self.attention_norm, config) if before else x
        q, k, v = self._heads(normed, execution, adapters)
        q, k = rotary.rotate_queries(q, turn), rotary.rotate(k, turn)
        attended, kept = attend(q, k, v, kind)
        flat = attended.reshape(*x.shape[:2], -1)
        flat = meshes.regroup(flat, execution.mesh, LANES, ("stream", "tokens", "heads"))
        added = self.output(flat, execution, adapters.get("output"))
        x = self._add(x, norm(added, self.attention_output_norm, config) if after else added)
        x = meshes.pin(x, execution.mesh, STREAM)

        normed = norm(x, self.mlp_norm, config) if before else x
        activate = ACTIVATIONS[config.activation]
        gate = activate(self.gate(normed, execution, adapters.get("gate")))
        up = self.up(normed, execution, adapters.get("up"))
        added = self.down(gate * up, execution, adapters.get("down"))
        x = self._add(x, norm(added, self.mlp_output_norm, config) if after else added)
        return meshes.constrain(x, execution.mesh, STREAM), kept

    def _heads(self, x, execution: Execution, adapters: dict[str, lora.Leaves]):
        """Queries [B T H E], keys and values [B T K E], before rotation."""
        config = self.config
        q = self.query(x, execution, adapters.get("query"))
        k = self.key(x, execution, adapters.get("key"))
        v = self.value(x, execution, adapters.get("value"))
        if config.query_key_norm == "width":
            q, k = norm(q, self.query_norm, config), norm(k, self.key_norm, config)
        q = meshes.regroup(q, execution.mesh, ("stream", "tokens", "heads"), LANES)
        made = ("stream", "tokens", "kv_heads")
        k, v = (meshes.regroup(part, execution.mesh, made, LANES) for part in (k, v))
        q = q.reshape(*x.shape[:2], config.heads, -1)
        k, v = (part.reshape(*x.shape[:2], config.kv_heads, -1) for part in (k, v))
        if config.query_key_norm == "head":
            q, k = norm(q, self.query_norm, config), norm(k, self.key_norm, config)
        return q, k, v

    def _add(self, x: jax.Array, added: jax.Array) -> jax.Array:
        scale = self.config.residual_scale
        return x + added if scale == 1.0 else x + added * jnp.asarray(scale, added.dtype)


class Llama(nnx.Module):
    """Embedding, stacked layers, final norm, and an output head unless embeddings are tied."""

    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs):
        table = (config.vocabulary_size, config.width)
        spread = config.initializer_range
        self.embedding = nnx.Param(
            spread * jax.random.normal(rngs.params(), table), out_sharding=("vocab", "embed")
        )
        self.layers = stacked(lambda rngs: LlamaLayer(config, rngs=rngs), config.layers, rngs)
        self.config = config
        self.final_norm = scale_parameter(config, config.width, "norm")
        if not config.tied_embeddings:
            self.head = nnx.Param(
                spread * jax.random.normal(rngs.params(), table), out_sharding=("vocab", "embed")
            )

    def embed(self, ids, execution: Execution):
        table = meshes.gather(self.embedding[...], execution.mesh, ("vocab", "embed"))
        x = bits.floats(jnp.take(table, ids, axis=0)).astype(execution.compute_dtype)
        if self.config.embedding_scale != 1.0:
            x = x * jnp.asarray(self.config.embedding_scale, x.dtype)
        return meshes.constrain(x, execution.mesh, STREAM)

    def __call__(
        self, ids, turns: rotary.Turns, execution: Execution, adapters, attend: Attend, shift=None
    ):
        """Runs all layers by one scan. Returns the normed hidden states, and what `attend` keeps of
        each layer, stacked.

        Args:
            turns: for all kinds of layers.
            shift: see `Model.forward`.
        """

        def body(x, of_layer):
            layer, leaves, number = of_layer
            kind = 0 if number is None else number
            x = products.keep(x, execution.mesh)
            return layer(x, rotary.of_kind(turns, kind), kind, execution, leaves, attend)

        if REMAT[execution.remat] is not None:
            body = jax.checkpoint(body, policy=REMAT[execution.remat], prevent_cse=False)
        stacked = (self.layers, lora.by_layer(adapters), self._kinds())
        x = self.embed(ids, execution)
        if shift is not None:
            x = x + shift.astype(x.dtype)
        x, kept = jax.lax.scan(body, x, stacked)
        return norm(x, self.final_norm, self.config), kept

    def cached(
        self, ids, turns: rotary.Turns, execution: Execution, adapters, attend: CachedAttend, cache
    ):
        """Runs all layers by one scan that carries a cache from layer to layer, so that it is
        updated in place. What else `attend` keeps of each layer is stacked."""

        def body(state, of_layer):
            x, cache = state
            layer, leaves, number, place = of_layer
            kind = 0 if number is None else number
            of_this = functools.partial(attend, place, cache)
            turn = rotary.of_kind(turns, kind)
            x, (cache, kept) = layer(x, turn, kind, execution, leaves, of_this)
            return (x, cache), kept

        places = jnp.arange(self.config.layers)
        stacked = (self.layers, lora.by_layer(adapters), self._kinds(), places)
        (x, cache), kept = jax.lax.scan(body, (self.embed(ids, execution), cache), stacked)
        return norm(x, self.final_norm, self.config), cache, kept

    def _kinds(self) -> jax.Array | None:
        """The number of each layer's kind; None if there is one kind."""
        kinds = self.config.layer_kinds
        return jnp.asarray(kinds, jnp.int32) if any(kinds) else None
