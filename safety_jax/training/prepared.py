"""Prepares a run: lays out batches, reads weights, and sets up the loss; compiles nothing."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh

from safety_jax.base import trees
from safety_jax.base.errors import ConfigError
from safety_jax.data.loader import Loader
from safety_jax.training import held_out
from safety_jax.training.batches import make_loader
from safety_jax.training.placement import PutBatch
from safety_jax.training.settings import Settings
from safety_jax.training.task import Learning, Loaded, Measured, Task


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A run before its first step.

    Attributes:
        put: puts batches onto the mesh.
        measure: see `held_out.make_measure`; None without held-out examples.
        flops_per_token: model FLOPs to train on one token of these examples.
        remark: see `Settings.remark`.
    """

    batches: Loader
    loaded: Loaded
    learning: Learning
    put: PutBatch
    measure: Callable[[trees.Tree], Measured] | None
    flops_per_token: float
    remark: str | None


def prepare(
    task: Task,
    settings: Settings,
    mesh: Mesh,
    *,
    introduce: Callable[[Loader], None] | None = None,
    evaluator: Callable[[Learning], held_out.Evaluator] | None = None,
) -> Prepared:
    """Prepares a run.

    Args:
        introduce: see `run`.
        evaluator: returns an already compiled evaluator of held-out examples, see
            `held_out.make_measure`.

    Raises:
        UserError: any error that the user can fix.
    """
    corpus, batching = task.corpus, settings.batching
    if settings.saving.export == "best" and corpus.evaluation is None:
        raise ConfigError(
            "checkpoint.export is best, but there are no held-out examples; expected data.eval or "
            "data.eval_rows, or checkpoint.export=last"
        )
    total = settings.budget.steps(len(corpus.training), batching.batch_size, task.flops_per_example)
    remark = settings.remark(total, len(corpus.training), task.flops_per_example)
    if remark is not None and jax.process_index() == 0:
        print(f"warning: {remark}", flush=True)
    batches = make_loader(task, corpus.training, batching, mesh, steps=total)
    if introduce is not None:
        introduce(batches)
    loaded = task.load()
    learning = task.learn(loaded)
    put = learning.place(batches, corpus.training)
    measure = None
    if corpus.evaluation is not None:
        kept = make_loader(task, corpus.evaluation, batching, mesh, steps=None)
        compiled = None if evaluator is None else evaluator(learning)
        measure = held_out.make_measure(learning, kept, corpus.evaluation, mesh, compiled)
    lengths = np.concatenate([side.lengths for side in corpus.training.sides])
    per_token = loaded.learner.flops_per_token(lengths)
    return Prepared(batches, loaded, learning, put, measure, per_token, remark)
