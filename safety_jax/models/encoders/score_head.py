"""The head that turns the hidden state of one token into scores, and its part of config.json."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from safety_jax.base.batch import Tokens
from safety_jax.base.errors import CheckpointError
from safety_jax.models import layers
from safety_jax.models.execution import Execution
from safety_jax.models.folders.families import FAMILIES


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
            self.dense = layers.Projection(D, D, ("width", "embed"), True, spread, rngs=rngs)
        self.output = layers.Projection(
            D, config.labels, ("labels", "embed"), config.bias, spread, rngs=rngs
        )

    def __call__(self, x: Float[Array, "B D"], execution: Execution) -> Float[Array, "B labels"]:
        """Scores in float32, no matter in which type the trunk computes."""
        config, x = self.config, x.astype(jnp.float32)[:, None]
        with jax.default_matmul_precision("highest"):
            if config.activation is not None:
                x = layers.ACTIVATIONS[config.activation](self.dense(x, execution, None))
            scores = self.output(x, execution, None)[:, 0]
        mean, deviation = (
            jnp.broadcast_to(jnp.array(values, jnp.float32), scores.shape)
            for values in (config.mean, config.deviation)
        )
        return (scores - mean) / deviation


def cells_read(head: HeadConfig, tokens: Tokens, ends: Int[Array, "B S"]) -> Int[Array, "B S"]:
    """The cell at which a head reads each segment: its first token; or its last token that the head
    does not skip, and the first if there is none.

    Args:
        ends: the last cell of each segment.
    """
    first = ends - layers.at(tokens.positions, ends)
    if head.reads == "first":
        return first
    if head.skips is None:
        return ends
    index = jnp.arange(tokens.ids.shape[1], dtype=jnp.int32)[None]
    last = layers.at(jax.lax.cummax(jnp.where(tokens.ids != head.skips, index, -1), axis=1), ends)
    segment, its = (layers.at(tokens.segments, at) for at in (ends, jnp.maximum(last, 0)))
    return jnp.where((last >= 0) & (its == segment), last, first)


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


def padding(attributes: Mapping[str, Any]) -> Any:
    """The `pad_token_id` of a config.json. `transformers` leaves it out where it is the default of
    the model's class; null means none."""
    if "pad_token_id" in attributes:
        return attributes["pad_token_id"]
    family = FAMILIES.get(attributes["model_type"])
    default = family.padding if family else None
    size = attributes.get("vocab_size")
    # Of a small vocabulary it is no token.
    return None if default is not None and size is not None and size <= default else default


def pad_token(
    attributes: Mapping[str, Any], token_ids: Mapping[str, int | None]
) -> dict[str, int | None]:
    """The padding's id for the config.json of a head that reads the last token.

    Without it, `transformers` refuses to score batches. It never reads at this id (see
    `HeadConfig.skips`), so the tokenizer's padding is used only if it is not the end of text, too.
    """
    given, own = padding(attributes), token_ids["pad_token_id"]
    if given is None and own != token_ids["eos_token_id"]:
        return {"pad_token_id": own}
    return {"pad_token_id": given}
