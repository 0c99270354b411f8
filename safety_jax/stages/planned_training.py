"""The optimizer step that a run of a training stage would compile, on shapes alone. See
`planned.py`."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from safety_jax.base import memory
from safety_jax.models import llama, lora, quantised
from safety_jax.planning import abstract, formulas
from safety_jax.planning.programs import Program
from safety_jax.stages import fits, groups, learners
from safety_jax.stages.planned import (
    PlanRequest,
    ProgramChoice,
    StageProgram,
    base_bytes,
    chosen,
    kernel_bytes,
    make_adapter,
    number_bytes,
)
from safety_jax.stages.planned_steps import (
    STEPS,
    PlannedStep,
    example_tokens,
    is_constrained,
    judged_sides,
    row_tokens,
)
from safety_jax.training import fitting, steps
from safety_jax.training.fitting import Needs, RowSettings
from safety_jax.training.footprint import FlopParts, TrainedModel

ROWS_KEY = "train.rows_per_microbatch"


def rows_of_step(asked: PlanRequest) -> int:
    """Rows of an optimizer step."""
    config = asked.config
    if not config.data.packing:
        return int(config.train.batch_size)
    whole = max(1, row_tokens(config) // example_tokens(asked))
    return math.ceil(config.train.batch_size / whole)


def choose_training(asked: PlanRequest, lanes: int = 1) -> ProgramChoice:
    """Args: lanes: runs of a sweep that are trained together, each on its own rows."""
    config, rows = asked.config, rows_of_step(asked)
    # Adapters and their moments are small; a weight that is trained has two moments beside it.
    each = base_bytes(asked) if config.lora.rank > 0 else 3.0 * 4
    sizes = asked.own_mesh() if asked.keep else asked.mesh_for_rows(rows, each)
    given, remat = config.train.rows_per_microbatch, config.model.remat
    # Fewer microbatches gather weights less often: if rows may be chosen, as many as fit.
    kept = asked.keep and given != fits.AUTO
    choice = chosen(sizes, given if kept else rows, rows, free=not kept, key=ROWS_KEY)
    if remat == fits.AUTO:
        return dataclasses.replace(choice, remat=choose_remat(asked, choice, lanes))
    return dataclasses.replace(choice, remat=remat)


def choose_remat(asked: PlanRequest, choice: ProgramChoice, lanes: int) -> str:
    """The rematerialisation that a run with this memory would choose, by formula."""
    T, rows = row_tokens(asked.config), rows_of_step(asked)
    best = fitting.choose(
        RowSettings(None if choice.free else choice.rows, T, None, T),
        Needs(np.full((rows, 1), T), [np.arange(rows)], T, packing=True),
        sizes_of(asked, lanes),
        FlopParts.of(choice.mesh._asdict()),
        memory=memory.SHARE * asked.memory,
        platform="tpu",
    )
    return best.fit.remat


def sizes_of(asked: PlanRequest, lanes: int = 1) -> TrainedModel:
    """Sizes of the trained model for formulas, of `lanes` runs together."""
    one = _sizes_of_one(asked)
    return dataclasses.replace(
        one, adapter_weights=lanes * one.adapter_weights, sides=lanes * one.sides
    )


def _sizes_of_one(asked: PlanRequest) -> TrainedModel:
    config, model, stage = asked.config, asked.model, asked.config.stage
    sides = 1 if stage == "sft" else judged_sides(config) if stage == "reward" else 2
    if stage != "reward":
        compared = stage == "dpo" or is_constrained(config)
        survey = stage == "kto" or (compared and config[stage].reference == "live")
        return learners.trained_policy(
            config, model, sides=1 if stage == "kto" else sides, survey=survey
        )
    adapter = make_adapter(asked, functools.partial(lora.targets, known=llama.targets(model)))
    return learners.trained_model(
        config,
        model,
        llama.parameters(model),
        () if adapter is None else adapter.targets,
        vocabulary=0,
        sides=sides,
        survey=False,
        kernels=config.model.base,
    )


def training_programs(asked: PlanRequest, choice: ProgramChoice) -> list[Program]:
    """The optimizer step of a training stage."""
    step = planned_step(asked, choice)
    rate, optimizer = groups.optimization(asked.config).make(total_steps=1000)
    given, where = abstract.state(step.loaded.learner, step.loaded.trainable, optimizer)
    lower = functools.partial(
        abstract.lower_step, given, where, step.learning, step.batch,
        optimizer=optimizer, rate=rate,
    )  # fmt: skip
    return [step_program(asked, choice, step, given, lower)]


def rows_setting(asked: PlanRequest, rows: int) -> str:
    return f"{ROWS_KEY}={rows}"


def planned_step(asked: PlanRequest, choice: ProgramChoice) -> PlannedStep:
    mesh = asked.mesh(choice.mesh)
    return STEPS[asked.config.stage](asked, mesh, choice, microbatches_of(asked, choice))


def microbatches_of(asked: PlanRequest, choice: ProgramChoice) -> int:
    return math.ceil(rows_of_step(asked) / choice.rows)


def step_program(
    asked: PlanRequest,
    choice: ProgramChoice,
    step: PlannedStep,
    given: steps.State,
    lower: Callable[[], Any],
    lanes: int = 1,
) -> Program:
    """A step with its figures by formula.

    Args:
        given: its state, of all lanes.
        lanes: runs that take the step together, each on its own rows.
    """
    config, T = asked.config, row_tokens(asked.config)
    learner, frozen = step.loaded.learner, step.loaded.frozen
    execution, microbatches = learner.execution, microbatches_of(asked, choice)
    trained = formulas.TrainedWeights(
        asked.model, execution.remat, learner.adapter, step.chunk_tokens
    )
    parts, width = FlopParts.of(execution.mesh.shape), number_bytes(execution)
    needed = lanes * rows_of_step(asked) * step.sides
    # The last microbatch is filled up with empty rows, which are computed, too.
    computed = lanes * choice.rows * step.sides * microbatches
    lengths = np.array([min(T, example_tokens(asked))])
    load = formulas.training(
        trained, parts, width=width, rows=computed, needed=needed, row_tokens=T,
        microbatches=microbatches,
        flops_per_token=learner.flops_per_token(lengths), live_reference=step.survey,
        dequantised=config.model.base != quantised.STORED, lanes=lanes,
    )  # fmt: skip
    temporaries = sizes_of(asked, lanes).temporaries(
        parts, remat=execution.remat, rows=choice.rows, row_tokens=T
    )
    # Gradients, once more where they are summed over microbatches.
    gradients = abstract.bytes_on_device(given.trainable) * (1 + (microbatches > 1))
    exchanged = formulas.exchanged(
        asked.model, parts, width=width, tokens=computed * T,
        passes=2 + step.survey, repeats=microbatches,
        reduced=abstract.bytes_on_device(given.trainable) // 4,
        kernel_bytes=kernel_bytes(asked.model, config.model.base, width),
        full=learner.adapter is None,
    )  # fmt: skip
    loops = microbatches if microbatches > 1 else 0, trained.chunks(T)
    runs = f" of {lanes} runs" if lanes > 1 else ""
    return Program(
        name=f"a step of {needed:,} rows of {T:,} tokens{runs}",
        lower=lower,
        arguments={
            "parameters": abstract.bytes_on_device((given.trainable, frozen)),
            "optimizer": abstract.bytes_on_device(given.optimizer),
            "batch": lanes * abstract.bytes_on_device(step.batch),
        },
        held={},
        unknown_trips=tuple(trips for trips in loops if trips) or (1,),
        load=load,
        temporaries=temporaries + gradients,
        exchanged=exchanged,
    )


TRAINING = StageProgram(
    "trained", choose_training, training_programs, rows_setting, microbatched=True
)
