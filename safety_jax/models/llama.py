"""The LLaMA family in Flax NNX; `models/folders/families.py` lists the models that belong to it.

Families differ by config values only. Layers are stacked on axis 0 and run by one `lax.scan`;
kernels keep Hugging Face's `[out, in]` orientation, so that weights stream in and out unchanged.
Layers that differ in window or rope have the number of their kind scanned beside their weights.

The NNX modules below declare each parameter once (shape, initializer, logical axes) and hold the
forward pass; `model.Model` binds them to weights. Adapters enter in `Projection` alone, as a second
tree beside the weights.
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
from jaxtyping import Array, Float, Shaped

from safety_jax.base import meshes, trees
from safety_jax.models import bits, declaration, lora, products, quantised, rotary
from safety_jax.models.attention import Rule
from safety_jax.models.execution import REMAT, Execution
from safety_jax.models.rotary import Rope


@dataclasses.dataclass(frozen=True)
class LayerKind:
    """What layers of one model may differ in.

    Attributes:
        window: each token sees so many tokens, itself included; None: all before it.
        rope: None: queries and keys know nothing of positions.
    """

    window: int | None
    rope: Rope | None


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """Sizes and switches of one checkpoint; `models/folders/hf.py` reads it from `config.json`."""

    vocabulary_size: int
    width: int
    mlp_width: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    rotary_size: int  # dimensions of each head that turn with the position, the first ones
    pattern: tuple[LayerKind, ...]  # repeated from the first layer to the last
    norms: str  # where a sublayer has its norm: "before", "after" (its output) or "both"
    norm_epsilon: float
    norm_plus_one: bool  # stored norm scales are w in 1 + w
    query_key_norm: str  # "none", "head" (each alone) or "width" (all heads of a token together)
    tied_embeddings: bool
    query_key_value_bias: bool
    output_bias: bool
    mlp_bias: bool
    activation: str  # of the gated MLP, a name in ACTIVATIONS
    attention_scale: float  # of the products of queries and keys
    attention_softcap: float | None  # see `attention.Rule`
    embedding_scale: float  # rounded to the compute dtype
    residual_scale: float  # of what a sublayer adds
    logit_scale: float
    logit_softcap: float | None
    files: str  # how files name and fuse projections, a name in `lora.TARGETS_OF`
    nested: bool  # the text model of a model with eyes; adapters' names say so
    max_positions: int
    initializer_range: float

    @property
    def kinds(self) -> tuple[LayerKind, ...]:
        """The kinds of layers, each once, in the order in which they come up."""
        return tuple(dict.fromkeys(self.pattern[: self.layers]))

    @property
    def layer_kinds(self) -> tuple[int, ...]:
        """The number of each layer's kind."""
        numbers = {kind: number for number, kind in enumerate(self.kinds)}
        return tuple(
            numbers[self.pattern[layer % len(self.pattern)]] for layer in range(self.layers)
        )

    @property
    def rules(self) -> tuple[Rule, ...]:
        """What attention does in each kind of layer."""
        return tuple(
            Rule(kind.window, self.attention_scale, self.attention_softcap) for kind in self.kinds
        )

    @property
    def longest_shared_row(self) -> int | None:
        """Tokens of a row whose segments may go on from one another; None: as many as you like.

        A window counts cells of a row, between which another segment may stand, and frequencies
        that depend on an example's length are those of one example.
        """
        limits = [*(kind.window for kind in self.kinds), self.frequencies_change_beyond]
        return min((limit for limit in limits if limit is not None), default=None)

    @property
    def frequencies_change_beyond(self) -> int | None:
        """The longest example whose rotary frequencies do not depend on its length; None: none
        do."""
        ropes = [kind.rope for kind in self.kinds if kind.rope is not None]
        limits = [rope.changes_beyond for rope in ropes if rope.changes_beyond is not None]
        return min(limits, default=None)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
}
STREAM = ("stream", "tokens", "width")  # what lies between sublayers
# How attention has its queries, keys and values, all heads of a token beside each other.
LANES = ("rows", "tokens", "whole_heads")
# Takes rotated q [B T H E], k [B T K E], v [B T K E] and the number of the layer's kind (0 where
# all are alike) to [B T H E] and what is kept of the layer.
Attend = Callable[[jax.Array, jax.Array, jax.Array, Any], tuple[jax.Array, Any]]
# Likewise with the layer's number and a cache of all layers before q; keeps (the cache, the rest).
CachedAttend = Callable[..., tuple[jax.Array, tuple[Any, Any]]]


def targets(config: LlamaConfig) -> Mapping[str, str]:
    """The projections that adapters can go on: Hugging Face's names, and ours."""
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
    """Random weights, made where they live: normal(0, initializer_range), norms 1, biases 0."""
    return declaration.initialize(Llama, config, key, shardings(config, mesh), dtype)


# ---------------------------------------------------------------------------- modules


@functools.partial(jax.checkpoint, static_argnums=(2, 3), prevent_cse=False)
def _product(
    x: Float[Array, "N I"],
    kernel: Shaped[Array, "O I"] | quantised.Kernel,
    run: Execution,
    axes: tuple[str, str],
) -> Float[Array, "N O"]:
    """x Wᵀ. The backward pass has the kernel made ready once more: kept, layer by layer, would be a
    second copy of the model, in the type of `x`, gathered, dequantised and transposed."""
    ready = quantised.ready(kernel, x.dtype, run.mesh, axes)
    return products.product(x, ready, run.mesh)


class Projection(nnx.Module):
    """y = x Wᵀ (+ bias), plus the adapter's x Aᵀ Bᵀ where adapter leaves are given."""

    def __init__(
        self,
        size_in: int,
        size_out: int,
        axes: tuple[str, str],
        bias: bool,
        spread: float,
        *,
        rngs: nnx.Rngs,
    ):
        self.axes = axes
        self.kernel = nnx.Param(
            spread * jax.random.normal(rngs.params(), (size_out, size_in)), out_sharding=axes
        )
        self.bias = (
            nnx.Param(jnp.zeros((size_out,)), out_sharding=axes[:1]) if bias else nnx.data(None)
        )

    def __call__(self, x: Float[Array, "B T I"], run: Execution, adapter: lora.Leaves | None):
        # Tokens are one axis: the backward pass contracts over it, which XLA's CPU matmul does
        # several times faster over one axis than over two.
        flat = x.reshape(-1, x.shape[-1])
        y = _product(flat, self.kernel.get_value(), run, self.axes)
        if self.bias is not None:
            y = y + jnp.broadcast_to(self.bias[...].astype(x.dtype), y.shape)
        if adapter is not None:
            y = y + lora.delta(flat, adapter, run.mesh)
        y = products.keep(y, run.mesh)
        return y.reshape(*x.shape[:-1], -1)


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
    """One decoder layer: attention, then a gated MLP, each with its norms and its residual."""

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
        run: Execution,
        adapters: dict[str, lora.Leaves],
        attend: Attend,
    ) -> tuple[Float[Array, "B T D"], Any]:
        """The layer's output, and what `attend` keeps of it.

        Args:
            turn: of the layer's kind.
            kind: its number, handed to `attend`.
        """
        config = self.config
        before, after = config.norms != "after", config.norms != "before"

        normed = norm(x, self.attention_norm, config) if before else x
        q, k, v = self._heads(normed, run, adapters)
        q, k = rotary.rotate_queries(q, turn), rotary.rotate(k, turn)
        attended, kept = attend(q, k, v, kind)
        flat = attended.reshape(*x.shape[:2], -1)
        flat = meshes.regroup(flat, run.mesh, LANES, ("stream", "tokens", "heads"))
        added = self.output(flat, run, adapters.get("output"))
        x = self._add(x, norm(added, self.attention_output_norm, config) if after else added)
        x = meshes.pin(x, run.mesh, STREAM)

        normed = norm(x, self.mlp_norm, config) if before else x
        activate = ACTIVATIONS[config.activation]
        gate = activate(self.gate(normed, run, adapters.get("gate")))
        up = self.up(normed, run, adapters.get("up"))
        added = self.down(gate * up, run, adapters.get("down"))
        x = self._add(x, norm(added, self.mlp_output_norm, config) if after else added)
        return meshes.constrain(x, run.mesh, STREAM), kept

    def _heads(self, x, run: Execution, adapters: dict[str, lora.Leaves]):
        """Queries [B T H E], keys and values [B T K E], before they are turned."""
        config = self.config
        q = self.query(x, run, adapters.get("query"))
        k = self.key(x, run, adapters.get("key"))
        v = self.value(x, run, adapters.get("value"))
        if config.query_key_norm == "width":
            q, k = norm(q, self.query_norm, config), norm(k, self.key_norm, config)
        q = meshes.regroup(q, run.mesh, ("stream", "tokens", "heads"), LANES)
        made = ("stream", "tokens", "kv_heads")
        k, v = (meshes.regroup(part, run.mesh, made, LANES) for part in (k, v))
        q = q.reshape(*x.shape[:2], config.heads, -1)
        k, v = (part.reshape(*x.shape[:2], config.kv_heads, -1) for part in (k, v))
        if config.query_key_norm == "head":
            q, k = norm(q, self.query_norm, config), norm(k, self.key_norm, config)
        return q, k, v

    def _add(self, x: jax.Array, added: jax.Array) -> jax.Array:
        scale = self.config.residual_scale
        return x + added if scale == 1.0 else x + added * jnp.asarray(scale, added.dtype)


class Llama(nnx.Module):
    """Embedding, stacked layers, final norm, and a head unless embeddings are tied."""

    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs):
        table = (config.vocabulary_size, config.width)
        spread = config.initializer_range
        self.embedding = nnx.Param(
            spread * jax.random.normal(rngs.params(), table), out_sharding=("vocab", "embed")
        )
        stack = nnx.vmap(
            lambda rngs: LlamaLayer(config, rngs=rngs),
            transform_metadata={nnx.PARTITION_NAME: "layers"},
        )
        self.layers = nnx.split_rngs(splits=config.layers)(stack)(rngs)
        self.config = config
        self.final_norm = scale_parameter(config, config.width, "norm")
        if not config.tied_embeddings:
            self.head = nnx.Param(
                spread * jax.random.normal(rngs.params(), table), out_sharding=("vocab", "embed")
            )

    def embed(self, ids, run: Execution):
        table = meshes.gather(self.embedding[...], run.mesh, ("vocab", "embed"))
        x = bits.floats(jnp.take(table, ids, axis=0)).astype(run.compute_dtype)
        if self.config.embedding_scale != 1.0:
            x = x * jnp.asarray(self.config.embedding_scale, x.dtype)
        return meshes.constrain(x, run.mesh, STREAM)

    def __call__(
        self, ids, turns: rotary.Turns, run: Execution, adapters, attend: Attend, shift=None
    ):
        """All layers by one scan; what `attend` keeps of each is stacked.

        Args:
            turns: by kind of layer.
            shift: see `Model.forward`.
        """

        def body(x, of_layer):
            layer, leaves, number = of_layer
            kind = 0 if number is None else number
            x = products.keep(x, run.mesh)
            return layer(x, rotary.of_kind(turns, kind), kind, run, leaves, attend)

        if REMAT[run.remat] is not None:
            body = jax.checkpoint(body, policy=REMAT[run.remat], prevent_cse=False)
        stacked = (self.layers, lora.by_layer(adapters), self._kinds())
        x = self.embed(ids, run)
        if shift is not None:
            x = x + shift.astype(x.dtype)
        x, kept = jax.lax.scan(body, x, stacked)
        return norm(x, self.final_norm, self.config), kept

    def cached(
        self, ids, turns: rotary.Turns, run: Execution, adapters, attend: CachedAttend, cache
    ):
        """All layers by one scan that hands a cache from layer to layer, so that it is updated
        where it lies; what else `attend` keeps of each layer is stacked."""

        def body(state, of_layer):
            x, cache = state
            layer, leaves, number, place = of_layer
            kind = 0 if number is None else number
            of_this = functools.partial(attend, place, cache)
            turn = rotary.of_kind(turns, kind)
            x, (cache, kept) = layer(x, turn, kind, run, leaves, of_this)
            return (x, cache), kept

        places = jnp.arange(self.config.layers)
        stacked = (self.layers, lora.by_layer(adapters), self._kinds(), places)
        (x, cache), kept = jax.lax.scan(body, (self.embed(ids, run), cache), stacked)
        return norm(x, self.final_norm, self.config), cache, kept

    def _kinds(self) -> jax.Array | None:
        """The number of each layer's kind; None where all are alike."""
        kinds = self.config.layer_kinds
        return jnp.asarray(kinds, jnp.int32) if any(kinds) else None
