"""DeBERTa v2 and v3 in Flax NNX (He et al. 2020, arXiv 2006.03654; 2021, arXiv 2111.09543).

A score of attention is the sum of three products: content with content, content with position and
position with content. A position is the distance from query to key, in buckets that widen with the
distance.

The score of tokens i and j needs the position product at distance i - j. A gather of single
elements is slow on all platforms, and the scatter of its gradient is slower. But each row has the
distances of the row above, shifted by one: with a table entry for every distance, a reshape does
the same (`skew`).
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from safety_jax.base import meshes, trees
from safety_jax.base.batch import Tokens
from safety_jax.models import declaration, layers, lora
from safety_jax.models.execution import Execution
from safety_jax.models.layers import Projection

# Blocks of tokens in the products with positions; more blocks cost more than they save.
BLOCKS = 2


@dataclasses.dataclass(frozen=True)
class Convolution:
    """The convolution beside the first layer, of the large v2 checkpoints."""

    size: int
    groups: int
    activation: str


@dataclasses.dataclass(frozen=True)
class DebertaConfig:
    """Sizes and switches of one checkpoint; `deberta_config.py` reads it from `config.json`.

    Attributes:
        absolute_positions: whether position embeddings are added to the input.
        relative: whether scores depend on distances; the next six fields are only for this case.
        max_distance: larger distances count as this one.
        buckets: on each side; 0 if every distance has its own entry.
        content_to_position, position_to_content: whether there are these products.
        shared_projections: whether positions use the query and key projections of the content.
        normed_positions: whether distance embeddings pass through a layer norm.
    """

    vocabulary_size: int
    embedding_size: int
    width: int
    mlp_width: int
    layers: int
    heads: int
    activation: str
    norm_epsilon: float
    max_positions: int
    token_types: int
    absolute_positions: bool
    relative: bool
    max_distance: int
    buckets: int
    content_to_position: bool
    position_to_content: bool
    shared_projections: bool
    normed_positions: bool
    convolution: Convolution | None
    pooler_activation: str
    initializer_range: float

    @property
    def head_size(self) -> int:
        return self.width // self.heads

    @property
    def span(self) -> int:
        """Entries of the position table on each side of distance 0."""
        return self.buckets or self.max_distance


# ---------------------------------------------------------------------------- distances


def bucket(distance: np.ndarray, buckets: int, max_distance: int) -> np.ndarray:
    """Signed distances to signed buckets: exact up to half the buckets, logarithmic beyond.

    Computed in float32 with the same steps as the original, because `ceil` can turn a difference of
    one bit into another bucket.
    """
    middle = buckets // 2
    near = np.abs(distance) <= middle
    size = np.where(near, middle, np.abs(distance)).astype(np.float32)
    scale = np.log(np.float32((max_distance - 1) / middle))
    far = np.ceil(np.log(size / np.float32(middle)) / scale * np.float32(middle - 1)) + middle
    return np.where(near, distance, far.astype(np.int64) * np.sign(distance))


@functools.cache
def table_rows(config: DebertaConfig, T: int) -> np.ndarray:
    """The position table's row for each distance from -(T - 1) to T - 1."""
    distance = np.arange(-(T - 1), T)
    if config.buckets:
        distance = bucket(distance, config.buckets, config.max_distance)
    return np.clip(distance + config.span, 0, 2 * config.span - 1)


def skew(x: Float[Array, "*B Q W"]) -> Float[Array, "*B Q T"]:
    """y[i, j] = x[i, j - i + Q - 1], where W = Q + T - 1: each row is shifted by one more."""
    *lead, Q, W = x.shape
    if Q == 1:
        return x
    flat = jax.lax.slice_in_dim(x.reshape(*lead, Q * W), Q - 1, Q - 1 + Q * (W - 1), axis=-1)
    return flat.reshape(*lead, Q, W - 1)[..., : W - Q + 1]


# ---------------------------------------------------------------------------- modules


class DebertaLayer(nnx.Module):
    """Disentangled attention and an MLP, with a norm after each residual."""

    def __init__(self, config: DebertaConfig, *, rngs: nnx.Rngs):
        self.config = config
        D, F = config.width, config.mlp_width
        project = functools.partial(
            Projection, bias=True, spread=config.initializer_range, rngs=rngs
        )
        self.query = project(D, D, ("heads", "embed"))
        self.key = project(D, D, ("heads", "embed"))
        self.value = project(D, D, ("heads", "embed"))
        if config.relative and not config.shared_projections:
            if config.content_to_position:
                self.position_key = project(D, D, ("heads", "embed"))
            if config.position_to_content:
                self.position_query = project(D, D, ("heads", "embed"))
        self.output = project(D, D, ("embed", "heads"))
        self.attention_norm = layers.LayerNorm(D, config.norm_epsilon)
        self.up = project(D, F, ("mlp", "embed"))
        self.down = project(F, D, ("embed", "mlp"))
        self.mlp_norm = layers.LayerNorm(D, config.norm_epsilon)

    def __call__(
        self,
        x,
        positions,
        segments,
        execution: Execution,
        adapters: dict[str, lora.Leaves],
        read=None,
    ):
        """[B T D] to [B T D]; or to [B S D], only the tokens in the cells `read`."""
        given, asking = adapters.get, x if read is None else layers.at(x, read)
        attended = self.attend(asking, x, positions, segments, execution, adapters, read)
        x = self.attention_norm(asking + self.output(attended, execution, given("output")))
        wide = layers.ACTIVATIONS[self.config.activation](self.up(x, execution, given("up")))
        return self.mlp_norm(x + self.down(wide, execution, given("down")))

    def attend(
        self,
        asking,
        x,
        positions,
        segments,
        execution: Execution,
        adapters: dict[str, lora.Leaves],
        read,
    ):
        """Attention of `asking` to x [B T D]; `asking` is x, or its tokens in the cells `read`."""
        T, config = x.shape[1], self.config
        project = functools.partial(self.project, execution=execution, adapters=adapters)
        q, k, v = project("query", asking), project("key", x), project("value", x)
        position_key = position_query = None
        if config.relative and config.content_to_position:
            name = "key" if config.shared_projections else "position_key"
            position_key = self.by_distance(project(name, positions), T)
        if config.relative and config.position_to_content:
            name = "query" if config.shared_projections else "position_query"
            position_query = self.by_distance(project(name, positions), T)
        terms = 1 + config.content_to_position + config.position_to_content

        def scores_of(q, k, position_key, position_query):
            scores = jnp.einsum("hbte,hbse->hbts", q, k, preferred_element_type=jnp.float32)
            if position_key is not None:
                scores += content_to_position(q, position_key, read)
            if position_query is not None:
                scores += position_to_content(position_query, k, read)
            return scores * (config.head_size * terms) ** -0.5

        own = segments if read is None else layers.at(segments, read)
        parts = (q, k, position_key, position_query)
        return layers.attend(scores_of, parts, v, own, segments, execution)

    def project(self, name: str, x, execution: Execution, adapters: dict[str, lora.Leaves]):
        """Projects x, and splits the result into heads [H, B, T, E]."""
        return layers.heads_first(
            getattr(self, name)(x, execution, adapters.get(name)), self.config.heads
        )

    def by_distance(self, projected: Float[Array, "H 1 P E"], T: int) -> Float[Array, "H W E"]:
        """Projected position embeddings for each distance from -(T - 1) to T - 1."""
        rows = table_rows(self.config, T)
        return jnp.take(projected[:, 0], rows - rows.min(), axis=1)


def position_scores(
    x: Float[Array, "H B T E"], table: Float[Array, "H W E"]
) -> Float[Array, "H B T T"]:
    """Products of token i with the table's entry j - i + T - 1, for all i and j; W = 2 T - 1.

    They are computed in blocks: N tokens need only N + T - 1 entries, but all T need 2 T - 1.
    """
    T = x.shape[2]
    N = T // BLOCKS if T % BLOCKS == 0 else T

    def block(first: int) -> jax.Array:
        tokens = x[:, :, first : first + N]
        entries = table[:, T - N - first : 2 * T - 1 - first]
        return skew(
            jnp.einsum("hbqe,hwe->hbqw", tokens, entries, preferred_element_type=jnp.float32)
        )

    return jnp.concatenate([block(first) for first in range(0, T, N)], axis=2)


def content_to_position(
    x: Float[Array, "H B Q E"], table: Float[Array, "H W E"], read: Int[Array, "B Q"] | None
) -> Float[Array, "H B Q T"]:
    """Products of token i with the table's entry i - j + T - 1, for all j, and for all i or those
    in `read`."""
    if read is None:
        return position_scores(x, table[:, ::-1])
    entries = entries_of(table, read)
    return jnp.einsum("hbqe,hbqte->hbqt", x, entries, preferred_element_type=jnp.float32)


def position_to_content(
    table: Float[Array, "H W E"], x: Float[Array, "H B T E"], read: Int[Array, "B Q"] | None
) -> Float[Array, "H B Q T"]:
    """Products of the table's entry i - j + T - 1 with token j, for all j, and for all i or those
    in `read`."""
    if read is None:
        return jnp.swapaxes(position_scores(x, table), -1, -2)
    entries = entries_of(table, read)
    return jnp.einsum("hbqte,hbte->hbqt", entries, x, preferred_element_type=jnp.float32)


def entries_of(table: Float[Array, "H W E"], read: Int[Array, "B Q"]) -> Float[Array, "H B Q T E"]:
    """The table's entries i - j + T - 1, for the few i in `read` and all T tokens j."""
    T = (table.shape[1] + 1) // 2
    distance = read[..., None] - jnp.arange(T)[None, None]
    return jnp.take(table, distance + T - 1, axis=1)


class ConvolutionLayer(nnx.Module):
    """norm(y + activation(convolution(x))); x is the first layer's input, and y its output."""

    def __init__(self, config: DebertaConfig, *, rngs: nnx.Rngs):
        assert config.convolution is not None
        self.convolution = config.convolution
        D, size = config.width, config.convolution.size
        shape = (D, D // config.convolution.groups, size)
        values = config.initializer_range * jax.random.normal(rngs.params(), shape)
        self.kernel = nnx.Param(values, out_sharding=("width", "embed", "entries"))
        self.bias = nnx.Param(jnp.zeros((D,)), out_sharding=("norm",))
        self.norm = layers.LayerNorm(D, config.norm_epsilon)

    def __call__(self, x, y, mask, execution: Execution):
        kernel = meshes.gather(self.kernel[...], execution.mesh, ("width", "embed", "entries"))
        padding = (self.convolution.size - 1) // 2
        around = jax.lax.conv_general_dilated(
            x, kernel.astype(x.dtype), (1,), [(padding, padding)],
            dimension_numbers=("NWC", "OIW", "NWC"),
            feature_group_count=self.convolution.groups,
        )  # fmt: skip
        around = around + jnp.broadcast_to(self.bias[...].astype(x.dtype), around.shape)
        real = mask[..., None]
        around = layers.ACTIVATIONS[self.convolution.activation](jnp.where(real, around, 0))
        return jnp.where(real, self.norm(y + around), 0)


class Deberta(nnx.Module):
    """Embeddings and stacked layers, without the pooler, which belongs to the head."""

    def __init__(self, config: DebertaConfig, *, rngs: nnx.Rngs):
        self.config = config
        D, size, spread = config.width, config.embedding_size, config.initializer_range
        self.embedding = layers.table(config.vocabulary_size, size, spread, rngs)
        if config.absolute_positions:
            self.position_embedding = layers.table(config.max_positions, size, spread, rngs)
        if config.token_types:
            self.type_embedding = layers.table(config.token_types, size, spread, rngs)
        if size != D:
            self.embedding_projection = Projection(
                size, D, ("width", "embed"), False, spread, rngs=rngs
            )
        self.embedding_norm = layers.LayerNorm(D, config.norm_epsilon)
        if config.relative:
            self.relative_embedding = layers.table(2 * config.span, D, spread, rngs)
            if config.normed_positions:
                self.relative_norm = layers.LayerNorm(D, config.norm_epsilon)
        if config.convolution is not None:
            self.convolution = ConvolutionLayer(config, rngs=rngs)
        self.layers = layers.stacked(
            lambda rngs: DebertaLayer(config, rngs=rngs), config.layers, rngs
        )

    def __call__(self, tokens: Tokens, read, execution: Execution, adapters: lora.Adapters | None):
        mask = tokens.segments > 0
        x = self.embed(tokens, mask, execution)
        positions = self.positions(tokens.ids.shape[1], execution)

        def call(layer, x, leaves, read=None):
            return layer(x, positions, tokens.segments, execution, leaves, read)

        stack, leaves = self.layers, lora.by_layer(adapters)
        if self.config.convolution is not None:
            # The first layer runs separately, because only it has a convolution beside it.
            first, (stack, leaves) = layers.split(stack, leaves, 1)
            x = self.convolution(x, layers.run_layers(*first, x, execution, call), mask, execution)
        return layers.run_to_read(stack, leaves, x, read, execution, call)

    def embed(self, tokens: Tokens, mask, execution: Execution) -> Float[Array, "B T D"]:
        config = self.config
        x = layers.look_up(self.embedding, tokens.ids, execution)
        if config.absolute_positions:
            x = x + layers.look_up(self.position_embedding, tokens.positions, execution)
        if config.token_types:
            types = jnp.zeros_like(tokens.ids) if tokens.types is None else tokens.types
            x = x + layers.look_up(self.type_embedding, types, execution)
        if config.embedding_size != config.width:
            x = self.embedding_projection(x, execution, None)
        x = jnp.where(mask[..., None], self.embedding_norm(x), 0)
        return meshes.constrain(x, execution.mesh, ("rows", "tokens", "width"))

    def positions(self, T: int, execution: Execution) -> Any:
        """Embeddings of the distances among T tokens, [1, P, D]; None if the model uses none."""
        if not self.config.relative:
            return None
        rows = table_rows(self.config, T)
        table = layers.look_up(
            self.relative_embedding, jnp.arange(rows.min(), rows.max() + 1), execution
        )
        return (self.relative_norm(table) if self.config.normed_positions else table)[None]


def forward(
    config: DebertaConfig,
    weights: trees.Tree,
    tokens: Tokens,
    read: Int[Array, "B S"],
    execution: Execution,
    adapters: lora.Adapters | None,
) -> Float[Array, "B S D"]:
    """The last hidden states of the tokens that are read, in `execution.compute_dtype`."""
    return declaration.bind(Deberta, config, weights)(tokens, read, execution, adapters)
