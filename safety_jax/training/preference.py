"""Learning from pairs: batches with both answers, the loss around an objective, what is watched.

The loss returns a table with one row a pair, so that every metric, by source and by kind of harm,
is plain arithmetic on the host.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from safety_jax.base import trees
from safety_jax.base.batch import Preferences, Tokens
from safety_jax.data.loader import Batch, Loader
from safety_jax.data.pairs import Pairs
from safety_jax.maths import losses, statistics
from safety_jax.training import placement
from safety_jax.training import step as steps
from safety_jax.training.loop import Metrics, Tables
from safety_jax.training.policy import Policy

PairObjective = Callable[[losses.PairLogprobs], jax.Array]
# (chosen, rejected) values by token, end to end like the ids of `Examples`
Sides = tuple[np.ndarray, np.ndarray]

# Columns of the table of pairs; (chosen, rejected) where there are two.
POLICY, REFERENCE, KL = slice(0, 2), slice(2, 4), slice(4, 6)
LOSS, CORRECT, COLUMNS = 6, 7, 8


# ---------------------------------------------------------------------------- batches


def place_on(
    mesh: Mesh, loader: Loader, pairs: Pairs, reference: Sides | None, most_segments: int
) -> placement.PutBatch:
    """Puts batches of pairs onto the mesh.

    Args:
        reference: log-probability of every token under the reference, end to end; None where the
            step computes it, or has none.
        most_segments: S, the most pairs of a row.
    """
    put = placement.put_rows(mesh, loader.rows_per_microbatch)

    def place(batch: Batch) -> tuple[Preferences, jax.Array]:
        tokens = batch.tokens
        known = np.zeros(tokens.ids.shape, np.float32)
        if reference is not None:
            laid = [
                loader.per_token(side, flat, batch.examples, batch.layout)
                for side, flat in enumerate(reference)
            ]
            known = np.stack(laid, axis=2)
        slots = np.full((*tokens.ids.shape[:2], most_segments), -1, np.int32)
        unsafe = np.zeros((*slots.shape, 2), np.float32)
        for k, microbatch, row in loader.here(batch.layout):
            cell = (microbatch, row, batch.layout.segment[k] - 1)
            slots[cell] = k
            if pairs.unsafe is not None:
                unsafe[cell] = pairs.unsafe[batch.examples[k]]
        arrays = Preferences(tokens, known, slots, unsafe)
        return jax.tree.map(put, arrays), placement.put_everywhere(mesh, batch.used)

    return place


# ---------------------------------------------------------------------------- loss


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


def count(batch: Preferences) -> dict[str, jax.Array]:
    """Pairs of the batch, and tokens of their chosen answers."""
    chosen = batch.tokens.mask[..., 0, :]
    return {
        "pairs": (batch.slots >= 0).sum().astype(jnp.float32),
        "chosen_tokens": chosen.sum().astype(jnp.float32),
    }


def make_loss(
    trained: Policy, objective: PairObjective, *, nll_weight: float, live: bool, batch_size: int
) -> steps.Loss:
    """The mean of an objective over the batch's pairs, plus `nll_weight` times the negative
    log-likelihood of a token of the chosen answers (as in Llama 3, arXiv 2407.21783, section 4.1.4,
    and iterative RPO, arXiv 2404.19733).

    The gradient sees log-probabilities alone, so every objective costs the same.

    Args:
        live: the reference is computed here, not read from the batch.
        batch_size: rows of the table of pairs.
    """

    def loss(
        trainable: trees.Tree,
        frozen: Frozen,
        batch: Preferences,
        totals: dict[str, jax.Array],
        key: jax.Array | None,
    ):
        tokens: Tokens = jax.tree.map(_rows, batch.tokens)
        scores = trained.token_logprobs(trainable, frozen.base, tokens, key)
        # Position t answers for token t + 1, which lies in the same segment where it is trained.
        _, mask = losses.shift(tokens)
        if live:
            reference = trained.reference_logprobs(frozen.start, frozen.base, tokens)
        else:
            reference = jnp.pad(_rows(batch.reference)[:, 1:], [(0, 0), (0, 1)])

        S = batch.slots.shape[-1]

        def by_pair(values: jax.Array) -> jax.Array:
            """[2b, T] -> [b, S, 2]"""
            sums = losses.segment_sums(values.astype(jnp.float32), tokens.segments, S)
            return sums.reshape(-1, 2, S).swapaxes(1, 2)

        policy = by_pair(scores.logprobs)
        known = by_pair(jnp.where(mask, reference, 0.0))
        # Empty segments count one token, so that no objective divides by zero.
        lengths = jnp.maximum(by_pair(mask), 1.0)
        pair_losses = objective(losses.PairLogprobs(policy, known, lengths, batch.unsafe))
        real = batch.slots >= 0
        loss = jnp.where(real, pair_losses, 0.0).sum() / totals["pairs"]
        if nll_weight:
            loss -= nll_weight * policy[..., 0].sum() / totals["chosen_tokens"]

        change = scores.logprobs - jnp.where(mask, reference, 0.0)
        columns = [policy, known, by_pair(change**2 / 2), pair_losses[..., None]]
        columns.append(by_pair(scores.correct)[..., :1])
        rows = jnp.concatenate(columns, axis=-1).reshape(-1, COLUMNS)
        slots = jnp.where(real, batch.slots, batch_size).reshape(-1)  # beyond the end: dropped
        table = jnp.zeros((batch_size, COLUMNS)).at[slots].add(rows, mode="drop")
        return {"loss": loss, "pairs": jax.lax.stop_gradient(table)}

    return loss


def _rows(x: jax.Array) -> jax.Array:
    """[b, 2, T] -> [2b, T]; rows stay on their devices, both sides of a pair on one."""
    return x.reshape(-1, x.shape[-1])


# ---------------------------------------------------------------------------- what is watched

PairTable = Float[np.ndarray, "n columns"]
Indices = Int[np.ndarray, " n"]


def summarize(table: PairTable, examples: Indices, pairs: Pairs, *, beta: float) -> Metrics:
    """TRL's metrics over some pairs, and what safety work asks for beside them.

    `kl` is Σ ½ (log π/π_ref)² over answer tokens, divided by their number: on answers drawn from
    either model it agrees with the KL divergence a token to second order (Schulman, "Approximating
    KL divergence", 2020); on others' answers it is still zero only where the models agree.

    Args:
        table: of `make_loss`, a row for each of `examples`, which are indices into `pairs`.
        beta: rewards are β log π/π_ref.
    """
    rewards = beta * (table[:, POLICY] - table[:, REFERENCE])
    lengths = answer_lengths(pairs)[examples]
    margins = rewards[:, 0] - rewards[:, 1]
    metrics = {
        "rewards/chosen": float(rewards[:, 0].mean()),
        "rewards/rejected": float(rewards[:, 1].mean()),
        "rewards/margins": float(margins.mean()),
        "rewards/accuracies": float((margins > 0).mean()),
        "logps/chosen": float(table[:, 0].mean()),
        "logps/rejected": float(table[:, 1].mean()),
        "logps/chosen_change": float((table[:, 0] - table[:, 2]).mean()),
        "mean_token_accuracy": float(table[:, CORRECT].sum() / lengths[:, 0].sum()),
        "kl": float(table[:, KL].sum() / lengths.sum()),
        "lengths/chosen": float(lengths[:, 0].mean()),
        "lengths/rejected": float(lengths[:, 1].mean()),
    }
    difference = (lengths[:, 0] - lengths[:, 1]).astype(float)
    if np.ptp(difference) > 0 and np.ptp(margins) > 0:
        correlation = np.corrcoef(difference, margins)[0, 1]
        metrics["lengths/margin_correlation"] = float(correlation)
    for name, members in groups(examples, pairs).items():
        metrics[f"rewards/margins/{name}"] = float(margins[members].mean())
        metrics[f"rewards/accuracies/{name}"] = float((margins[members] > 0).mean())
    return metrics


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

    def read(self, step: int, metrics: Metrics, prefix: str) -> Metrics:
        """The metrics with `alarms/chosen_collapse` added while the alarm holds."""
        chosen = metrics[f"{prefix}rewards/chosen"]
        self._rewards.append((chosen, metrics[f"{prefix}rewards/margins"]))
        last = np.array(self._rewards[-self.READINGS - 1 :])
        moves = np.diff(last, axis=0)
        holds = len(moves) == self.READINGS and chosen < 0
        if not (holds and (moves[:, 0] < 0).all() and (moves[:, 1] > 0).all()):
            return metrics
        if not self.raised:
            self.raised = True
            self._say(
                f"warning: at step {step} the reward of chosen answers has fallen {self.READINGS} "
                f"times in a row, to {chosen:.3g}, while margins rise: the policy is losing the "
                "answers it should learn; consider dpo.nll_weight=0.2, a larger dpo.beta or a "
                "lower optim.learning_rate"
            )
        return metrics | {"alarms/chosen_collapse": 1.0}


class PairWatch:
    """Metrics of training steps, over all pairs since they were last read; see `journal.Watch`."""

    def __init__(self, pairs: Pairs, beta: float, collapse: Collapse, evaluates: bool):
        """The alarm listens to evaluations where there are any: steps are noisy."""
        self._pairs, self._beta, self._collapse = pairs, beta, collapse
        self._evaluates = evaluates
        self._tables: list[PairTable] = []
        self._examples: list[Indices] = []

    def add(self, tables: Tables, batch: Batch) -> None:
        self._tables.append(tables["pairs"][: len(batch.examples)])
        self._examples.append(batch.examples)

    def read(self, step: int) -> Metrics:
        table, examples = np.concatenate(self._tables), np.concatenate(self._examples)
        self._tables, self._examples = [], []
        metrics = summarize(table, examples, self._pairs, beta=self._beta)
        return metrics if self._evaluates else self._collapse.read(step, metrics, "")

    def evaluated(self, step: int, metrics: Metrics) -> Metrics:
        return self._collapse.read(step, metrics, "eval/")


def make_evaluate(
    measure: Callable,
    frozen: Frozen,
    batches: Loader,
    place: placement.PutBatch,
    pairs: Pairs,
    beta: float,
) -> Callable[[trees.Tree], Metrics]:
    """A function of the trainable weights: metrics over all of `batches` as `eval/...`, and the
    95% Wilson interval of the accuracy."""

    def evaluate(trainable: trees.Tree) -> Metrics:
        tables, examples = [], []
        for number in range(batches.steps):
            batch = batches.batch(number)
            parts, _ = measure(trainable, frozen, *place(batch))
            tables.append(jax.device_get(parts["pairs"])[: len(batch.examples)])
            examples.append(batch.examples)
        table, order = np.concatenate(tables), np.concatenate(examples)
        metrics = {"loss": float(table[:, LOSS].mean())}
        metrics |= summarize(table, order, pairs, beta=beta)
        right = round(metrics["rewards/accuracies"] * len(order))
        low, high = statistics.wilson(right, len(order))
        metrics |= {"rewards/accuracies_low": low, "rewards/accuracies_high": high}
        return {f"eval/{name}": value for name, value in metrics.items()}

    return evaluate


def rows_of(pairs: Pairs, examples: Sequence[int] | Indices) -> list[str]:
    """Where the rows of these pairs are, for messages."""
    return [pairs.chosen.where[i] for i in examples]
