"""The skeleton of every training run: prepares, takes the steps, logs, saves, and picks the result.

    task      everything particular to a method (`task.py`); each training stage makes one, and so
              does each round of RAFT
    settings  the numbers of a run, the same for all methods

The skeleton knows no method, and a method knows nothing about steps, checkpoints, logs or resuming.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from safety_jax.base import compilation, trees
from safety_jax.data.loader import Loader
from safety_jax.training import held_out, loop, optim, step_log, steps, workdir
from safety_jax.training.checkpoint import Checkpoints, abstract
from safety_jax.training.loop import Metrics
from safety_jax.training.prepared import Prepared, prepare
from safety_jax.training.settings import DIRECTIONS, Saving, Settings
from safety_jax.training.task import Learner, Learning, Loaded, Measured, Task

# ---------------------------------------------------------------------------- the run


@dataclasses.dataclass(frozen=True)
class Fitted:
    """The result of a finished run.

    Attributes:
        loaded: the model and its frozen tree; its trainable tree was donated to the first step.
        step: the step to export, the last or the best.
        weights: the trainable tree of that step.
        batches: the training batches.
        tokens: real tokens seen.
        recompilations: see `StepLog`.
        held_out: see `task.Finished`.
        remark: see `Settings.remark`.
    """

    loaded: Loaded
    step: int
    weights: trees.Tree
    batches: Loader
    tokens: int
    recompilations: int
    held_out: Measured | None
    remark: str | None


# (learner, learning, trainable, total steps) -> the state's layout, the optimizer, the step
Stepper = Callable[
    [Learner, Learning, trees.Tree, int], tuple[steps.State, Any, Callable[..., Any]]
]


def run(
    task: Task,
    settings: Settings,
    place: workdir.Workdir,
    mesh: Mesh,
    compiled: compilation.Counter,
    key: jax.Array,
    *,
    introduce: Callable[[Loader], None] | None = None,
    stepper: Stepper | None = None,
) -> Fitted | None:
    """Trains from where an earlier start left off; None if asked to stop before the end.

    Args:
        key: the random key for dropout.
        introduce: called with the batches before any weight is read.
        stepper: returns an already compiled step, see `make_stepper`.

    Raises:
        UserError: any error that the user can fix.
    """
    ready = prepare(task, settings, mesh, introduce=introduce)
    where, optimizer, step = (stepper or make_stepper(settings.optimization, mesh))(
        ready.loaded.learner, ready.learning, ready.loaded.trainable, ready.batches.steps
    )
    seat = loop.Seat(steps.initialize(ready.loaded.trainable, optimizer, key, where))
    walk = fit(task, settings, place, mesh, compiled, ready, seat)
    return loop.drive(walk, seat, ready.learning.frozen, step=step, place=ready.put)


def make_stepper(optimization: optim.Optimization, mesh: Mesh) -> Stepper:
    """Returns a function that makes the optimizer and the compiled step of a run of any length."""

    def make(learner: Learner, learning: Learning, trainable: trees.Tree, total: int):
        rate, optimizer = optimization.make(total)
        where = steps.shardings(trainable, learner.shardings(), optimizer, mesh)
        step = steps.make(learning.loss, learning.count, optimizer, rate, where, learning.survey)
        return where, optimizer, step

    return make


def fit(
    task: Task,
    settings: Settings,
    place: workdir.Workdir,
    mesh: Mesh,
    compiled: compilation.Counter,
    ready: Prepared,
    seat: loop.Seat,
    *,
    quiet: bool = False,
) -> loop.Walk[Fitted | None]:
    """The walk of a run, with checkpoints, logs, and the choice of the step to export.

    Args:
        seat: holds the state, at first that of step 0.
        quiet: print nothing.
    """
    batches, saving, corpus = ready.batches, settings.saving, task.corpus
    stream = iter(batches)
    with contextlib.ExitStack() as stack:
        saved = stack.enter_context(_open_checkpoints(place, saving))
        state = loop.resume(saved, seat.give(), stream)
        done = _step(state)
        seat.take(state)
        earlier = step_log.read_earlier(place.metrics, done)
        log = stack.enter_context(
            step_log.open_log(
                task, settings, place, mesh, compiled, ready, done, earlier, quiet=quiet
            )
        )
        evaluated = _note_evaluations(earlier, saved, saving.best_metric)
        evaluate = _evaluation(ready, corpus.evaluation)
        # An earlier start may have asked for another metric, or for the last step.
        known = any(saving.best_metric in row for row in earlier)
        if evaluate is not None and saving.export == "best" and not known:
            held_out.check_metric(saving.best_metric, evaluate(seat.give().trainable))
        result = yield from loop.walk(
            seat,
            stream,
            evaluate=evaluate,
            evaluated=evaluated,
            rows=lambda batch: [corpus.training.where[i] for i in batch.examples],
            on_step=log.on_step,
            on_evaluation=log.on_evaluation,
            checkpoints=saved,
            best_metric=saving.best_metric.removeprefix("eval/"),
            cadence=log.cadence,
        )
        if result.interrupted:
            log.progress.print(
                f"stopped by SIGTERM and saved at step {_step(result.state)} of "
                f"{batches.steps}; run the same command to continue"
            )
            return None
        chosen, weights = _choose(saving.export, saved, result.state)
    return _fitted(task, ready, chosen, weights, log.recompilations())


def _open_checkpoints(place: workdir.Workdir, saving: Saving) -> Checkpoints:
    return Checkpoints(
        place.checkpoints,
        saving.keep_last,
        saving.best_metric,
        highest=DIRECTIONS[saving.best_is],
    )


def _note_evaluations(
    earlier: Iterable[Mapping[str, Any]], saved: Checkpoints, metric: str
) -> set[int]:
    """The steps that earlier starts evaluated; tells `saved` the best metric at each."""
    evaluations = {row["step"]: row.get(metric) for row in earlier if "eval/loss" in row}
    for step, value in evaluations.items():
        saved.note(step, value)
    return set(evaluations)


def _evaluation(ready: Prepared, examples: Any) -> Callable[[trees.Tree], Metrics] | None:
    """Returns a function from trainable weights to evaluation metrics; None without held-out
    examples."""
    if (measure := ready.measure) is None:
        return None
    return lambda trainable: ready.learning.evaluation(measure(trainable), examples)


def _choose(which: str, saved: Checkpoints, state: steps.State) -> tuple[int, trees.Tree]:
    """The step to export and its weights: the last, or the best by the metric of the run."""
    last = _step(state)
    best = saved.best()
    if which == "last" or best is None or best == last:
        return last, state.trainable
    restored, _, _ = saved.restore(best, abstract(state))
    return best, restored.trainable


def _fitted(
    task: Task, ready: Prepared, step: int, weights: trees.Tree, recompilations: int
) -> Fitted:
    """The run's result, with a measurement of the held-out examples if the task needs one."""
    measure = ready.measure if task.measures_export else None
    return Fitted(
        loaded=ready.loaded,
        step=step,
        weights=weights,
        batches=ready.batches,
        tokens=ready.batches.tokens_until(ready.batches.steps),
        recompilations=recompilations,
        held_out=None if measure is None else measure(weights),
        remark=ready.remark,
    )


def _step(state: steps.State) -> int:
    return int(jax.device_get(state.step))
