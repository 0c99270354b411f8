"""Parts that the other architectures share: layer norm, running stacked layers, score heads.

An architecture is a config and an NNX module that declares each parameter once (`declaration.py`).
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Shaped

from safety_jax.base import meshes
from safety_jax.base.batch import Tokens
from safety_jax.base.errors import CheckpointError
from safety_jax.models import lora, products
from safety_jax.models.execution import REMAT, Execution
from safety_jax.models.llama import Projection


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


# ---------------------------------------------------------------------------- score heads


@dataclasses.dataclass(frozen=True)
class HeadConfig:
    """A head that turns the hidden state of one token into scores.

    Attributes:
        reads: which token it reads: the "first", or the "last" one that is no padding.
        skips: a token that never counts as the last one. `transformers` skips the padding token of
            config.json, even if it also marks the end of text.
        activation: of a square dense layer before the output; None without such a layer.
        mean, deviation: of a stored normaliser, (score - mean) / deviation, one number per label.
    """

    width: int
    labels: int
    reads: str
    activation: str | None
    bias: bool
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    initializer_range: float
    skips: int | None = None


def fresh_head(
    config: Any, labels: int, reads: str, *, activation: str | None, bias: bool
) -> HeadConfig:
    """A head for a trunk with this config, without a normaliser."""
    return HeadConfig(
        width=config.width,
        labels=labels,
        reads=reads,
        activation=activation,
        bias=bias,
        mean=(0.0,) * labels,
        deviation=(1.0,) * labels,
        initializer_range=config.initializer_range,
    )


class Head(nnx.Module):
    """The output layer, after a dense layer if the architecture has one."""

    def __init__(self, config: HeadConfig, *, rngs: nnx.Rngs):
        self.config = config
        D, spread = config.width, config.initializer_range
        if config.activation is not None:
            self.dense = Projection(D, D, ("width", "embed"), True, spread, rngs=rngs)
        self.output = Projection(
            D, config.labels, ("labels", "embed"), config.bias, spread, rngs=rngs
        )

    def __call__(self, x: Float[Array, "B D"], execution: Execution) -> Float[Array, "B labels"]:
        """Scores in float32, no matter in which type the trunk computes."""
        config, x = self.config, x.astype(jnp.float32)[:, None]
        with jax.default_matmul_precision("highest"):
            if config.activation is not None:
                x = ACTIVATIONS[config.activation](self.dense(x, execution, None))
            scores = self.output(x, execution, None)[:, 0]
        mean, deviation = (
            jnp.broadcast_to(jnp.array(values, jnp.float32), scores.shape)
            for values in (config.mean, config.deviation)
        )
        return (scores - mean) / deviation


# ---------------------------------------------------------------------------- exported config.json


def carried(
    given: Mapping[str, Any] | None, config: Any, parse: Callable[..., Any]
) -> dict[str, Any] | None:
    """The attributes of a trunk's config.json, if they describe exactly this config."""
    try:
        same = given is not None and parse(given, "config.json") == config
    except CheckpointError:
        return None
    return dict(given or {}) if same else None


def cells_read(head: HeadConfig, tokens: Tokens, ends: Int[Array, "B S"]) -> Int[Array, "B S"]:
    """The cell at which a head reads each segment: its first token; or its last token that the head
    does not skip, and the first if there is none.

    Args:
        ends: the last cell of each segment.
    """
    first = ends - at(tokens.positions, ends)
    if head.reads == "first":
        return first
    if head.skips is None:
        return ends
    index = jnp.arange(tokens.ids.shape[1], dtype=jnp.int32)[None]
    last = at(jax.lax.cummax(jnp.where(tokens.ids != head.skips, index, -1), axis=1), ends)
    own = (last >= 0) & (at(tokens.segments, jnp.maximum(last, 0)) == at(tokens.segments, ends))
    return jnp.where(own, last, first)


def pad_token(
    attributes: Mapping[str, Any], token_ids: Mapping[str, int | None]
) -> dict[str, int | None]:
    """The padding's id for the config.json of a head that reads the last token.

    Without it, `transformers` refuses to score batches. It never reads at this id (see
    `HeadConfig.skips`), so the tokenizer's padding is used only if it is not the end of text, too.
    """
    given = attributes.get("pad_token_id")
    padding = token_ids["pad_token_id"]
    if given is None and padding != token_ids["eos_token_id"]:
        return {"pad_token_id": padding}
    return {"pad_token_id": given}
