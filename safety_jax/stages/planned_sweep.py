"""The step of all lanes of a sweep, as stage `sweep` would compile it, on shapes alone."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from safety_jax.base.batch import Answers, Tokens
from safety_jax.planning import abstract
from safety_jax.planning.programs import Program
from safety_jax.stages import dpo_task, groups, planned_training, sweep_methods
from safety_jax.stages.planned import PlanRequest, ProgramChoice, StageProgram
from safety_jax.stages.planned_steps import PlannedStep
from safety_jax.stages.sweep_axes import Variant, variants
from safety_jax.stages.sweep_methods import Numbers
from safety_jax.training import lanes, likelihood, steps
from safety_jax.training.task import Learning, Loaded


def choose_sweep(asked: PlanRequest) -> ProgramChoice:
    runs = variants(asked.config, complete=False)
    return planned_training.choose_training(widest(asked, runs), width(asked, runs))


def width(asked: PlanRequest, runs: list[Variant]) -> int:
    """The number of lanes in use."""
    return min(int(asked.config.sweep.lanes), len(runs))


def widest(asked: PlanRequest, runs: list[Variant]) -> PlanRequest:
    """The run with the widest adapter, to which the others are padded; their other differences are
    data."""
    most = max(runs, key=lambda one: one.config.lora.rank)
    return dataclasses.replace(asked, config=most.config)


def sweep_programs(asked: PlanRequest, choice: ProgramChoice) -> list[Program]:
    """The optimizer step of every lane."""
    runs = variants(asked.config, complete=False)
    one, many = widest(asked, runs), width(asked, runs)
    step, optimizer = planned_training.planned_step(one, choice), _optimizer(one)
    pattern, where = abstract.state(step.loaded.learner, step.loaded.trainable, optimizer)
    given = abstract.stacked(pattern, many)
    names = sorted({run.config.dpo.objective for run in runs}) if "dpo" in one.config else []
    numbers = ["learning_rate", "scale"]
    if names:
        numbers += sweep_methods.objective_numbers(one.config.dpo, names)
    elif sweep_methods.weighs_early(runs):
        numbers.append("early_weight")
    lower = functools.partial(_lower, one, step, given, where, many, names, numbers)
    return [planned_training.step_program(one, choice, step, given, lower, many)]


def _optimizer(one: PlanRequest) -> Any:
    """An optimizer for its state alone, as in stage `sweep`."""
    return groups.optimization(one.config).follow(jnp.float32)


def _lower(
    one: PlanRequest,
    step: PlannedStep,
    given: steps.State,
    where: steps.State,
    many: int,
    names: list[str],
    keys: list[str],
) -> Any:
    """Args: names: the objectives of the runs, for pairs; keys: of the numbers of a run."""
    loaded, mesh = step.loaded, step.loaded.learner.execution.mesh
    optimization = groups.optimization(one.config)

    def advance(
        state: steps.State,
        frozen: Any,
        batch: Tokens | Answers,
        used: jax.Array,
        numbers: dict[str, jax.Array],
    ) -> tuple[steps.State, steps.Parts]:
        learning = _learn(one, sweep_methods.scaled(loaded, numbers), numbers, names)
        return sweep_methods.advance(learning, optimization, state, frozen, batch, used, numbers)

    numbers = {key: abstract.replicated(mesh, many, dtype=jnp.float32) for key in keys}
    compiled = lanes.make_step(advance, lanes.stacked(where), mesh)
    used = abstract.replicated(mesh)
    return compiled.lower(given, step.learning.frozen, (step.batch,) * many, used, numbers)


def _learn(one: PlanRequest, loaded: Loaded, numbers: Numbers, names: list[str]) -> Learning:
    """As the methods of a sweep; shapes need no reference."""
    mesh = loaded.learner.execution.mesh
    if not names:
        early = sweep_methods.early_weight(numbers, one.config.sft.early_tokens)
        return likelihood.learning(loaded.learner, loaded.frozen, mesh, early)
    objective = sweep_methods.shared_objective(names, numbers)
    return dpo_task.learn(one.config, mesh, loaded, objective=objective, known=lambda _: None)


SWEEPING = StageProgram(
    "trained", choose_sweep, sweep_programs, planned_training.rows_setting, microbatched=True
)
