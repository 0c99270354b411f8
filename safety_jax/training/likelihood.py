"""Learning answers as they stand: the loss of stage `sft`, and of every round of RAFT."""

import jax

from safety_jax.base import trees
from safety_jax.base.batch import Tokens
from safety_jax.maths import losses
from safety_jax.training import policy
from safety_jax.training import step as steps


def make_loss(trained: policy.Policy) -> steps.Loss:
    """The mean over the batch's trained tokens, of which a microbatch gives its part."""

    def loss(
        trainable: trees.Tree,
        frozen: trees.Tree,
        tokens: Tokens,
        total: jax.Array,
        key: jax.Array | None,
    ):
        sums = losses.sft(trained.token_logprobs(trainable, frozen, tokens, key))
        return {"loss": sums.loss / total, "mean_token_accuracy": sums.correct / total}

    return loss
