"""Learning from pairs: the loss around an objective, what is watched, and the collapse alarm.

The loss returns a table with one row a pair, so that every metric, by source and by kind of harm,
is plain arithmetic on the host.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from safety_jax.base import trees
from safety_jax.base.batch import Answers, Tokens
from safety_jax.data.loader import Loader
from safety_jax.data.pairs import Pairs
from safety_jax.maths import logprobs, losses, statistics
from safety_jax.training import placement, steps
from safety_jax.training.loop import Metrics
from safety_jax.training.placement import PutBatch, TokenValues
from safety_jax.training.policy import Policy
from safety_jax.training.task import Indices, Learning, Measured

# Columns of the table of pairs; (chosen, rejected) where there are two.
POLICY, REFERENCE, KL = slice(0, 2), slice(2, 4), slice(4, 6)
LOSS, CORRECT, COLUMNS = 6, 7, 8


@dataclasses.dataclass(frozen=True)
class PairObjective:
    """A loss of pairs, and the rewards that it implies.

    Attributes:
        loss: of `losses.PairLogprobs`; None where `by_token` is given.
        beta: rewards are β log π/π_ref, as TRL's.
        averages: log-probabilities are averaged over an answer's tokens, in the rewards and in the
            metrics `logps/...`, as TRL has it for SimPO and ORPO.
        reference: rewards compare with a reference.
        nll_weight: a share of the negative log-likelihood of a token of the chosen answers is added
            (as in Llama 3, arXiv 2407.21783, section 4.1.4, and iterative RPO, arXiv 2404.19733).
        more: further metrics, of mean log-probabilities of the chosen and the rejected answer.
        by_token: of log-probabilities by token, of those under the reference, and of the tokens'
            weights: losses by token where it is the chosen, and where it is the rejected answer's.
            A pair's loss is their sum.
    """

    loss: Callable[[losses.PairLogprobs], jax.Array] | None
    beta: losses.Number
    averages: bool = False
    reference: bool = True
    nll_weight: losses.Number = 0.0
    more: Callable[[Float[np.ndarray, "n 2"]], Metrics] | None = None
    by_token: Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]] | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Frozen:
    """What stands still beside the trainable weights.

    Attributes:
        base: the policy's own frozen tree.
        start: the trainable tree at step 0, where the reference is computed in the step and is not
            the base alone; None otherwise.
    """

    base: trees.Tree
    start: trees.Tree | None


def learning(
    policy: Policy,
    objective: PairObjective,
    frozen: Frozen,
    mesh: Mesh,
    *,
    live: bool,
    batch_size: int,
    reference: Callable[[Pairs], TokenValues | None],
    say: Callable[[str], None],
    weigh: Callable[[Pairs, TokenValues], TokenValues] | None = None,
) -> Learning:
    """What the training skeleton needs to learn from pairs.

    Args:
        live, batch_size: see `make_loss`.
        reference: of pairs, the log-probability of every token under the reference, where it is
            known before the step.
        say: shows a warning to the user.
        weigh: how much every token counts, of pairs and of what the reference says of them; None
            where all count alike.
    """

    def place(loader: Loader, pairs: Pairs) -> PutBatch:
        known = reference(pairs)
        weights = None if weigh is None or known is None else weigh(pairs, known)
        return placement.place_answers(mesh, loader, pairs, known, weights)

    return Learning(
        loss=make_loss(policy, objective, live=live, batch_size=batch_size),
        count=count,
        frozen=frozen,
        place=place,
        summarize=lambda found, pairs: summarize(found, pairs, objective),
        evaluation=lambda found, pairs: evaluation(found, pairs, objective),
        alarm=Collapse(say),
    )


# ---------------------------------------------------------------------------- loss


def count(batch: Answers) -> dict[str, jax.Array]:
    """Pairs of the batch, and tokens of their chosen answers."""
    return {
        "pairs": (batch.slots >= 0).sum().astype(jnp.float32),
        "chosen_tokens": placement.trained_tokens(batch, 0).astype(jnp.float32),
    }


def reference_logprobs(
    policy: Policy, frozen: Frozen, batch: Answers, tokens: Tokens, *, live: bool
) -> jax.Array | None:
    """log-probabilities under the reference, where position t answers for token t + 1; None where
    there is no reference.

    Args:
        tokens: the batch's, as rows.
        live: they are computed here, not read from the batch.
    """
    if live:
        return policy.reference_logprobs(frozen.start, frozen.base, tokens)
    return None if batch.reference is None else _at_predictions(batch.reference)


def _at_predictions(values: jax.Array) -> jax.Array:
    """Values of tokens [b, M, T] as rows [bM, T] in which position t has that of token t + 1."""
    return jnp.pad(placement.side_rows(values)[:, 1:], [(0, 0), (0, 1)])


def make_loss(
    policy: Policy, objective: PairObjective, *, live: bool, batch_size: int
) -> steps.Loss:
    """The mean of an objective over the batch's pairs, and its share of the likelihood.

    The gradient sees log-probabilities alone, so every objective costs the same.

    Args:
        live: the reference is computed here, not read from the batch.
        batch_size: rows of the table of pairs.
    """

    def loss(
        trainable: trees.Tree,
        frozen: Frozen,
        batch: Answers,
        totals: dict[str, jax.Array],
        key: jax.Array | None,
    ):
        tokens: Tokens = jax.tree.map(placement.side_rows, batch.tokens)
        scores = policy.token_logprobs(trainable, frozen.base, tokens, key)
        # Position t answers for token t + 1, which lies in the same segment where it is trained.
        _, mask = logprobs.shift(tokens)
        reference = reference_logprobs(policy, frozen, batch, tokens, live=live)
        if reference is None:
            reference = jnp.zeros_like(scores.logprobs)

        by_pair = functools.partial(placement.sums_by_example, batch=batch)
        chances = by_pair(scores.logprobs)
        known = by_pair(jnp.where(mask, reference, 0.0))
        # Empty segments count one token, so that no objective divides by zero.
        lengths = jnp.maximum(by_pair(mask), 1.0)
        # Empty segments get a number below 0, for log-odds of certainty are infinite.
        real = batch.slots >= 0
        chances_of_real = jnp.where(real[..., None], chances, -1.0)
        if objective.by_token is not None:
            assert batch.weights is not None, "whoever looks at single tokens weighs them"
            weights = _at_predictions(batch.weights)
            sides = objective.by_token(scores.logprobs, reference, weights)
            sums = [by_pair(jnp.where(mask, x, 0.0))[..., n] for n, x in enumerate(sides)]
            pair_losses = sums[0] + sums[1]
        else:
            assert objective.loss is not None
            pair_losses = objective.loss(
                losses.PairLogprobs(chances_of_real, known, lengths, batch.targets)
            )
        loss = jnp.where(real, pair_losses, 0.0).sum() / totals["pairs"]
        loss -= objective.nll_weight * chances[..., 0].sum() / totals["chosen_tokens"]

        change = scores.logprobs - jnp.where(mask, reference, 0.0)
        columns = [chances, known, by_pair(change**2 / 2), pair_losses[..., None]]
        columns.append(by_pair(scores.correct)[..., :1])
        rows = jnp.concatenate(columns, axis=-1)
        return {"loss": loss, "examples": placement.table_of(rows, batch.slots, batch_size)}

    return loss


# ---------------------------------------------------------------------------- what is watched


def summarize(found: Measured, pairs: Pairs, objective: PairObjective) -> Metrics:
    """TRL's metrics over some pairs, and what safety work asks for beside them.

    `kl` is Σ ½ (log π/π_ref)² over answer tokens, divided by their number: on answers drawn from
    either model it agrees with the KL divergence a token to second order (Schulman, "Approximating
    KL divergence", 2020); on others' answers it is still zero only where the models agree.
    """
    table, examples = found.table, found.examples
    lengths = answer_lengths(pairs)[examples]
    chances = table[:, POLICY] / lengths if objective.averages else table[:, POLICY]
    rewards = table[:, POLICY] - table[:, REFERENCE] if objective.reference else table[:, POLICY]
    rewards = objective.beta * (rewards / lengths if objective.averages else rewards)
    margins = rewards[:, 0] - rewards[:, 1]
    metrics = {
        "rewards/chosen": float(rewards[:, 0].mean()),
        "rewards/rejected": float(rewards[:, 1].mean()),
        "rewards/margins": float(margins.mean()),
        "rewards/accuracies": float((margins > 0).mean()),
        "logps/chosen": float(chances[:, 0].mean()),
        "logps/rejected": float(chances[:, 1].mean()),
        "mean_token_accuracy": float(table[:, CORRECT].sum() / lengths[:, 0].sum()),
        "lengths/chosen": float(lengths[:, 0].mean()),
        "lengths/rejected": float(lengths[:, 1].mean()),
    }
    if objective.reference:
        metrics["logps/chosen_change"] = float((table[:, 0] - table[:, 2]).mean())
        metrics["kl"] = float(table[:, KL].sum() / lengths.sum())
    if objective.nll_weight:
        metrics["nll_loss"] = float(-table[:, 0].sum() / lengths[:, 0].sum())
    if objective.more is not None:
        metrics |= objective.more(table[:, POLICY] / lengths)
    difference = (lengths[:, 0] - lengths[:, 1]).astype(float)
    if np.ptp(difference) > 0 and np.ptp(margins) > 0:
        correlation = np.corrcoef(difference, margins)[0, 1]
        metrics["lengths/margin_correlation"] = float(correlation)
    for name, members in groups(examples, pairs).items():
        metrics[f"rewards/margins/{name}"] = float(margins[members].mean())
        metrics[f"rewards/accuracies/{name}"] = float((margins[members] > 0).mean())
    return metrics


def evaluation(found: Measured, pairs: Pairs, objective: PairObjective) -> Metrics:
    """`summarize` over held-out pairs, and the 95% Wilson interval of the accuracy."""
    metrics = {"loss": float(found.table[:, LOSS].mean())} | summarize(found, pairs, objective)
    if objective.nll_weight:
        metrics["loss"] += float(objective.nll_weight) * metrics["nll_loss"]
    right = round(metrics["rewards/accuracies"] * len(found.examples))
    low, high = statistics.wilson(right, len(found.examples))
    return metrics | {"rewards/accuracies_low": low, "rewards/accuracies_high": high}


def answer_lengths(pairs: Pairs) -> Int[np.ndarray, "n 2"]:
    return np.stack([pairs.chosen.trained_lengths, pairs.rejected.trained_lengths], axis=1)


def groups(examples: Indices, pairs: Pairs) -> dict[str, list[int]]:
    """Members of each source, where there are several, and of each kind of harm, where rows say."""
    found: dict[str, list[int]] = {}
    several = len(set(pairs.chosen.source)) > 1
    for k, i in enumerate(examples):
        if several:
            found.setdefault(f"source={pairs.chosen.source[i]}", []).append(k)
        for category in pairs.categories[i]:
            found.setdefault(f"category={category}", []).append(k)
    return dict(sorted(found.items()))


class Collapse:
    """Notices that margins grow because both answers become unlikely, the chosen one too.

    DPO fixes only the difference of rewards (Pal et al., arXiv 2402.13228; Razin et al., arXiv
    2410.08847): the model may learn to say neither answer, and what it says instead nobody chose.
    """

    READINGS = 3  # in a row: two moves in one direction are no trend

    def __init__(self, say: Callable[[str], None]):
        self._say = say
        self._rewards: list[tuple[float, float]] = []
        self.raised = False

    def __call__(self, step: int, metrics: Metrics) -> Metrics:
        """`alarms/chosen_collapse` while the alarm holds, otherwise nothing."""
        chosen = metrics["rewards/chosen"]
        self._rewards.append((chosen, metrics["rewards/margins"]))
        last = np.array(self._rewards[-self.READINGS - 1 :])
        moves = np.diff(last, axis=0)
        holds = len(moves) == self.READINGS and chosen < 0
        if not (holds and (moves[:, 0] < 0).all() and (moves[:, 1] > 0).all()):
            return {}
        if not self.raised:
            self.raised = True
            self._say(
                f"warning: at step {step} the reward of chosen answers has fallen {self.READINGS} "
                f"times in a row, to {chosen:.3g}, while margins rise: the policy is losing the "
                "answers it should learn; consider dpo.nll_weight=0.2, a larger dpo.beta or a "
                "lower optim.learning_rate"
            )
        return {"alarms/chosen_collapse": 1.0}
