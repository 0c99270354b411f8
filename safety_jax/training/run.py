"""The skeleton of every training run: batches, weights, step, loop, and what the loop leaves.

    task      what is particular to a method (`task.py`): every training stage makes one, and so
              does every round of RAFT
    settings  the numbers of a run, of whatever method

The skeleton knows no method, and a method knows nothing of steps, checkpoints, logs and resuming.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from safety_jax.base import compilation, trees
from safety_jax.base.errors import ConfigError
from safety_jax.data.loader import Loader
from safety_jax.maths import flops
from safety_jax.training import held_out, loop, metrics, optim, progress, steps, workdir
from safety_jax.training.batches import make_loader
from safety_jax.training.checkpoint import Checkpoints, abstract
from safety_jax.training.loop import Metrics
from safety_jax.training.placement import PutBatch
from safety_jax.training.settings import DIRECTIONS, Saving, Settings
from safety_jax.training.step_log import StepLog
from safety_jax.training.task import Learner, Learning, Loaded, Measured, Task

# ---------------------------------------------------------------------------- the run


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What a finished run leaves.

    Attributes:
        loaded: the model, and the frozen tree; its trainable tree was given to the first step.
        step: the step to export, the last or the best.
        weights: the trainable tree of that step.
        batches: what was learned from.
        tokens: real tokens seen.
        flops: model FLOPs spent on them.
        recompilations: see `StepLog`.
        held_out: see `task.Finished`.
    """

    loaded: Loaded
    step: int
    weights: trees.Tree
    batches: Loader
    tokens: int
    flops: float
    recompilations: int
    held_out: Measured | None


# (learner, learning, trainable, total steps) -> the state's layout, the optimizer, the step
Stepper = Callable[
    [Learner, Learning, trees.Tree, int], tuple[steps.State, Any, Callable[..., Any]]
]


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A run before its first step: its weights are read, nothing is compiled.

    Attributes:
        put: puts batches onto the mesh.
        measure: see `held_out.make_measure`; None without held-out examples.
        flops_per_token: model FLOPs to train on one token of these examples.
    """

    batches: Loader
    loaded: Loaded
    learning: Learning
    put: PutBatch
    measure: Callable[[trees.Tree], Measured] | None
    flops_per_token: float


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
    """Trains from where an earlier start left off; None when asked to stop before the end.

    Args:
        key: of dropout.
        introduce: called with the batches before any weight is read.
        stepper: gives a step that is compiled already, see `make_stepper`.

    Raises:
        UserError: anything that the user can put right.
    """
    ready = prepare(task, settings, mesh, introduce=introduce)
    where, optimizer, step = (stepper or make_stepper(settings.optimization, mesh))(
        ready.loaded.learner, ready.learning, ready.loaded.trainable, ready.batches.steps
    )
    seat = loop.Seat(steps.initialize(ready.loaded.trainable, optimizer, key, where))
    walk = fit(task, settings, place, mesh, compiled, ready, seat)
    return loop.drive(walk, seat, ready.learning.frozen, step=step, place=ready.put)


def prepare(
    task: Task,
    settings: Settings,
    mesh: Mesh,
    *,
    introduce: Callable[[Loader], None] | None = None,
    evaluator: Callable[[Learning], held_out.Evaluator] | None = None,
) -> Prepared:
    """Reads what a run needs.

    Args:
        introduce: see `run`.
        evaluator: gives what measures held-out examples, compiled already, see
            `held_out.make_measure`.

    Raises:
        UserError: anything that the user can put right.
    """
    corpus, batching = task.corpus, settings.batching
    if settings.saving.export == "best" and corpus.evaluation is None:
        raise ConfigError(
            "checkpoint.export is best, but there are no held-out examples; expected data.eval or "
            "data.eval_rows, or checkpoint.export=last"
        )
    total = settings.budget.steps(len(corpus.training), batching.batch_size, task.flops_per_example)
    remark = settings.optimization.remark(total)
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
    return Prepared(batches, loaded, learning, put, measure, per_token)


def make_stepper(optimization: optim.Optimization, mesh: Mesh) -> Stepper:
    """Returns what makes the optimizer and the compiled step of a run, whatever its length."""

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
    """The walk of a run with its checkpoints and logs, and the choice of what is exported.

    Args:
        seat: holds the state of step 0, and whatever steps make of it.
        quiet: nothing is printed.
    """
    batches, measure = ready.batches, ready.measure
    saving, corpus, total = settings.saving, task.corpus, batches.steps
    stream = iter(batches)
    with contextlib.ExitStack() as stack:
        saved = stack.enter_context(_open_checkpoints(place, saving))
        state = loop.resume(saved, seat.give(), stream)
        done = _step(state)
        seat.take(state)
        log = stack.enter_context(
            _open_log(task, settings, place, mesh, compiled, ready, done, quiet=quiet)
        )
        evaluate = _evaluation(ready, corpus.evaluation)
        if evaluate is not None and saving.export == "best" and done == 0:
            held_out.check_metric(saving.best_metric, evaluate(seat.give().trainable))
        result = yield from loop.walk(
            seat,
            stream,
            evaluate=evaluate,
            rows=lambda batch: [corpus.training.where[i] for i in batch.examples],
            on_step=log.on_step,
            on_evaluation=log.on_evaluation,
            checkpoints=saved,
            best_metric=saving.best_metric.removeprefix("eval/"),
            cadence=log.cadence,
        )
        if result.interrupted:
            log.progress.print(
                f"stopped by SIGTERM and saved at step {_step(result.state)} of {total}; "
                "run the same command to go on"
            )
            return None
        chosen, weights = _choose(saving.export, saved, result.state)
    tokens = batches.tokens_until(total)
    wanted = measure is not None and task.measures_export
    return Fitted(
        loaded=ready.loaded,
        step=chosen,
        weights=weights,
        batches=batches,
        tokens=tokens,
        flops=ready.flops_per_token * tokens,
        recompilations=log.recompilations(),
        held_out=measure(weights) if measure is not None and wanted else None,
    )


def _open_checkpoints(place: workdir.Workdir, saving: Saving) -> Checkpoints:
    return Checkpoints(
        place.checkpoints,
        saving.keep_last,
        saving.best_metric,
        highest=DIRECTIONS[saving.best_is],
    )


def _evaluation(ready: Prepared, examples: Any) -> Callable[[trees.Tree], Metrics] | None:
    """What the loop measures of the trainable weights; None without held-out examples."""
    if (measure := ready.measure) is None:
        return None
    return lambda trainable: ready.learning.evaluation(measure(trainable), examples)


@contextlib.contextmanager
def _open_log(
    task: Task,
    settings: Settings,
    place: workdir.Workdir,
    mesh: Mesh,
    compiled: compilation.Counter,
    ready: Prepared,
    done: int,
    *,
    quiet: bool,
) -> Iterator[StepLog]:
    """What writes and shows a run's metrics, from the step `done` on."""
    logging, batches, summarize = settings.logging, ready.batches, ready.learning.summarize
    training, primary = task.corpus.training, jax.process_index() == 0
    with (
        contextlib.closing(
            metrics.Writer(
                place.path, done, logging.tensorboard, logging.wandb, place.config, primary
            )
        ) as writer,
        contextlib.closing(progress.ProgressBar(batches.steps, done, primary and not quiet)) as bar,
    ):
        yield StepLog(
            writer=writer,
            progress=bar,
            rate=progress.Throughput(ready.flops_per_token, flops.peak_of(mesh.devices)),
            compiled=compiled,
            cadence=loop.Cadence(
                total_steps=batches.steps,
                log_every_steps=logging.every_steps,
                eval_every_steps=logging.eval_every_steps,
                save_every_steps=settings.saving.every_steps,
            ),
            steps_per_epoch=batches.steps_per_epoch,
            tokens=batches.tokens_until(done),
            summarize=None if summarize is None else lambda found: summarize(found, training),
            alarm=ready.learning.alarm,
            evaluates=ready.measure is not None,
        )


def _choose(which: str, saved: Checkpoints, state: steps.State) -> tuple[int, trees.Tree]:
    """The step to export and its weights: the last, or the best by the metric of the run."""
    last = _step(state)
    best = saved.best()
    if which == "last" or best is None or best == last:
        return last, state.trainable
    restored, _, _ = saved.restore(best, abstract(state))
    return best, restored.trainable


def _step(state: steps.State) -> int:
    return int(jax.device_get(state.step))
