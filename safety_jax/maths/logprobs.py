"""Log-probabilities of target tokens, without logits of the size `[tokens, V]` in memory.

SFT, DPO and scoring differ only in their use of these numbers, see `losses.py`.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from safety_jax.base.batch import Tokens


class TokenLogprobs(NamedTuple):
    """Results for each position; zero and False where the mask is False.

    Attributes:
        logprobs: log p(target | all tokens before it), float32.
        correct: whether the target is the most likely token.
    """

    logprobs: Float[Array, "B T"]
    correct: Bool[Array, "B T"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OutputHead:
    """Maps hidden states to logits: c tanh(s h Wᵀ / c), or s h Wᵀ without a soft-cap.

    Attributes:
        table: W [V, D].
        scale: s (Granite divides logits by a number).
        softcap: c (Gemma 2, arXiv 2408.00118).
    """

    table: Any
    scale: float = dataclasses.field(default=1.0, metadata={"static": True})
    softcap: float | None = dataclasses.field(default=None, metadata={"static": True})

    def logits(self, products: Float[Array, "*B V"]) -> Float[Array, "*B V"]:
        """Logits of products with the table."""
        scaled = products if self.scale == 1.0 else products * self.scale
        return scaled if self.softcap is None else self.softcap * jnp.tanh(scaled / self.softcap)

    def slopes(self, logits: Float[Array, "*B V"]) -> Float[Array, "*B V"] | float:
        """d logit / d product at these logits: s (1 - (logit / c)²)."""
        if self.softcap is None:
            return self.scale
        return self.scale * (1 - (logits / self.softcap) ** 2)


def at_predictions(values: Shaped[Array, "*B T"]) -> Shaped[Array, "*B T"]:
    """Values by token at the positions that predict the tokens: position t predicts token t + 1,
    and the last one none, which gets 0."""
    return jnp.pad(values[..., 1:], [(0, 0)] * (values.ndim - 1) + [(0, 1)])


def shift(tokens: Tokens) -> tuple[Int[Array, "*B T"], Bool[Array, "*B T"]]:
    """Targets and mask of each predicting position.

    The first token of a segment is never in the mask, so no prediction crosses a boundary.
    """
    return at_predictions(tokens.ids), at_predictions(tokens.mask)


def token_logprobs(
    hidden: Float[Array, "B T D"],
    head: OutputHead,
    targets: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    chunk_tokens: int,
) -> TokenLogprobs:
    """Log-probability of each target under softmax(logits), in chunks of tokens.

    Positions outside the mask cost nothing: those in the mask are moved to the front of each row,
    and only as many chunks are visited as the fullest row needs. Logits, softmax and sums are
    float32.

    The gradient of `hidden` needs no second pass over the vocabulary, because a log-probability
    depends only on the hidden state of its own position. The forward pass saves a vector of size D,

        d logp_t / d hidden_t = z'_target W[target_t] - Σ_v p_v z'_v W[v]

    with z' = d logit / d product (1 for most models), and the backward pass scales it by the
    incoming gradient. Logits are recomputed only if `head` itself is trained.

    Args:
        chunk_tokens: positions of each row visited at once; peak memory is B · chunk_tokens · V
            float32 numbers.
    """
    form = dataclasses.replace(head, table=None)  # hashable, as nondiff_argnums requires
    logprobs, correct = _token_logprobs(hidden, head.table, targets, mask, form, chunk_tokens)
    return TokenLogprobs(logprobs, correct)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _token_logprobs(hidden, table, targets, mask, form, chunk_tokens):
    logprobs, correct, _ = _visit(hidden, table, targets, mask, form, chunk_tokens, slopes=False)
    return logprobs, correct


def _token_logprobs_forward(hidden, table, targets, mask, form, chunk_tokens):
    logprobs, correct, slopes = _visit(
        hidden.value, table.value, targets.value, mask.value, form, chunk_tokens, slopes=True
    )
    # If the last entry is present, the backward pass knows statically that the head is trained.
    recompute = None
    if table.perturbed:
        recompute = (hidden.value, table.value, targets.value, mask.value)
    return (logprobs, correct), (slopes, recompute)


def _token_logprobs_backward(form, chunk_tokens, residuals, gradients):
    slopes, recompute = residuals
    incoming = gradients[0]
    if isinstance(incoming, jax.custom_derivatives.SymbolicZero):
        return None, None, None, None
    d_hidden = (incoming[..., None] * slopes).astype(slopes.dtype)
    d_table = None
    if recompute is not None:
        hidden, table, targets, mask = recompute
        d_table = _table_gradient(incoming, hidden, table, targets, mask, form, chunk_tokens)
    return d_hidden, d_table, None, None


_token_logprobs.defvjp(_token_logprobs_forward, _token_logprobs_backward, symbolic_zeros=True)


def _front(mask: Bool[Array, "B T"], chunk: int) -> tuple[Int[Array, "B T"], Array]:
    """An order with the positions of each row's mask in front, and the number of chunks."""
    order = jnp.argsort(~mask, axis=1, stable=True)
    return order, -(-mask.sum(axis=1).max() // chunk)


def _ordered(order, chunk, *arrays):
    """Arrays [B, T, ...] taken in `order` and padded to whole chunks along T."""
    short = -order.shape[1] % chunk

    def take(x):
        index = order.reshape(order.shape + (1,) * (x.ndim - 2))
        taken = jnp.take_along_axis(x, index, axis=1)
        return jnp.pad(taken, [(0, 0), (0, short)] + [(0, 0)] * (x.ndim - 2))

    return [take(x) for x in arrays]


def _chunk_logits(hidden, table, i, form, chunk):
    part = jax.lax.dynamic_slice_in_dim(hidden, i * chunk, chunk, axis=1)
    return form.logits(jnp.einsum("bcd,vd->bcv", part, table, preferred_element_type=jnp.float32))


def _visit(hidden, table, targets, mask, form, chunk, slopes: bool):
    """One pass over the vocabulary: logprobs, correct and, with `slopes`, d logp / d hidden."""
    B, T, D = hidden.shape
    chunk = min(chunk, T)
    table = table.astype(hidden.dtype)
    order, chunks = _front(mask, chunk)
    hidden, targets, visible = _ordered(order, chunk, hidden, targets, mask)
    width = D if slopes else 0

    def body(i, carry):
        logprobs, correct, slope = carry
        logits = _chunk_logits(hidden, table, i, form, chunk)
        y = jax.lax.dynamic_slice_in_dim(targets, i * chunk, chunk, axis=1)
        on = jax.lax.dynamic_slice_in_dim(visible, i * chunk, chunk, axis=1)
        top = logits.max(axis=-1)
        exponentials = jnp.exp(logits - top[..., None])
        total = exponentials.sum(axis=-1)
        chosen = jnp.take_along_axis(logits, y[..., None], axis=-1)[..., 0]
        write = functools.partial(
            jax.lax.dynamic_update_slice_in_dim, start_index=i * chunk, axis=1
        )
        logprobs = write(logprobs, jnp.where(on, chosen - top - jnp.log(total), 0.0))
        correct = write(correct, on & (chosen >= top))
        if slopes:
            mean = jnp.einsum(
                "bcv,vd->bcd",
                (exponentials * form.slopes(logits)).astype(table.dtype),
                table,
                preferred_element_type=jnp.float32,
            )
            of_chosen = table[y].astype(jnp.float32) * form.slopes(chosen[..., None])
            here = of_chosen - mean / total[..., None]
            slope = write(slope, jnp.where(on[..., None], here, 0.0).astype(slope.dtype))
        return logprobs, correct, slope

    start = (
        jnp.zeros(targets.shape, jnp.float32),
        jnp.zeros(targets.shape, bool),
        jnp.zeros((*targets.shape, width), hidden.dtype),
    )
    found = jax.lax.fori_loop(0, chunks, body, start)
    back = jnp.argsort(order, axis=1)
    return _ordered(back, T, *found)


def _table_gradient(incoming, hidden, table, targets, mask, form, chunk):
    """Σ_t g_t z'_t (onehot(target_t) - p_t) hidden_tᵀ, chunk by chunk, in float32."""
    chunk = min(chunk, hidden.shape[1])
    order, chunks = _front(mask, chunk)
    compute_table = table.astype(hidden.dtype)
    hidden, targets, weight = _ordered(order, chunk, hidden, targets, incoming * mask)

    def body(i, gradient):
        part = functools.partial(
            jax.lax.dynamic_slice_in_dim, start_index=i * chunk, slice_size=chunk, axis=1
        )
        logits = _chunk_logits(hidden, compute_table, i, form, chunk)
        here = jax.nn.one_hot(part(targets), table.shape[0]) - jax.nn.softmax(logits, axis=-1)
        here = here * form.slopes(logits)
        here = (part(weight)[..., None] * here).astype(hidden.dtype)
        return gradient + jnp.einsum(
            "bcv,bcd->vd", here, part(hidden), preferred_element_type=jnp.float32
        )

    total = jax.lax.fori_loop(0, chunks, body, jnp.zeros(table.shape, jnp.float32))
    return total.astype(table.dtype)


def segment_sums(
    values: Float[Array, "B T"], segments: Int[Array, "B T"], most: int
) -> Float[Array, "B S"]:
    """Sums of each row's values by segment 1 ... `most`; exact float32 on every backend."""
    member = segments[..., None] == jnp.arange(1, most + 1)[None, None]
    return jnp.where(member, values[..., None], 0.0).sum(axis=1)
