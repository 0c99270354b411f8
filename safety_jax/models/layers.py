"""Parts that architectures share: projections, layer norm, stacked layers, attention of encoders.

An architecture is a config and an NNX module that declares each parameter once (`declaration.py`).
Adapters are a second tree, and only `Projection` uses them.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Shaped

from safety_jax.base import meshes
from safety_jax.models import lora, products, quantised
from safety_jax.models.execution import REMAT, Execution


def gelu(x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """x Φ(x), exactly (arXiv 1606.08415), by erf as in torch. jax uses erfc, which takes twice as
    long for digits that matter only next to zero."""
    return 0.5 * x * (1 + jax.lax.erf(x * math.sqrt(0.5)))


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": gelu,
    "gelu_new": functools.partial(jax.nn.gelu, approximate=True),
    "gelu_pytorch_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
}

# ---------------------------------------------------------------------------- modules


@functools.partial(jax.checkpoint, static_argnums=(2, 3), prevent_cse=False)
def _product(
    x: Float[Array, "N I"],
    kernel: Shaped[Array, "O I"] | quantised.Kernel,
    execution: Execution,
    axes: tuple[str, str],
) -> Float[Array, "N O"]:
    """x Wᵀ. The backward pass gathers, dequantises and casts the kernel once more: to keep the
    results for all layers would take a second copy of the model."""
    ready = quantised.ready(kernel, x.dtype, execution.mesh, axes)
    return products.product(x, ready, execution.mesh)


class Projection(nnx.Module):
    """y = x Wᵀ (+ bias), plus the adapter's x Aᵀ Bᵀ if there is one."""

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

    def __call__(self, x: Float[Array, "B T I"], execution: Execution, adapter: lora.Leaves | None):
        # All tokens in one axis: the backward pass contracts over them, and XLA's CPU matmul is
        # several times faster over one axis than over two.
        flat = x.reshape(-1, x.shape[-1])
        y = _product(flat, self.kernel.get_value(), execution, self.axes)
        if self.bias is not None:
            y = y + jnp.broadcast_to(self.bias[...].astype(x.dtype), y.shape)
        if adapter is not None:
            y = y + lora.delta(flat, adapter, execution.mesh)
        y = products.keep(y, execution.mesh)
        return y.reshape(*x.shape[:-1], -1)


def table(entries: int, width: int, spread: float, rngs: nnx.Rngs) -> nnx.Param:
    """An embedding table [entries, D]."""
    values = spread * jax.random.normal(rngs.params(), (entries, width))
    return nnx.Param(values, out_sharding=("entries", "embed"))


def look_up(
    embedding: nnx.Param, ids: Int[Array, "*B"], execution: Execution
) -> Float[Array, "*B D"]:
    rows = meshes.gather(embedding[...], execution.mesh, ("entries", "embed"))
    return jnp.take(rows, ids, axis=0).astype(execution.compute_dtype)


class LayerNorm(nnx.Module):
    """Layer norm with scale and bias, computed in float32 (arXiv 1607.06450)."""

    def __init__(self, size: int, epsilon: float):
        self.epsilon = epsilon
        self.scale = nnx.Param(jnp.ones((size,)), out_sharding=("norm",))
        self.bias = nnx.Param(jnp.zeros((size,)), out_sharding=("norm",))

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        wide = x.astype(jnp.float32)
        centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
        inverse = jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + self.epsilon)
        scale, bias = (
            jnp.broadcast_to(part[...].astype(jnp.float32), x.shape)
            for part in (self.scale, self.bias)
        )
        return (centred * inverse * scale + bias).astype(x.dtype)


def stacked(make: Callable[[nnx.Rngs], nnx.Module], layers: int, rngs: nnx.Rngs) -> nnx.Module:
    """`layers` modules as one, their weights stacked on axis 0."""
    stack = nnx.vmap(make, transform_metadata={nnx.PARTITION_NAME: "layers"})
    return nnx.split_rngs(splits=layers)(stack)(rngs)


def run_layers(
    layers: nnx.Module,
    leaves: dict[str, lora.Leaves],
    x: Float[Array, "B T D"],
    execution: Execution,
    call: Callable[..., Any],
) -> Float[Array, "B T D"]:
    """Runs x through the stacked layers by one `lax.scan`.

    Args:
        leaves: of adapters (`lora.by_layer`).
        call: `call(layer, x, leaves)` runs one layer.
    """
    one = _one_layer(call, execution)
    x, _ = jax.lax.scan(lambda x, layer: (one(x, *layer), None), x, (layers, leaves))
    return x


def run_to_read(
    layers: nnx.Module,
    leaves: dict[str, lora.Leaves],
    x: Float[Array, "B T D"],
    read: Int[Array, "B S"],
    execution: Execution,
    call: Callable[..., Any],
) -> Float[Array, "B S D"]:
    """Runs x through the stacked layers. Returns only the states of the tokens that a head reads.

    For all other tokens, the last layer computes only keys and values, which saves five sixths of
    its products.

    Args:
        read: the cells of the tokens that are read.
        call: as in `run_layers`; with `read=` it maps [B T D] to [B S D].
    """
    below, last = split(layers, leaves, -1)
    if not len(jax.tree.leaves(last)[0]):  # the only layer has a convolution beside it
        return at(x, read)
    x = run_layers(*below, x, execution, call)
    layer = jax.tree.map(lambda leaf: leaf[0], last)
    return _one_layer(functools.partial(call, read=read), execution)(x, *layer)


def at(x: Shaped[Array, "B T *D"], read: Int[Array, "B S"]) -> Shaped[Array, "B S *D"]:
    """The content of some cells of each row."""
    return jnp.take_along_axis(x, read.reshape(*read.shape, *[1] * (x.ndim - 2)), axis=1)


Part = tuple[nnx.Module, dict[str, lora.Leaves]]


def split(layers: nnx.Module, leaves: dict[str, lora.Leaves], at: int) -> tuple[Part, Part]:
    """The layers before layer `at`, and the others, both with their leaves."""
    return (
        jax.tree.map(lambda leaf: leaf[:at], (layers, leaves)),
        jax.tree.map(lambda leaf: leaf[at:], (layers, leaves)),
    )


def _one_layer(call: Callable[..., Any], execution: Execution) -> Callable[..., Any]:
    """(x, layer, leaves) -> x, with the sharding and the rematerialisation of `execution`."""

    def one(x, layer, leaves):
        x = products.keep(x, execution.mesh)
        return meshes.constrain(call(layer, x, leaves), execution.mesh, ("rows", "tokens", "width"))

    if REMAT[execution.remat] is None:
        return one
    return jax.checkpoint(one, policy=REMAT[execution.remat], prevent_cse=False)


def heads_first(x: Float[Array, "B T D"], heads: int) -> Float[Array, "H B T E"]:
    """Moves heads to the front. Otherwise a CPU would transpose the scores of attention, which are
    far larger; this halves the time of attention."""
    return jnp.transpose(x.reshape(*x.shape[:2], heads, -1), (2, 0, 1, 3))


# Bytes of scores that a CPU computes at a time; more would not fit into its caches.
SCORES_AT_ONCE = 32 << 20


def attend(
    scores_of: Callable[..., Float[Array, "h B T S"]],
    parts: Sequence[Float[Array, "H ..."] | None],
    v: Float[Array, "H B S E"],
    asking: Int[Array, "B T"],
    segments: Int[Array, "B S"],
    execution: Execution,
) -> Float[Array, "B T D"]:
    """Attention in both directions over the tokens of a query's own segment.

    Args:
        scores_of: computes the scores of some heads from their share of `parts`.
        asking: the segments of the queries.
    """
    H, B, S, _ = v.shape
    each = 4 * B * asking.shape[1] * S
    groups = 1
    if execution.mesh.size == 1 and execution.mesh.devices.flat[0].platform == "cpu":
        groups = next((g for g in range(1, H) if H % g == 0 and H // g * each <= SCORES_AT_ONCE), H)

    def of_group(given):
        *parts, v = given
        return _mix(scores_of(*parts), v, asking, segments)

    mixed = _by_groups(of_group, (*parts, v), groups)
    mixed = jnp.transpose(mixed, (1, 2, 0, 3))
    return mixed.reshape(*mixed.shape[:2], -1)


def _by_groups(function: Callable[..., jax.Array], given: Any, groups: int) -> jax.Array:
    """Applies a function of arrays to equal groups of their leading axis, one after another."""
    if groups == 1:
        return function(given)
    split = jax.tree.map(lambda x: x.reshape(groups, -1, *x.shape[1:]), given)
    found = jax.lax.map(function, split)
    return found.reshape(-1, *found.shape[2:])


def _mix(
    scores: Float[Array, "h B T S"],
    v: Float[Array, "h B S E"],
    asking: Int[Array, "B T"],
    segments: Int[Array, "B S"],
) -> Float[Array, "h B T E"]:
    """Softmax and weighted sum, in float32. The E numbers of each token's result are divided by the
    sum of the weights, instead of its S weights."""
    lowest = jnp.finfo(jnp.float32).min
    together = asking[:, :, None] == segments[:, None, :]
    scores = jnp.where(together[None], scores, lowest)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    mixed = jnp.einsum(
        "hbts,hbse->hbte", weights.astype(v.dtype), v, preferred_element_type=jnp.float32
    )
    return (mixed / weights.sum(axis=-1, keepdims=True)).astype(v.dtype)
