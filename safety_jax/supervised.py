"""Learning answers as they stand: the loss of stage `sft`, and of every round of RAFT."""

import jax

from safety_jax import objectives, policy, trees
from safety_jax import step as steps
from safety_jax.batch import Tokens


def make_loss(trained: policy.Policy) -> steps.Loss:
    """The mean over the batch's trained tokens, of which a microbatch gives its part."""

    def loss(
        trainable: trees.Tree,
        frozen: trees.Tree,
        tokens: Tokens,
        total: jax.Array,
        key: jax.Array | None,
    ):
        sums = objectives.sft(trained.token_logprobs(trainable, frozen, tokens, key))
        return {"loss": sums.loss / total, "mean_token_accuracy": sums.correct / total}

    return loss
