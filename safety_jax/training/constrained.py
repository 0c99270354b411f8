"""Constrained SFT: learns answers but holds each token's probability to that of the initial model.

Stage `sft` does this under `sft.objective=constrained`; `losses.constrained` has the equation.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from safety_jax.base import trees
from safety_jax.base.batch import Answers, Tokens
from safety_jax.data.examples import Examples
from safety_jax.maths import logprobs, losses
from safety_jax.training import likelihood, placement, preference, steps
from safety_jax.training.loop import Metrics
from safety_jax.training.placement import TokenValues
from safety_jax.training.policy import Policy
from safety_jax.training.preference import Frozen
from safety_jax.training.task import Learning, Measured


def learning(
    policy: Policy,
    betas: losses.AnswerBetas,
    frozen: Frozen,
    mesh: Mesh,
    *,
    live: bool,
    reference: Callable[[Examples], TokenValues | None],
) -> Learning:
    """What the training skeleton needs.

    Args:
        live: the step computes the reference instead of reading it from the batch.
        reference: given examples, returns the log-probability of every token under the reference;
            None if the step computes it.
    """
    return Learning(
        loss=make_loss(policy, betas, live=live),
        count=lambda batch: likelihood.count(batch.tokens),
        frozen=frozen,
        place=lambda loader, data: placement.place_answers(mesh, loader, data, reference(data)),
        evaluation=evaluation,
    )


def make_loss(policy: Policy, betas: losses.AnswerBetas, *, live: bool) -> steps.Loss:
    """The mean over the batch's trained tokens; each microbatch adds its part of that mean."""

    def loss(
        trainable: trees.Tree,
        frozen: Frozen,
        batch: Answers,
        totals: dict[str, jax.Array],
        key: jax.Array | None,
    ):
        tokens: Tokens = jax.tree.map(placement.side_rows, batch.tokens)
        scores = policy.token_logprobs(trainable, frozen.base, tokens, key)
        # Position t predicts token t + 1.
        _, mask = logprobs.shift(tokens)
        reference = preference.reference_logprobs(policy, frozen, batch, tokens, live=live)
        assert reference is not None, "a reference that is not live is cached"
        each = losses.constrained(scores.logprobs, reference, betas.at(mask))
        sums, total = losses.sft(scores), totals["tokens"]
        return {
            "loss": jnp.where(mask, each, 0.0).sum() / total,
            "nll_loss": sums.loss / total,
            "mean_token_accuracy": sums.correct / total,
        }

    return loss


def evaluation(measured: Measured, _: Examples) -> Metrics:
    """The means over all held-out tokens, and the perplexity, exp of the mean `nll_loss`."""
    means = measured.means
    return means | {"perplexity": likelihood.perplexity(means["nll_loss"])}
