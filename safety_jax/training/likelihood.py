"""Maximum likelihood of the answers: the loss of stage `sft`, and of every round of RAFT."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from safety_jax.base import trees
from safety_jax.base.batch import Tokens
from safety_jax.maths import logprobs, losses
from safety_jax.training import placement, steps
from safety_jax.training.loop import Metrics
from safety_jax.training.policy import Policy
from safety_jax.training.task import Learning, Measured


def count(batch: Tokens, early: losses.EarlyWeight | None = None) -> dict[str, jax.Array]:
    """Trained tokens of the batch over all microbatches and hosts, which means are divided by; and
    with `early`, the sum of their weights."""
    tokens = {"tokens": batch.mask.sum().astype(jnp.float32)}
    return tokens if early is None else tokens | {"weights": early.at(batch.mask).sum()}


def make_loss(policy: Policy, early: losses.EarlyWeight | None = None) -> steps.Loss:
    """The mean over the batch's trained tokens; each microbatch adds its part of that mean. With
    `early`, the loss is the weighted mean, and the plain one is `nll_loss`."""

    def loss(
        trainable: trees.Tree,
        frozen: trees.Tree,
        tokens: Tokens,
        totals: dict[str, jax.Array],
        key: jax.Array | None,
    ):
        scores = policy.token_logprobs(trainable, frozen, tokens, key)
        sums, total = losses.sft(scores), totals["tokens"]
        found = {"loss": sums.loss / total, "mean_token_accuracy": sums.correct / total}
        if early is None:
            return found
        # Position t predicts token t + 1.
        _, mask = logprobs.shift(tokens)
        weighted = -(early.at(mask) * scores.logprobs).sum() / totals["weights"]
        return found | {"loss": weighted, "nll_loss": found["loss"]}

    return loss


def evaluation(measured: Measured, _: Any) -> Metrics:
    """The means over all held-out tokens, and the perplexity, which weighs all tokens equally."""
    means = measured.means
    return means | {"perplexity": perplexity(means.get("nll_loss", means["loss"]))}


def perplexity(loss: float) -> float:
    """exp of a mean negative log-likelihood of tokens, limited to a float's range."""
    return math.exp(min(loss, 700.0))


def learning(
    policy: Policy, frozen: trees.Tree, mesh: Mesh, early: losses.EarlyWeight | None = None
) -> Learning:
    """The `Learning` of maximum likelihood.

    Args:
        early: the weight of the first tokens of each answer; None if all tokens count the same.
    """
    return Learning(
        loss=make_loss(policy, early),
        count=functools.partial(count, early=early),
        frozen=frozen,
        place=lambda loader, _: placement.place_tokens(mesh, loader),
        evaluation=evaluation,
    )
