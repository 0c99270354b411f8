"""Trains a judge: reads its answers, wraps an objective as the loss, and computes metrics.

As for preferences, the loss returns a table with one row for each example, so every metric is plain
arithmetic on the host.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from safety_jax.base import trees
from safety_jax.base.batch import Answers, Tokens
from safety_jax.data import corpora, records
from safety_jax.data.formats import verdicts
from safety_jax.data.judged import JudgedAnswers
from safety_jax.data.sources import Skipped, Source
from safety_jax.training import judge_quality, placement, steps
from safety_jax.training.judge_model import Trainee
from safety_jax.training.task import Learning, Measured

# (scores, targets) `[..., N]` -> losses `[...]`
JudgeObjective = Callable[[jax.Array, jax.Array], jax.Array]

PAIRED = ("pairs", "cost")
FORMATS = {"regression": verdicts.RATINGS, "binary": verdicts.LABELS}


def rows(kind: str, prefer: str, left_out: dict[str, int]) -> Callable[..., list]:
    """Returns a function that reads the rows for a kind of judge.

    Args:
        kind: pairs, cost, regression or binary.
        prefer, left_out: see `corpora.preferences`.
    """
    if kind in PAIRED:
        return corpora.preferences(prefer, left_out)

    def parse(source: Source, skipped: list[Skipped]) -> list[records.Rated]:
        return records.read_rated(source, FORMATS[kind], skipped)

    return parse


def describe_labels(found: Sequence[records.Rated | records.Pair]) -> list[str]:
    """A warning if all answers have the same label, so that the judge cannot learn to tell them
    apart."""
    values = {value for one in found for value in _values(one)}
    if len(values) != 1:
        return []
    (value,) = values
    return [
        f"warning: all {len(found):,} rows have the label {value:g}; a judge learns to tell labels "
        "apart, add rows of another"
    ]


def _values(row: records.Rated | records.Pair) -> Sequence[float]:
    if isinstance(row, records.Rated):
        return (row.value,)
    return () if row.labels.unsafe is None else tuple(map(float, row.labels.unsafe))


def learning(
    judge: Trainee,
    objective: JudgeObjective,
    frozen: trees.Tree,
    mesh: Mesh,
    *,
    kind: str,
    batch_size: int,
) -> Learning:
    """What the training skeleton needs to train a judge."""

    def held(found: Measured, data: JudgedAnswers) -> judge_quality.Held:
        return judge_quality.held(kind, found.table, found.examples, data)

    return Learning(
        loss=make_loss(judge, objective, batch_size=batch_size),
        count=count,
        frozen=frozen,
        place=lambda loader, data: placement.place_answers(mesh, loader, data),
        summarize=lambda found, data: judge_quality.summarize(held(found, data)),
        evaluation=lambda found, data: judge_quality.evaluation(held(found, data)),
    )


def count(batch: Answers) -> dict[str, jax.Array]:
    """The number of examples in the batch."""
    return {"examples": (batch.slots >= 0).sum().astype(jnp.float32)}


def make_loss(judge: Trainee, objective: JudgeObjective, *, batch_size: int) -> steps.Loss:
    """The mean of an objective over the batch's examples.

    The loss also returns a table with the N scores of each example and its loss.

    Args:
        batch_size: rows of the table.
    """

    def loss(
        trainable: trees.Tree,
        frozen: trees.Tree,
        batch: Answers,
        totals: dict[str, jax.Array],
        key: jax.Array | None,
    ):
        tokens: Tokens = jax.tree.map(placement.side_rows, batch.tokens)
        ends = placement.by_row(batch.ends, batch.tokens.ids.shape[-2])
        scores = placement.by_example(judge.scores(trainable, frozen, tokens, ends, key), batch)
        losses = objective(scores, batch.targets)
        real = batch.slots >= 0
        rows = jnp.concatenate([scores, losses[..., None]], axis=-1)
        mean = jnp.where(real, losses, 0.0).sum() / totals["examples"]
        return {"loss": mean, "examples": placement.table_of(rows, batch.slots, batch_size)}

    return loss
