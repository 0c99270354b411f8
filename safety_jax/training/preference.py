"""Learns from pairs: wraps an objective as the loss, computes metrics, and warns of collapse.

The loss returns a table with one row for each pair, so every metric, by source and by kind of harm,
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
from safety_jax.maths import clusters, logprobs, losses
from safety_jax.training import placement, steps
from safety_jax.training.loop import Metrics
from safety_jax.training.placement import PutBatch, TokenValues
from safety_jax.training.policy import Policy
from safety_jax.training.task import Indices, Learning, Measured

# Columns of the table of pairs; two columns are (chosen, rejected).
POLICY, REFERENCE, KL = slice(0, 2), slice(2, 4), slice(4, 6)
LOSS, CORRECT, COLUMNS = 6, 7, 8


@dataclasses.dataclass(frozen=True)
class PairObjective:
    """A loss of pairs, and the rewards that it implies.

    Attributes:
        loss: computes the losses of `losses.PairLogprobs`; None if `by_token` is given.
        beta: rewards are β log π/π_ref, as in TRL.
        averages: rewards and the metrics `logps/...` average log-probabilities over an answer's
            tokens, as TRL does for SimPO and ORPO.
        reference: rewards are relative to a reference.
        nll_weight: the weight of an added loss, the mean negative log-likelihood of the chosen
            answers' tokens (as in Llama 3, arXiv 2407.21783, section 4.1.4, and in iterative RPO,
            arXiv 2404.19733).
        more: computes further metrics from the mean log-probabilities of the chosen and the
            rejected answers.
        by_token: given the tokens' log-probabilities, those under the reference, and the tokens'
            weights, returns each token's loss as part of a chosen answer, and as part of a rejected
            one. A pair's loss is the sum over its tokens.
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
    """The weights that are not trained.

    Attributes:
        base: the policy's own frozen tree.
        start: the trainable tree at step 0, if the step computes the reference from it; None if it
            does not, or if the reference is the base alone.
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
    """The `Learning` from pairs.

    Args:
        live, batch_size: see `make_loss`.
        reference: given pairs, returns the log-probability of every token under the reference;
            None if the step computes it.
        say: shows a warning to the user.
        weigh: given pairs and their log-probabilities under the reference, returns the weight of
            every token; None if all count alike.
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
    """The number of pairs in the batch, and of tokens in their chosen answers."""
    return {
        "pairs": (batch.slots >= 0).sum().astype(jnp.float32),
        "chosen_tokens": placement.trained_tokens(batch, 0).astype(jnp.float32),
    }


def reference_logprobs(
    policy: Policy, frozen: Frozen, batch: Answers, tokens: Tokens, *, live: bool
) -> jax.Array | None:
    """Log-probabilities under the reference, at the positions that predict the tokens; None if
    there is no reference.

    Args:
        tokens: the batch's tokens as rows.
        live: computes them here instead of reading them from the batch.
    """
    if live:
        return policy.reference_logprobs(frozen.start, frozen.base, tokens)
    if batch.reference is None:
        return None
    return logprobs.at_predictions(placement.side_rows(batch.reference))


def make_loss(
    policy: Policy, objective: PairObjective, *, live: bool, batch_size: int
) -> steps.Loss:
    """The mean of an objective over the batch's pairs, plus its weighted likelihood loss.

    The gradient flows through log-probabilities alone, so every objective costs the same.

    Args:
        live: computes the reference in the step instead of reading it from the batch.
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
        # Position t predicts token t + 1. A trained token lies in the same segment as the one
        # before it.
        _, mask = logprobs.shift(tokens)
        reference = reference_logprobs(policy, frozen, batch, tokens, live=live)
        if reference is None:
            reference = jnp.zeros_like(scores.logprobs)

        by_pair = functools.partial(placement.sums_by_example, batch=batch)
        chances = by_pair(scores.logprobs)
        known = by_pair(jnp.where(mask, reference, 0.0))
        # Empty segments count one token, so that no objective divides by zero.
        lengths = jnp.maximum(by_pair(mask), 1.0)
        # Empty segments get a number below 0, because the log-odds of certainty are infinite.
        real = batch.slots >= 0
        chances_of_real = jnp.where(real[..., None], chances, -1.0)
        if objective.by_token is not None:
            assert batch.weights is not None, "objectives by token need weights"
            weights = logprobs.at_predictions(placement.side_rows(batch.weights))
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
    """TRL's metrics over some pairs, and further ones for safety work.

    `kl` is Σ ½ (log π/π_ref)² over answer tokens, divided by their number. On answers drawn from
    either model, it equals the KL divergence per token to second order (Schulman, "Approximating KL
    divergence", 2020); on other answers, it is still zero only if the models agree.
    """
    table, examples = found.table, found.examples
    lengths = answer_lengths(pairs)[examples]
    chances = table[:, POLICY] / lengths if objective.averages else table[:, POLICY]
    rewards = _rewards(found, pairs, objective)
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
    """`summarize` over held-out pairs, and the 95% interval of the accuracy, in which the pairs of
    a prompt are one cluster."""
    metrics = {"loss": float(found.table[:, LOSS].mean())} | summarize(found, pairs, objective)
    if objective.nll_weight:
        metrics["loss"] += float(objective.nll_weight) * metrics["nll_loss"]
    chosen, rejected = _rewards(found, pairs, objective).T
    low, high = clusters.share(chosen > rejected, _prompts(pairs, found.examples))
    return metrics | {"rewards/accuracies_low": low, "rewards/accuracies_high": high}


def _rewards(found: Measured, pairs: Pairs, objective: PairObjective) -> Float[np.ndarray, "n 2"]:
    """The implicit reward of each answer."""
    own, reference = found.table[:, POLICY], found.table[:, REFERENCE]
    rewards = own - reference if objective.reference else own
    if objective.averages:
        rewards = rewards / answer_lengths(pairs)[found.examples]
    return np.asarray(objective.beta * rewards)


def _prompts(pairs: Pairs, examples: Indices) -> Int[np.ndarray, " n"]:
    """The number of each pair's prompt, which is what precedes the chosen answer; if all have one
    prompt, such as none, each has its own number."""
    asked = []
    for ids, mask in map(pairs.chosen.example, examples):
        asked.append(ids[: mask.argmax()].tobytes())
    numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(asked))}
    if len(numbers) == 1:
        return np.arange(len(asked))
    return np.array([numbers[prompt] for prompt in asked], int)


def answer_lengths(pairs: Pairs) -> Int[np.ndarray, "n 2"]:
    return np.stack([pairs.chosen.trained_lengths, pairs.rejected.trained_lengths], axis=1)


def groups(examples: Indices, pairs: Pairs) -> dict[str, list[int]]:
    """The members of each source, if there are several, and of each kind of harm."""
    found: dict[str, list[int]] = {}
    several = len(set(pairs.chosen.source)) > 1
    for k, i in enumerate(examples):
        if several:
            found.setdefault(f"source={pairs.chosen.source[i]}", []).append(k)
        for category in pairs.categories[i]:
            found.setdefault(f"category={category}", []).append(k)
    return dict(sorted(found.items()))


class Collapse:
    """Warns if margins grow although the chosen answers, too, become less likely.

    DPO fixes only the difference of rewards (Pal et al., arXiv 2402.13228; Razin et al., arXiv
    2410.08847): the model may learn to give neither answer, but one that nobody chose.
    """

    READINGS = 3  # so many falls in a row; two are no trend yet

    def __init__(self, say: Callable[[str], None]):
        self._say = say
        self._rewards: list[tuple[float, float]] = []
        self.raised = False

    def __call__(self, step: int, metrics: Metrics) -> Metrics:
        """Returns `alarms/chosen_collapse` while the alarm holds, otherwise nothing."""
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
