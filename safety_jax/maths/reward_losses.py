"""What judges are trained by: scores in, a loss for each example out; no model, no data.

Every objective takes scores and targets `[..., N]` and gives losses `[...]`. The last axis is the
answers of an example: (chosen, rejected) of a pair, N = 2, or one rated answer, N = 1.
"""

import jax
from jaxtyping import Array, Float

Scores = Float[Array, "*B N"]
RewardLosses = Float[Array, "*B"]


def bradley_terry(
    scores: Scores, targets: Scores, *, margin: float, centring: float
) -> RewardLosses:
    """-log σ(r_c - r_r - m) + c (r_c + r_r)².

    The first term is the likelihood of the preference under Bradley and Terry's model, as in
    InstructGPT (Ouyang et al., arXiv 2203.02155, eq. 1), asked for with a margin as in LLaMA 2
    (arXiv 2307.09288, eq. 2). It leaves the level of the rewards open, which the second term draws
    to zero (Eisenstein et al., arXiv 2312.09244, section 3; TRL's `center_rewards_coefficient`).
    `targets` are not looked at: the order of the pair is the target.
    """
    chosen, rejected = scores[..., 0], scores[..., 1]
    loss = -jax.nn.log_sigmoid(chosen - rejected - margin)
    return loss + centring * (chosen + rejected) ** 2


def cost(scores: Scores, targets: Scores, *, regularization: float) -> RewardLosses:
    """-log σ(c_r - c_c) - log σ(s_c c_c) - log σ(s_r c_r) + λ (c_c² + c_r²) / 2, s = ±1.

    Safe RLHF's cost model (Dai et al., arXiv 2310.12773, eq. 6): the less safe answer costs more,
    and the sign of a cost says whether its answer is unsafe (s = 1) or safe (s = -1). The chosen
    answer of a pair is the safer one. The last term is the regulariser of its implementation.

    Args:
        targets: 1 where an answer is unsafe, 0 where it is safe.
    """
    signs = 2 * targets - 1
    order = -jax.nn.log_sigmoid(scores[..., 1] - scores[..., 0])
    sides = -jax.nn.log_sigmoid(signs * scores).sum(axis=-1)
    return order + sides + regularization * (scores**2).mean(axis=-1)


def regression(scores: Scores, targets: Scores) -> RewardLosses:
    """(s - y)²: the mean squared error of a rating (as the harmfulness model of arXiv 2309.07875,
    ratings 0 to 4)."""
    return ((scores - targets) ** 2).mean(axis=-1)


def classification(scores: Scores, targets: Scores) -> RewardLosses:
    """-log σ((2y - 1) s): binary cross-entropy, the score being the log-odds of y = 1, unsafe."""
    return -jax.nn.log_sigmoid((2 * targets - 1) * scores).mean(axis=-1)
