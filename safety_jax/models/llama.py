"""The LLaMA family in Flax NNX: LLaMA 1 to 3.2, Mistral, Qwen2/2.5, Qwen3 and Gemma 1.

Families differ by config values only. Layers are stacked on axis 0 and run by one `lax.scan`;
kernels keep Hugging Face's `[out, in]` orientation, so that weights stream in and out unchanged.

The NNX modules below declare each parameter once (shape, initializer, logical axes) and hold the
forward pass; `model.Model` binds them to weights. Adapters enter in `Projection` alone, as a second
tree beside the weights.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from safety_jax.base import meshes, trees
from safety_jax.models import declaration, lora
from safety_jax.models.execution import REMAT, Execution
from safety_jax.models.rotary import Rope, rotate


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
    norm_epsilon: float
    rope: Rope
    tied_embeddings: bool
    query_key_value_bias: bool
    output_bias: bool
    mlp_bias: bool
    query_key_norm: bool
    activation: str  # of the gated MLP, a name in ACTIVATIONS
    scaled_embeddings: bool  # times sqrt(width), rounded to the compute dtype
    norm_plus_one: bool  # stored norm scales are w in 1 + w
    window: int | None
    max_positions: int
    initializer_range: float


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
}
# Takes rotated q [B T H E], k [B T K E] and v [B T K E] to [B T H E] and what is kept of the layer.
Attend = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, Any]]


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
        kernel = meshes.gather(self.kernel[...].astype(x.dtype), run.mesh, self.axes)
        y = flat @ kernel.T
        if self.bias is not None:
            y = y + jnp.broadcast_to(self.bias[...].astype(x.dtype), y.shape)
        if adapter is not None:
            y = y + lora.delta(flat, adapter)
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
    """One decoder layer: norm, attention, norm, gated MLP, each with its residual."""

    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs):
        self.config = config
        D, F, E = config.width, config.mlp_width, config.head_size
        query, key_value = config.heads * E, config.kv_heads * E
        project = functools.partial(Projection, spread=config.initializer_range, rngs=rngs)
        self.attention_norm = scale_parameter(config, D, "norm")
        qkv_bias = config.query_key_value_bias
        self.query = project(D, query, ("heads", "embed"), qkv_bias)
        self.key = project(D, key_value, ("kv_heads", "embed"), qkv_bias)
        self.value = project(D, key_value, ("kv_heads", "embed"), qkv_bias)
        self.output = project(query, D, ("embed", "heads"), config.output_bias)
        if config.query_key_norm:
            self.query_norm = scale_parameter(config, E, "head_size")
            self.key_norm = scale_parameter(config, E, "head_size")
        self.mlp_norm = scale_parameter(config, D, "norm")
        self.gate = project(D, F, ("mlp", "embed"), config.mlp_bias)
        self.up = project(D, F, ("mlp", "embed"), config.mlp_bias)
        self.down = project(F, D, ("embed", "mlp"), config.mlp_bias)

    def __call__(self, x, angles, run: Execution, adapters: dict[str, lora.Leaves], attend: Attend):
        """The layer's output, and what `attend` keeps of it."""
        B, T, _ = x.shape
        config, given = self.config, adapters.get

        normed = norm(x, self.attention_norm, config)
        q = self.query(normed, run, given("query")).reshape(B, T, config.heads, -1)
        k = self.key(normed, run, given("key")).reshape(B, T, config.kv_heads, -1)
        v = self.value(normed, run, given("value")).reshape(B, T, config.kv_heads, -1)
        if config.query_key_norm:
            q, k = norm(q, self.query_norm, config), norm(k, self.key_norm, config)
        attended, kept = attend(rotate(q, angles), rotate(k, angles), v)
        x = x + self.output(attended.reshape(B, T, -1), run, given("output"))

        normed = norm(x, self.mlp_norm, config)
        activate = ACTIVATIONS[config.activation]
        gate = activate(self.gate(normed, run, given("gate")))
        x = x + self.down(gate * self.up(normed, run, given("up")), run, given("down"))
        return meshes.constrain(x, run.mesh, ("rows", "tokens", "width")), kept


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
        x = jnp.take(table, ids, axis=0).astype(run.compute_dtype)
        if self.config.scaled_embeddings:
            x = x * jnp.asarray(self.config.width**0.5, x.dtype)
        return meshes.constrain(x, run.mesh, ("rows", "tokens", "width"))

    def __call__(self, ids, angles, run: Execution, adapters, attend: Attend):
        """All layers by one scan; what `attend` keeps of each is stacked."""

        def body(x, layer_and_leaves):
            layer, leaves = layer_and_leaves
            return layer(x, angles, run, leaves, attend)

        if REMAT[run.remat] is not None:
            body = jax.checkpoint(body, policy=REMAT[run.remat], prevent_cse=False)
        stacked = (self.layers, lora.by_layer(adapters))
        x, kept = jax.lax.scan(body, self.embed(ids, run), stacked)
        return norm(x, self.final_norm, self.config), kept
