"""Maximum likelihood of the answers: the loss of stage `sft`, and of every round of RAFT."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from safety_jax.base import trees
from safety_jax.base.batch import Tokens
from safety_jax.maths import losses
from safety_jax.training import placement, steps
from safety_jax.training.loop import Metrics
from safety_jax.training.policy import Policy
from safety_jax.training.task import Learning, Measured


def count(batch: Tokens) -> dict[str, jax.Array]:
    """Trained tokens of the batch over all microbatches and hosts: what the loss is divided by."""
    return {"tokens": batch.mask.sum().astype(jnp.float32)}


def make_loss(policy: Policy) -> steps.Loss:
    """The mean over the batch's trained tokens; each microbatch adds its part of that mean."""

    def loss(
        trainable: trees.Tree,
        frozen: trees.Tree,
        tokens: Tokens,
        totals: dict[str, jax.Array],
        key: jax.Array | None,
    ):
        sums = losses.sft(policy.token_logprobs(trainable, frozen, tokens, key))
        total = totals["tokens"]
        return {"loss": sums.loss / total, "mean_token_accuracy": sums.correct / total}

    return loss


def evaluation(measured: Measured, _: Any) -> Metrics:
    """The means over all held-out tokens, and the perplexity."""
    return measured.means | {"perplexity": perplexity(measured.means["loss"])}


def perplexity(loss: float) -> float:
    """exp of a mean negative log-likelihood of tokens, limited to a float's range."""
    return math.exp(min(loss, 700.0))


def learning(policy: Policy, frozen: trees.Tree, mesh: Mesh) -> Learning:
    """The `Learning` of maximum likelihood."""
    return Learning(
        loss=make_loss(policy),
        count=count,
        frozen=frozen,
        place=lambda loader, _: placement.place_tokens(mesh, loader),
        evaluation=evaluation,
    )
