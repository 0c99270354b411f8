"""Objectives: functions from numbers of tokens, answers and pairs to losses, without models or
configs.

tokens       `sft` and `constrained`, for log-probabilities from `logprobs.token_logprobs`
pairs        DPO and its relatives, for summed log-probabilities `PairLogprobs`; `weighted_door` for
             those of single tokens
answers      `kto`, for single answers that are desirable or not
scores       the objectives of judges
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from safety_jax.maths.logprobs import TokenLogprobs

Losses = Float[Array, "*B"]
# A parameter of an objective: a constant, or an argument of the compiled step.
Number = float | Float[Array, ""]


class LossSums(NamedTuple):
    """Sums over the trained tokens of one microbatch; the step divides by the batch's tokens."""

    loss: Float[Array, ""]
    correct: Float[Array, ""]


def sft(scores: TokenLogprobs) -> LossSums:
    """Negative log-likelihood of the trained tokens, summed: L = - Σ_t log p(y_t | y_<t, x)."""
    return LossSums(-scores.logprobs.sum(), scores.correct.sum().astype(jnp.float32))


def places(mask: Bool[Array, "*B T"]) -> Int[Array, "*B T"]:
    """The number of each trained token within its answer, 1, 2, ...; 0 elsewhere.

    Args:
        mask: trained tokens. Those of an answer are contiguous, and at least one token that is not
            trained separates two answers.
    """
    index = jnp.broadcast_to(jnp.arange(mask.shape[-1], dtype=jnp.int32), mask.shape)
    before = jax.lax.cummax(jnp.where(mask, -1, index), axis=mask.ndim - 1)
    return jnp.where(mask, index - before, 0)


class EarlyWeight(NamedTuple):
    """Weights of tokens in a likelihood whose first tokens of each answer count more or less.

    An answer's first tokens decide whether it refuses (Qi et al., arXiv 2406.05946), but are few
    among all that are trained.

    Attributes:
        weight: of the first `tokens` tokens of an answer; the others have 1.
    """

    weight: Number
    tokens: int

    def at(self, mask: Bool[Array, "*B T"]) -> Float[Array, "*B T"]:
        """The weight of each trained token; 0 elsewhere.

        Args:
            mask: see `places`.
        """
        place = places(mask)
        weights = jnp.where(place <= self.tokens, self.weight, 1.0)
        return jnp.where(mask, weights, 0.0)


class AnswerBetas(NamedTuple):
    """β_t of `constrained`, by the token's place in the answer: how strongly π is held to π_ref.

    Attributes:
        first: of the first token, whose probability is often low before training.
        early: of the other tokens up to number `early_tokens`.
        rest: of all later tokens.
    """

    first: float
    early: float
    early_tokens: int
    rest: float

    def at(self, mask: Bool[Array, "B T"]) -> Float[Array, "B T"]:
        """β_t of each trained token; 1 elsewhere.

        Args:
            mask: see `places`.
        """
        place = places(mask)
        early = jnp.where(place <= self.early_tokens, self.early, self.rest)
        beta = jnp.where(place == 1, self.first, early)
        return jnp.where(mask, beta, 1.0)


def constrained(
    logprobs: Float[Array, "*B"], reference: Float[Array, "*B"], beta: Float[Array, "*B"]
) -> Losses:
    """-(2/β_t) log σ(β_t log π(y_t)/π_ref(y_t)) of each token: a likelihood whose pull on a token
    fades as π raises it above π_ref (Qi et al., arXiv 2406.05946, eq. 3).

    Its gradient is 2 σ(-β_t log π/π_ref) times that of -log π(y_t). It therefore equals SFT's at
    the start, where the value is 2 ln 2 / β_t, and always in the limit β_t → 0. The authors' code
    uses the likelihood with this factor as a constant weight, which is at least 0.001.

    Args:
        logprobs: log π(y_t | y_<t, x); the gradient flows through it.
        reference: of the model before training.
    """
    return -2 / beta * jax.nn.log_sigmoid(beta * (logprobs - reference))


# ---------------------------------------------------------------------------- preferences


class PairLogprobs(NamedTuple):
    """The arguments of preference objectives; the last axis is (chosen, rejected), N = 2.

    Attributes:
        policy: log π(y|x), summed over the tokens of each answer; the gradient flows through it.
        reference: log π_ref(y|x), summed in the same way.
        tokens: the number of tokens of each answer, at least 1.
        unsafe: 1 if an answer is unsafe, 0 if it is safe or not known.
    """

    policy: Float[Array, "*B 2"]
    reference: Float[Array, "*B 2"]
    tokens: Float[Array, "*B 2"]
    unsafe: Float[Array, "*B 2"]


def _difference(sides: Float[Array, "*B 2"]) -> Losses:
    return sides[..., 0] - sides[..., 1]


def log_ratio(pairs: PairLogprobs) -> Losses:
    """Δ = log π(y_w)/π_ref(y_w) - log π(y_l)/π_ref(y_l), the implicit margin over β."""
    return _difference(pairs.policy - pairs.reference)


def mean_log_ratio(pairs: PairLogprobs) -> Losses:
    """Δ with each answer's log-ratio averaged over its tokens."""
    return _difference((pairs.policy - pairs.reference) / pairs.tokens)


def dpo(pairs: PairLogprobs, *, beta: Number) -> Losses:
    """-log σ(βΔ): DPO (Rafailov et al., arXiv 2305.18290, eq. 7)."""
    return -jax.nn.log_sigmoid(beta * log_ratio(pairs))


def conservative(pairs: PairLogprobs, *, beta: Number, smoothing: Number) -> Losses:
    """-(1-ε) log σ(βΔ) - ε log σ(-βΔ): labels are wrong with probability ε (Mitchell, "A note on
    DPO with noisy preferences & relationship to IPO", 2023)."""
    margin = beta * log_ratio(pairs)
    right, wrong = jax.nn.log_sigmoid(margin), jax.nn.log_sigmoid(-margin)
    return -(1 - smoothing) * right - smoothing * wrong


def robust(pairs: PairLogprobs, *, beta: Number, smoothing: Number) -> Losses:
    """[-(1-ε) log σ(βΔ) + ε log σ(-βΔ)] / (1-2ε): an unbiased estimate of the clean loss if labels
    are flipped with probability ε < 1/2 (Chowdhury et al., arXiv 2403.00409)."""
    margin = beta * log_ratio(pairs)
    right, wrong = jax.nn.log_sigmoid(margin), jax.nn.log_sigmoid(-margin)
    return (-(1 - smoothing) * right + smoothing * wrong) / (1 - 2 * smoothing)


def hinge(pairs: PairLogprobs, *, beta: Number) -> Losses:
    """max(0, 1 - βΔ): SLiC's calibration loss on DPO's margin (Zhao et al., arXiv 2305.10425)."""
    return jax.nn.relu(1 - beta * log_ratio(pairs))


def ipo_sum(pairs: PairLogprobs, *, beta: Number) -> Losses:
    """(Δ - 1/(2β))², log-probabilities summed over tokens (Azar et al., arXiv 2310.12036, eq. 17,
    as written there)."""
    return (log_ratio(pairs) - 1 / (2 * beta)) ** 2


def ipo_mean(pairs: PairLogprobs, *, beta: Number) -> Losses:
    """IPO with log-probabilities averaged over tokens, as in its authors' experiments."""
    return (mean_log_ratio(pairs) - 1 / (2 * beta)) ** 2


def dpo_mean(pairs: PairLogprobs, *, beta: Number) -> Losses:
    """-log σ(β Δ̄), Δ̄ averaged over tokens: length-normalised DPO (Tulu 3, arXiv 2411.15124).
    A mean is smaller than a sum, so β must be larger than in DPO: Tulu 3 uses 5, not 0.1."""
    return -jax.nn.log_sigmoid(beta * mean_log_ratio(pairs))


def simpo(pairs: PairLogprobs, *, beta: Number, margin: Number) -> Losses:
    """-log σ(β (log π(y_w)/|y_w| - log π(y_l)/|y_l|) - γ), without a reference (Meng et al.,
    arXiv 2405.14734, eq. 6)."""
    return -jax.nn.log_sigmoid(beta * _difference(pairs.policy / pairs.tokens) - margin)


def safe_dpo(pairs: PairLogprobs, *, beta: Number, margin: Number) -> Losses:
    """-log σ(βΔ - δ (h_l - h_w)), h = 1 for an unsafe answer: DPO with a margin that is larger by δ
    if the rejected answer is unsafe and the chosen one safe (SafeDPO, arXiv 2505.20065). Pairs must
    be ordered first, see `data.prefer=safety_first`."""
    offset = margin * _difference(pairs.unsafe)
    return -jax.nn.log_sigmoid(beta * log_ratio(pairs) + offset)


def door(pairs: PairLogprobs, *, beta: Number) -> Losses:
    """-log π(y_w) - (2/β) log σ(-β log π(y_l)/π_ref(y_l)): likelihood of the refusal, and negative
    preference optimisation of the harmful answer (DOOR, Zhao et al., arXiv 2503.03710; the second
    term is NPO, Zhang et al., arXiv 2404.05868).

    Both terms are sums over tokens, as in the authors' code (`gd_npo_loss`, without its share of
    likelihood on ordinary rows). At the start the second term is 2 ln 2 / β and has the gradient of
    log π(y_l) itself. This gradient fades as the harmful answer becomes unlikely; unlike in DPO,
    that of the refusal does not. The authors' refusals follow the beginning of a harmful answer,
    see `data.recovery_share`.
    """
    harmful = pairs.policy[..., 1] - pairs.reference[..., 1]
    return -pairs.policy[..., 0] - 2 / beta * jax.nn.log_sigmoid(-beta * harmful)


def token_weights(
    proxy: Float[np.ndarray, "*B"], reference: Float[np.ndarray, "*B"], *, temperature: float
) -> Float[np.ndarray, "*B"]:
    """exp(r_t / τ) of each token, r_t = log π*(y_t)/π_ref(y_t): W-DOOR's β_t (Zhao et al., arXiv
    2503.03710). Tokens that preference learning made more likely have a larger weight.

    Args:
        proxy: log π*(y_t | y_<t, x), of a model trained by DPO from the reference.
        temperature: τ; weights are more equal if it is larger. Below 0, tokens that became more
            likely have a smaller weight, as in the authors' code (`exp_weights`).
    """
    return np.exp((proxy - reference) / temperature)


def weighted_door(
    policy: Float[Array, "*B"],
    reference: Float[Array, "*B"],
    weights: Float[Array, "*B"],
    *,
    beta: Number,
) -> tuple[Losses, Losses]:
    """The two losses of W-DOOR (Zhao et al., arXiv 2503.03710) for each token: -β_t log π(y_t) if
    it belongs to the refusal, and -(2/β) log σ(-β log π/π_ref(y_t)) if it belongs to the harmful
    answer. Sum each over the tokens of its answer.

    The second loss is NPO by token: its gradient fades for each token that becomes unlikely, but in
    `door` only for the answer as a whole. The authors' code has another loss there, without a
    reference, with a margin, and divided by the length of prompt and answer.

    Args:
        policy: log π(y_t | y_<t, x); the gradient flows through it.
        weights: β_t, see `token_weights`; the second loss does not use them.
    """
    return -weights * policy, constrained(-policy, -reference, jnp.full_like(policy, beta))


def log_odds_ratio(pairs: PairLogprobs) -> Losses:
    """log [odds(y_w) / odds(y_l)], odds(y) = p / (1 - p), p the geometric mean of an answer's token
    probabilities (ORPO, Hong et al., arXiv 2403.07691, eqs. 4 and 7)."""
    means = pairs.policy / pairs.tokens
    return _difference(means) - _difference(log1mexp(means))


def orpo(pairs: PairLogprobs, *, weight: float) -> Losses:
    """-λ log σ(log odds ratio): the term that ORPO adds to the likelihood of chosen answers
    (eq. 6). It needs no reference."""
    return -weight * jax.nn.log_sigmoid(log_odds_ratio(pairs))


def log1mexp(x: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """log(1 - eˣ) for x < 0, exact at both ends (Mächler, "Accurately computing
    log(1 - exp(-|a|))", 2012)."""
    # Each branch gets a harmless number where the other one is used, so that no gradient is NaN.
    near = x > -jnp.log(2.0)
    of_near = jnp.log(-jnp.expm1(jnp.where(near, x, -1.0)))
    return jnp.where(near, of_near, jnp.log1p(-jnp.exp(jnp.where(near, -1.0, x))))


# ---------------------------------------------------------------------------- single answers


def kto(
    log_ratios: Float[Array, "*B"],
    desirable: Float[Array, "*B"],
    kl: Float[Array, ""],
    *,
    beta: float,
    desirable_weight: float,
    undesirable_weight: float,
) -> Losses:
    """λ_D (1 - σ(β (r - z))) for a desirable answer, λ_U (1 - σ(β (z - r))) for an undesirable one
    (KTO, Ethayarajh et al., arXiv 2402.01306, eqs. 7 and 8).

    Args:
        log_ratios: r = log π(y|x) / π_ref(y|x), summed over the answer's tokens.
        desirable: 1 or 0.
        kl: z, the reference point: an estimate of KL(π ‖ π_ref), at least 0; no gradient flows.
    """
    z = jax.lax.stop_gradient(kl)
    gain = jax.nn.sigmoid(beta * (log_ratios - z))
    loss = jax.nn.sigmoid(beta * (z - log_ratios))
    return jnp.where(
        desirable > 0.5, desirable_weight * (1 - gain), undesirable_weight * (1 - loss)
    )


# ---------------------------------------------------------------------------- judges
# Scores and targets `[..., N]` give losses `[...]`. The last axis is the answers of an example:
# (chosen, rejected) of a pair, N = 2, or one rated answer, N = 1.

Scores = Float[Array, "*B N"]


def bradley_terry(scores: Scores, targets: Scores, *, margin: float, centring: float) -> Losses:
    """-log σ(r_c - r_r - m) + c (r_c + r_r)².

    The first term is the likelihood of the preference under Bradley and Terry's model, as in
    InstructGPT (Ouyang et al., arXiv 2203.02155, eq. 1), with a margin as in LLaMA 2 (arXiv
    2307.09288, eq. 2). It does not determine the level of the rewards, which the second term pulls
    to zero (Eisenstein et al., arXiv 2312.09244, section 3; TRL's `center_rewards_coefficient`).
    `targets` are not used: the order of the pair is the target.
    """
    chosen, rejected = scores[..., 0], scores[..., 1]
    loss = -jax.nn.log_sigmoid(chosen - rejected - margin)
    return loss + centring * (chosen + rejected) ** 2


def cost(scores: Scores, targets: Scores, *, regularization: float) -> Losses:
    """-log σ(c_r - c_c) - log σ(s_c c_c) - log σ(s_r c_r) + λ (c_c² + c_r²) / 2, s = ±1.

    Safe RLHF's cost model (Dai et al., arXiv 2310.12773, eq. 6): the less safe answer costs more,
    and the sign of a cost says whether its answer is unsafe (s = 1) or safe (s = -1). The chosen
    answer of a pair is the safer one. The last term is the regulariser of its implementation.

    Args:
        targets: 1 if an answer is unsafe, 0 if it is safe.
    """
    signs = 2 * targets - 1
    order = -jax.nn.log_sigmoid(scores[..., 1] - scores[..., 0])
    sides = -jax.nn.log_sigmoid(signs * scores).sum(axis=-1)
    return order + sides + regularization * (scores**2).mean(axis=-1)


def regression(scores: Scores, targets: Scores) -> Losses:
    """(s - y)²: the mean squared error of a rating (as for the harmfulness model of arXiv
    2309.07875, with ratings from 0 to 4)."""
    return ((scores - targets) ** 2).mean(axis=-1)


def classification(scores: Scores, targets: Scores) -> Losses:
    """-log σ((2y - 1) s): binary cross-entropy; the score is the log-odds of y = 1, unsafe."""
    return -jax.nn.log_sigmoid((2 * targets - 1) * scores).mean(axis=-1)
