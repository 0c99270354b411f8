"""Objectives: arrays in, arrays out; no model, no config.

Everything here starts from `token_logprobs`, which never holds `[tokens, V]` logits: SFT, DPO and
scoring differ only in what they do with the log-probabilities of the tokens that were written.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from safety_jax.base.batch import Tokens


class TokenLogprobs(NamedTuple):
    """Per position; zero and False where the mask is False.

    Attributes:
        logprobs: log p(target | what stands left of it), float32.
        correct: the target is the most likely token.
    """

    logprobs: Float[Array, "B T"]
    correct: Bool[Array, "B T"]


def shift(tokens: Tokens) -> tuple[Int[Array, "B T"], Bool[Array, "B T"]]:
    """Targets and mask per predicting position: position t answers for token t + 1.

    The first token of a segment is never in the mask, so no position answers across a boundary.
    """
    end = [(0, 0)] * (tokens.ids.ndim - 1) + [(0, 1)]
    return jnp.pad(tokens.ids[..., 1:], end), jnp.pad(tokens.mask[..., 1:], end)


def token_logprobs(
    hidden: Float[Array, "B T D"],
    head: Float[Array, "V D"],
    targets: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    chunk_tokens: int,
) -> TokenLogprobs:
    """Log-probability of each target under softmax(hidden headᵀ), in chunks of tokens.

    Masked-out positions cost nothing: each row brings its masked positions to the front, and only
    as many chunks are visited as the fullest row needs. Logits, softmax and sums are float32.

    The gradient needs no second pass over the vocabulary for `hidden`: logp depends on its own
    position's hidden state alone, so

        d logp_t / d hidden_t = head[target_t] - Σ_v p_v head[v]

    is a vector of size D that the forward pass leaves behind. The backward pass scales it by the
    incoming gradient. Logits are recomputed only when `head` itself is trained.

    Args:
        chunk_tokens: positions of each row visited at once; peak memory is B · chunk_tokens · V
            float32 numbers.
    """
    logprobs, correct = _token_logprobs(hidden, head, targets, mask, chunk_tokens)
    return TokenLogprobs(logprobs, correct)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _token_logprobs(hidden, head, targets, mask, chunk_tokens):
    logprobs, correct, _ = _visit(hidden, head, targets, mask, chunk_tokens, slopes=False)
    return logprobs, correct


def _token_logprobs_forward(hidden, head, targets, mask, chunk_tokens):
    logprobs, correct, slopes = _visit(
        hidden.value, head.value, targets.value, mask.value, chunk_tokens, slopes=True
    )
    # The presence of the last entry tells the backward pass, statically, that the head is trained.
    recompute = None
    if head.perturbed:
        recompute = (hidden.value, head.value, targets.value, mask.value)
    return (logprobs, correct), (slopes, recompute)


def _token_logprobs_backward(chunk_tokens, residuals, gradients):
    slopes, recompute = residuals
    incoming = gradients[0]
    if isinstance(incoming, jax.custom_derivatives.SymbolicZero):
        return None, None, None, None
    d_hidden = (incoming[..., None] * slopes).astype(slopes.dtype)
    d_head = None
    if recompute is not None:
        hidden, head, targets, mask = recompute
        d_head = _head_gradient(incoming, hidden, head, targets, mask, chunk_tokens)
    return d_hidden, d_head, None, None


_token_logprobs.defvjp(_token_logprobs_forward, _token_logprobs_backward, symbolic_zeros=True)


def _front(mask: Bool[Array, "B T"], chunk: int) -> tuple[Int[Array, "B T"], Array]:
    """Order that brings each row's masked positions to the front, and the chunks to visit."""
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


def _chunk_logits(hidden, head, i, chunk):
    part = jax.lax.dynamic_slice_in_dim(hidden, i * chunk, chunk, axis=1)
    return jnp.einsum("bcd,vd->bcv", part, head, preferred_element_type=jnp.float32)


def _visit(hidden, head, targets, mask, chunk, slopes: bool):
    """One pass over the vocabulary: logprobs, correct and, if asked, d logp / d hidden."""
    B, T, D = hidden.shape
    chunk = min(chunk, T)
    head = head.astype(hidden.dtype)
    order, chunks = _front(mask, chunk)
    hidden, targets, visible = _ordered(order, chunk, hidden, targets, mask)
    width = D if slopes else 0

    def body(i, carry):
        logprobs, correct, slope = carry
        logits = _chunk_logits(hidden, head, i, chunk)
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
                exponentials.astype(head.dtype),
                head,
                preferred_element_type=jnp.float32,
            )
            here = head[y].astype(jnp.float32) - mean / total[..., None]
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


def _head_gradient(incoming, hidden, head, targets, mask, chunk):
    """Σ_t g_t (onehot(target_t) - p_t) hidden_tᵀ, chunk by chunk, in float32."""
    chunk = min(chunk, hidden.shape[1])
    order, chunks = _front(mask, chunk)
    compute_head = head.astype(hidden.dtype)
    hidden, targets, weight = _ordered(order, chunk, hidden, targets, incoming * mask)

    def body(i, gradient):
        part = functools.partial(
            jax.lax.dynamic_slice_in_dim, start_index=i * chunk, slice_size=chunk, axis=1
        )
        probability = jax.nn.softmax(_chunk_logits(hidden, compute_head, i, chunk), axis=-1)
        here = jax.nn.one_hot(part(targets), head.shape[0]) - probability
        here = (part(weight)[..., None] * here).astype(hidden.dtype)
        return gradient + jnp.einsum(
            "bcv,bcd->vd", here, part(hidden), preferred_element_type=jnp.float32
        )

    total = jax.lax.fori_loop(0, chunks, body, jnp.zeros(head.shape, jnp.float32))
    return total.astype(head.dtype)


class LossSums(NamedTuple):
    """Sums over the trained tokens of one microbatch; the step divides by the batch's tokens."""

    loss: Float[Array, ""]
    correct: Float[Array, ""]


def sft(scores: TokenLogprobs) -> LossSums:
    """Negative log-likelihood of the trained tokens, summed: L = - Σ_t log p(y_t | y_<t, x)."""
    return LossSums(-scores.logprobs.sum(), scores.correct.sum().astype(jnp.float32))


# ---------------------------------------------------------------------------- preferences


class PairLogprobs(NamedTuple):
    """What preference objectives see of pairs; the last axis is (chosen, rejected), N = 2.

    Attributes:
        policy: log π(y|x), summed over the tokens of each answer; the gradient flows through it.
        reference: log π_ref(y|x), likewise.
        tokens: tokens of each answer, at least 1.
        unsafe: 1 where an answer is unsafe, 0 where it is safe or not known.
    """

    policy: Float[Array, "*B 2"]
    reference: Float[Array, "*B 2"]
    tokens: Float[Array, "*B 2"]
    unsafe: Float[Array, "*B 2"]


Losses = Float[Array, "*B"]


def segment_sums(
    values: Float[Array, "B T"], segments: Int[Array, "B T"], most: int
) -> Float[Array, "B S"]:
    """Sums of each row's values by segment 1 ... `most`; exact float32 on every backend."""
    member = segments[..., None] == jnp.arange(1, most + 1)[None, None]
    return jnp.where(member, values[..., None], 0.0).sum(axis=1)


def _difference(sides: Float[Array, "*B 2"]) -> Losses:
    return sides[..., 0] - sides[..., 1]


def log_ratio(pairs: PairLogprobs) -> Losses:
    """Δ = log π(y_w)/π_ref(y_w) - log π(y_l)/π_ref(y_l), the implicit margin over β."""
    return _difference(pairs.policy - pairs.reference)


def mean_log_ratio(pairs: PairLogprobs) -> Losses:
    """Δ with each answer's log-ratio averaged over its tokens."""
    return _difference((pairs.policy - pairs.reference) / pairs.tokens)


def dpo(pairs: PairLogprobs, *, beta: float) -> Losses:
    """-log σ(βΔ): DPO (Rafailov et al., arXiv 2305.18290, eq. 7)."""
    return -jax.nn.log_sigmoid(beta * log_ratio(pairs))


def conservative(pairs: PairLogprobs, *, beta: float, smoothing: float) -> Losses:
    """-(1-ε) log σ(βΔ) - ε log σ(-βΔ): labels are wrong with probability ε (Mitchell, "A note on
    DPO with noisy preferences & relationship to IPO", 2023)."""
    margin = beta * log_ratio(pairs)
    right, wrong = jax.nn.log_sigmoid(margin), jax.nn.log_sigmoid(-margin)
    return -(1 - smoothing) * right - smoothing * wrong


def robust(pairs: PairLogprobs, *, beta: float, smoothing: float) -> Losses:
    """[-(1-ε) log σ(βΔ) + ε log σ(-βΔ)] / (1-2ε): an unbiased estimate of the clean loss where
    labels are flipped with probability ε < 1/2 (Chowdhury et al., arXiv 2403.00409)."""
    margin = beta * log_ratio(pairs)
    right, wrong = jax.nn.log_sigmoid(margin), jax.nn.log_sigmoid(-margin)
    return (-(1 - smoothing) * right + smoothing * wrong) / (1 - 2 * smoothing)


def hinge(pairs: PairLogprobs, *, beta: float) -> Losses:
    """max(0, 1 - βΔ): SLiC's calibration loss on DPO's margin (Zhao et al., arXiv 2305.10425)."""
    return jax.nn.relu(1 - beta * log_ratio(pairs))


def ipo_sum(pairs: PairLogprobs, *, beta: float) -> Losses:
    """(Δ - 1/(2β))², log-probabilities summed over tokens (Azar et al., arXiv 2310.12036, eq. 17,
    as written there)."""
    return (log_ratio(pairs) - 1 / (2 * beta)) ** 2


def ipo_mean(pairs: PairLogprobs, *, beta: float) -> Losses:
    """IPO with log-probabilities averaged over tokens, as its authors ran it."""
    return (mean_log_ratio(pairs) - 1 / (2 * beta)) ** 2


def dpo_mean(pairs: PairLogprobs, *, beta: float) -> Losses:
    """-log σ(β Δ̄), Δ̄ averaged over tokens: length-normalised DPO (Tulu 3, arXiv 2411.15124).
    A mean is a fraction of a sum, so β must be larger than DPO's: 5 there, not 0.1."""
    return -jax.nn.log_sigmoid(beta * mean_log_ratio(pairs))


def simpo(pairs: PairLogprobs, *, beta: float, margin: float) -> Losses:
    """-log σ(β (log π(y_w)/|y_w| - log π(y_l)/|y_l|) - γ), without a reference (Meng et al.,
    arXiv 2405.14734, eq. 6)."""
    return -jax.nn.log_sigmoid(beta * _difference(pairs.policy / pairs.tokens) - margin)


def safe_dpo(pairs: PairLogprobs, *, beta: float, margin: float) -> Losses:
    """-log σ(βΔ - δ (h_l - h_w)), h = 1 for an unsafe answer: DPO that asks for δ more where the
    rejected answer is unsafe and the chosen one safe (SafeDPO, arXiv 2505.20065). Pairs are ordered
    before, see `data.prefer=safety_first`."""
    offset = margin * _difference(pairs.unsafe)
    return -jax.nn.log_sigmoid(beta * log_ratio(pairs) + offset)
