"""The skeleton of every training run: batches, weights, step, loop, and what the loop leaves.

    task      what is particular to a method (`task.py`): every training stage makes one, and so
              does every round of RAFT
    settings  the numbers of a run, of whatever method

The skeleton knows no method, and a method knows nothing of steps, checkpoints, logs and resuming.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from safety_jax.base import compilation, meshes, trees
from safety_jax.base.errors import ConfigError
from safety_jax.data.examples import Examples
from safety_jax.data.loader import Loader
from safety_jax.data.prefixes import Share
from safety_jax.maths import flops
from safety_jax.training import loop, metrics, optim, progress, steps, workdir
from safety_jax.training.checkpoint import Checkpoints, abstract
from safety_jax.training.placement import PutBatch
from safety_jax.training.settings import DIRECTIONS, Batching, Settings
from safety_jax.training.step_log import TABLE, StepLog
from safety_jax.training.task import Learner, Learning, Loaded, Measured, Metrics, Task

ROW_MULTIPLE = 8  # rows of one example are a multiple of this, what matrix units like


# ---------------------------------------------------------------------------- the run


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What a run to its end left.

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
# What `make_measure` compiles.
Evaluator = Callable[..., tuple[steps.Parts, dict[str, jax.Array]]]


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A run before its first step: its weights are read, nothing is compiled.

    Attributes:
        put: puts batches onto the mesh.
        measure: see `make_measure`; None without held-out examples.
    """

    batches: Loader
    loaded: Loaded
    learning: Learning
    put: PutBatch
    measure: Callable[[trees.Tree], Measured] | None


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
        introduce: is given the batches before any weight is read.
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
    evaluator: Callable[[Learning], Evaluator] | None = None,
) -> Prepared:
    """Reads what a run needs.

    Args:
        introduce: see `run`.
        evaluator: gives what measures held-out examples, compiled already, see `make_measure`.

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
        held_out = make_loader(task, corpus.evaluation, batching, mesh, steps=None)
        compiled = None if evaluator is None else evaluator(learning)
        measure = make_measure(learning, held_out, corpus.evaluation, mesh, compiled)
    return Prepared(batches, loaded, learning, put, measure)


def make_loader(
    task: Task, examples: Any, batching: Batching, mesh: Mesh, *, steps: int | None
) -> Loader:
    """Batches for training, or with `steps` None, one ordered pass over everything.

    Where the trunk cannot keep examples of a row apart, a row has one, and is as long as the
    longest example.
    """
    row_tokens, packing = batching.row_tokens, batching.packing and task.packs
    if not task.packs:
        longest = max(int(side.lengths.max()) for side in examples.sides)
        row_tokens = -(-longest // ROW_MULTIPLE) * ROW_MULTIPLE
    fitted = dataclasses.replace(batching, row_tokens=row_tokens, packing=packing)
    return lay_out(examples.sides, fitted, mesh, task.share)(
        batch_size=batching.batch_size,
        steps=steps,
        seed=None if steps is None else batching.seed,
        microbatches=None if steps is None else batching.most_microbatches,
        segments=batching.most_segments,
    )


def lay_out(
    sides: Sequence[Examples], batching: Batching, mesh: Mesh, share: Share
) -> Callable[..., Loader]:
    """`Loader` over these examples, its rows chosen: which batches it makes is left to say."""
    shared = share(sides, batching.row_tokens)
    rows = batching.rows(shared, len(sides), meshes.row_parts(mesh))
    return functools.partial(
        Loader,
        *sides,
        row_tokens=batching.row_tokens,
        rows_per_microbatch=rows,
        packing=batching.packing,
        prefetch_steps=batching.prefetch_steps,
        rows_here=meshes.rows_here(mesh, rows),
        shared=shared,
    )


def make_stepper(optimization: optim.Optimization, mesh: Mesh) -> Stepper:
    """Returns what makes the optimizer and the compiled step of a run, whatever its length."""

    def make(learner: Learner, learning: Learning, trainable: trees.Tree, total: int):
        rate, optimizer = optimization.make(total)
        where = steps.shardings(trainable, learner.shardings(), optimizer, mesh)
        step = steps.make(learning.loss, learning.count, optimizer, rate, where, learning.survey)
        return where, optimizer, step

    return make


def make_evaluator(learning: Learning, mesh: Mesh) -> Evaluator:
    """Compiles what `make_measure` measures by."""
    return steps.evaluator(learning.loss, learning.count, mesh, learning.survey)


def make_measure(
    learning: Learning,
    batches: Loader,
    examples: Any,
    mesh: Mesh,
    evaluator: Evaluator | None = None,
) -> Callable[[trees.Tree], Measured]:
    """A function of the trainable weights: what the loss says of all of `examples`.

    Args:
        evaluator: of a learning that computes the same, if there is one.
    """
    evaluator = evaluator or make_evaluator(learning, mesh)
    place = learning.place(batches, examples)

    def measure(trainable: trees.Tree) -> Measured:
        sums: dict[str, float] = {}
        count = 0.0
        tables, members = [], []
        for number in range(batches.steps):
            batch = batches.batch(number)
            parts, totals = jax.device_get(evaluator(trainable, learning.frozen, *place(batch)))
            # What a loss counts first is what its scalars are means over.
            counted = float(next(iter(totals.values())))
            count += counted
            table = parts.pop(TABLE, np.zeros((len(batch.examples), 0), np.float32))
            tables.append(table[: len(batch.examples)])
            members.append(batch.examples)
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + float(value) * counted
        means = {name: total / count for name, total in sums.items()}
        return Measured(means, np.concatenate(tables), np.concatenate(members))

    return measure


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
    learning, batches, measure = ready.learning, ready.batches, ready.measure
    saving, total = settings.saving, batches.steps
    training, held_out = task.corpus.training, task.corpus.evaluation
    per_token = ready.loaded.learner.flops_per_token(
        np.concatenate([side.lengths for side in training.sides])
    )
    stream = iter(batches)
    with contextlib.ExitStack() as stack:
        saved = stack.enter_context(
            Checkpoints(
                place.checkpoints,
                saving.keep_last,
                saving.best_metric,
                highest=DIRECTIONS[saving.best_is],
            )
        )
        state = loop.resume(saved, seat.give(), stream)
        done = _step(state)
        seat.take(state)
        rate = progress.Throughput(per_token, flops.peak_of(mesh.devices))
        log = stack.enter_context(
            _open_log(task, settings, place, compiled, ready, rate, done, quiet=quiet)
        )

        def evaluate(trainable: trees.Tree) -> Metrics:
            assert measure is not None
            return learning.evaluation(measure(trainable), held_out)

        if saving.export == "best" and done == 0:
            _check_measured(saving.best_metric, evaluate(seat.give().trainable))
        result = yield from loop.walk(
            seat,
            stream,
            evaluate=None if measure is None else evaluate,
            rows=lambda batch: [training.where[i] for i in batch.examples],
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
        flops=per_token * tokens,
        recompilations=log.recompilations(),
        held_out=measure(weights) if measure is not None and wanted else None,
    )


@contextlib.contextmanager
def _open_log(
    task: Task,
    settings: Settings,
    place: workdir.Workdir,
    compiled: compilation.Counter,
    ready: Prepared,
    rate: progress.Throughput,
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
            rate=rate,
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


def _check_measured(metric: str, found: Metrics) -> None:
    """Refuses to begin a run whose best checkpoint nobody could tell.

    Some metrics hang on the held-out examples: a correlation takes two that differ, a rate by kind
    of harm takes examples of that kind. So the weights at the start are measured.
    """
    names = [f"eval/{name}" for name in found]
    if metric not in names:
        raise ConfigError(
            f"checkpoint.best_metric is {metric!r}, which these held-out examples do not give; "
            f"expected one of {', '.join(names)}"
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
