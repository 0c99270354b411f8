"""Stage `sweep`: many runs of stage `sft` or `dpo` at once over one base (docs/sweep.md).

runs/NAME/    one run each, as if it had run alone: metrics, checkpoints, export/, card
sweep.json    the finished runs: what each changes, its last step, its config
"""

import contextlib
import dataclasses
import functools
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from safety_jax.base import compilation, meshes, trees
from safety_jax.base.errors import DivergenceError
from safety_jax.models import llama, lora
from safety_jax.planning import abstract
from safety_jax.stages import (
    checks,
    devices,
    fits,
    groups,
    learners,
    sweep_cost,
    sweep_methods,
    texts,
    training,
)
from safety_jax.stages.sweep_axes import variants
from safety_jax.stages.sweep_cost import RunCost
from safety_jax.stages.sweep_methods import METHODS, SweepMethod
from safety_jax.stages.sweep_record import RUNS, SweepRecord, SweepRun
from safety_jax.training import lanes, progress, steps, workdir
from safety_jax.training import run as skeleton
from safety_jax.training.batches import make_loader
from safety_jax.training.footprint import FlopParts
from safety_jax.training.held_out import Evaluator
from safety_jax.training.lanes import Begun, TrainingLanes, WaitingRun
from safety_jax.training.prepared import prepare
from safety_jax.training.run import Fitted
from safety_jax.training.task import Learning, Loaded


def run(config: ConfigDict, folder: str) -> bool:
    """Trains the runs; called again, it continues where it stopped. False if it was asked to stop.

    Raises:
        UserError: any error that the user can fix.
        DivergenceError: the loss of a run was not finite; the others continued.
    """
    primary = jax.process_index() == 0
    compilation.keep(config.log.compilation_cache)
    with workdir.prepare(folder, config, primary) as place:
        config = texts.dated(config.copy_and_resolve_references(), place)
        mesh = devices.build_mesh(config)
        base = groups.base(config, mesh)
        made = variants(config)
        method = METHODS[checks.swept(config)](config, made, base, mesh)
        runs = [SweepRun(*both) for both in zip(made, method.tasks, strict=True)]
        runs.sort(key=lambda one: -one.steps)  # the longest first, so that lanes end together
        width = min(config.sweep.lanes, len(runs))
        fits.fill_lanes(config, [(one.config, one.task) for one in runs], width, mesh, place)
        for one in runs:
            fits.copy(config, one.config)
        costs = [cost(one, mesh) for one in runs]
        record = SweepRecord(place.path, primary)
        left = [one for one in runs if not record.finished(one)]
        if primary:
            fit, parts = fits.chosen(config), FlopParts.of(mesh.shape)
            print(
                sweep_cost.describe(
                    costs, width, parts, remat=fit.remat, rows=fit.rows_per_microbatch,
                    tokens=fit.row_tokens,
                ),
                *method.remarks,
                sep="\n",
            )  # fmt: skip
            if len(left) < len(runs):
                print(f"{len(runs) - len(left)} runs were finished before", flush=True)
        failed = {}
        if left:
            with Sweep(config, method, base, mesh, record, costs) as sweep:
                failed = sweep.train(left)
        if failed:
            name, error = next(iter(failed.items()))
            more = f"; so did {len(failed) - 1} more" if len(failed) > 1 else ""
            raise DivergenceError(f"run {name} stopped, the others continued: {error}{more}")
        done = sum(record.finished(one) for one in runs)
        if primary and done == len(runs):
            print(f"all {done} runs are finished: {place.path / RUNS}", flush=True)
        elif primary:
            print(
                f"stopped by SIGTERM, all runs saved and {done} of {len(runs)} finished; run the "
                "same command to continue",
                file=sys.stderr,
                flush=True,
            )
    return done == len(runs)


def cost(one: SweepRun, mesh: Mesh) -> RunCost:
    """The cost of a run, from its batches."""
    task, examples, held_out = one.task, one.task.corpus.training, one.task.corpus.evaluation
    make = functools.partial(make_loader, task, batching=one.settings.batching, mesh=mesh)
    batches = make(examples, steps=one.steps)
    measured = [] if held_out is None else [make(held_out, steps=None)]
    assert task.flops_per_example is not None
    return RunCost(
        name=one.name,
        examples=len(examples),
        steps=one.steps,
        tokens=batches.tokens_until(batches.steps),
        flops=task.flops_per_example * batches.examples_until(one.steps),
        microbatches=batches.microbatches,
        segments=max(one.most_segments for one in (batches, *measured)),
        model=task.model,
    )


# ---------------------------------------------------------------------------- training


class Sweep:
    """Trains runs together, over one base."""

    def __init__(
        self,
        config: ConfigDict,
        method: SweepMethod,
        base: groups.Base,
        mesh: Mesh,
        record: SweepRecord,
        costs: Sequence[RunCost],
    ):
        """Args: costs: of all runs, including finished ones."""
        self._config, self._method, self._base, self._mesh = config, method, base, mesh
        self._record = record
        # Batches of all runs have the same shape.
        self._microbatches = max(one.microbatches for one in costs)
        self._segments = max(one.segments for one in costs)
        self._compiled = compilation.Counter()
        self._optimization = groups.optimization(config)
        # For its state alone: the learning rates of lanes are data.
        self._optimizer = self._optimization.follow(jnp.float32)
        self._evaluate = jax.jit(self._measured, out_shardings=meshes.sharding(mesh, ()))
        self._open = contextlib.ExitStack()

    def __enter__(self) -> "Sweep":
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def train(self, runs: Sequence[SweepRun]) -> dict[str, DivergenceError]:
        """Trains as many runs at a time as there are lanes; returns those that diverged."""
        # This reads the base.
        first = learners.load_policy(runs[0].config, self._base, self._mesh)
        self._like = Loaded(first.learner, {}, first.frozen)
        self._method.prepare(self._like)
        widest = max(one.config.lora.rank for one in runs)
        declared = llama.parameters(self._base.config)
        adapter = first.learner.adapter
        assert adapter is not None
        shapes = lora.shapes(declared, adapter.targets, widest, adapter.layers)
        trainable = trees.unflatten(
            {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, (shape, _) in shapes.items()}
        )
        pattern, self._where = abstract.state(first.learner, trainable, self._optimizer)
        width = min(self._config.sweep.lanes, len(runs))
        frozen = self._learning(self._constants(runs[0])).frozen
        program = TrainingLanes(width, self._advance, pattern, self._where, frozen, self._mesh)
        del first

        done = sum(self._record.saved_step(one.name) for one in runs)
        bar = progress.ProgressBar(sum(one.steps for one in runs), done, self._record.primary)
        self._open.callback(bar.close)

        def on_step(taken: int) -> None:
            nonlocal done
            done += taken
            bar.step(done)
            if program.steps % self._config.log.every_steps == 0:
                bar.log(done, {})

        entries = [WaitingRun(one.name, functools.partial(self._begin, one)) for one in runs]
        return lanes.drive(entries, program, on_step=on_step)

    def _advance(
        self, state: steps.State, frozen: Any, batch: Any, used: jax.Array, numbers: Any
    ) -> tuple[steps.State, steps.Parts]:
        """The optimizer step of one run, whose numbers are data."""
        return sweep_methods.advance(
            self._learning(numbers), self._optimization, state, frozen, batch, used, numbers
        )

    def _measured(
        self, numbers: Any, trainable: Any, frozen: Any, batch: Any, used: jax.Array
    ) -> tuple[steps.Parts, dict[str, jax.Array]]:
        """The evaluation of one run on a batch, its numbers as data."""
        learning = self._learning(numbers)
        return steps.evaluate(
            learning.loss, learning.count, learning.survey, trainable, frozen, batch, used
        )

    def _learning(self, numbers: Mapping[str, jax.Array]) -> Learning:
        return self._method.learning(sweep_methods.scaled(self._like, numbers), numbers)

    def _begin(self, one: SweepRun) -> Begun[Fitted | None]:
        began = time.perf_counter()
        config, settings = one.config, one.settings
        place = self._open.enter_context(
            workdir.prepare(self._record.folder(one.name), config, self._record.primary)
        )
        place.remember(training.identity(config, one.task.corpus))
        batching = dataclasses.replace(
            settings.batching,
            most_microbatches=self._microbatches,
            most_segments=self._segments,
        )
        settings = dataclasses.replace(settings, batching=batching)
        load = functools.partial(learners.load_policy, config, self._base, self._mesh, self._like)
        task = dataclasses.replace(one.task, load=load)
        evaluator = functools.partial(self._evaluator, one)
        ready = prepare(task, settings, self._mesh, evaluator=evaluator)
        key = jax.random.fold_in(jax.random.key(config.seed), 1)
        state = steps.initialize(ready.loaded.trainable, self._optimizer, key, self._where)

        def finish(fitted: Fitted | None) -> None:
            if fitted is not None:
                training.hand_back(config, task, fitted, place, began)
                self._record.add(one, fitted.step)
            place.close()

        return Begun(
            walk=lambda seat: skeleton.fit(
                task, settings, place, self._mesh, self._compiled, ready, seat, quiet=True
            ),
            state=state,
            place=ready.put,
            numbers=self._numbers(one),
            finish=finish,
        )

    def _evaluator(self, one: SweepRun, learning: Learning) -> Evaluator:
        """An evaluator; runs of one rank share its program."""
        del learning
        return functools.partial(self._evaluate, self._constants(one))

    def _constants(self, one: SweepRun) -> dict[str, jax.Array]:
        """The run's numbers that do not change from step to step, on the mesh."""
        put = functools.partial(meshes.put, self._mesh, ())
        return {name: put(np.asarray(x, np.float32)) for name, x in self._own(one).items()}

    def _own(self, one: SweepRun) -> dict[str, float]:
        adapter = one.config.lora
        scale = lora.scaling(adapter.rank, adapter.alpha, adapter.rslora)
        return {"scale": scale, **self._method.numbers(one.config)}

    def _numbers(self, one: SweepRun) -> lanes.NumbersOf:
        """The run's numbers by step: the learning rate, as the run alone would have it, and the
        constants."""
        rate, _ = groups.optimization(one.config).make(one.steps)
        compiled = jax.jit(rate)
        rates = [float(compiled(np.int32(step))) for step in range(one.steps)]
        own = self._own(one)
        return lambda step: {"learning_rate": rates[step], **own}
