"""The optimizer step that a run of `sft`, `dpo` or `reward` would compile, by its own config, on
shapes alone. See `planned.py`."""

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from safety_jax.base import trees
from safety_jax.base.batch import Answers, Tokens
from safety_jax.models.encoders import heads
from safety_jax.planning import abstract, formulas
from safety_jax.planning.programs import Program
from safety_jax.stages import dpo, groups, reward
from safety_jax.stages.planned import (
    PlanRequest,
    ProgramChoice,
    StageProgram,
    base_dtype,
    chosen,
    make_adapter,
    make_policy,
    make_scorer,
    number_bytes,
    training_run,
)
from safety_jax.training import judging, likelihood, policy, preference
from safety_jax.training import step as steps
from safety_jax.training.judge_model import Trainee


def row_tokens(config: ConfigDict) -> int:
    return int(config.data.row_tokens or config.data.max_length)


def example_tokens(asked: PlanRequest) -> int:
    return asked.example_tokens or int(asked.config.data.max_length)


def rows_of_step(asked: PlanRequest) -> int:
    """Rows that the examples of an optimizer step fill."""
    config = asked.config
    if not config.data.packing:
        return int(config.train.batch_size)
    whole = max(1, row_tokens(config) // example_tokens(asked))
    return math.ceil(config.train.batch_size / whole)


def choose_training(asked: PlanRequest) -> ProgramChoice:
    config, rows = asked.config, rows_of_step(asked)
    # Adapters and their moments are small; of weights that are trained there are three.
    each = base_dtype(config).itemsize if config.lora.rank > 0 else 3 * 4
    sizes = asked.own_mesh() if asked.keep else asked.mesh_for_rows(rows, each)
    given = config.train.rows_per_microbatch
    # Fewer microbatches gather weights less often: as many rows as fit, where they may be chosen.
    return chosen(asked, sizes, given if asked.keep else rows, rows)


def training_programs(asked: PlanRequest, choice: ProgramChoice) -> list[Program]:
    """The optimizer step of stages `sft`, `dpo` and `reward`."""
    config, T = asked.config, row_tokens(asked.config)
    mesh = asked.mesh(choice.mesh)
    microbatches = math.ceil(rows_of_step(asked) / choice.rows)
    step = STEPS[config.stage](asked, mesh, choice.rows, microbatches)
    rate, optimizer = groups.settings(config).optimization.make(total_steps=1000)
    given, where = abstract.state(step.trained, step.trainable, optimizer)
    run = step.trained.run
    trained = formulas.TrainedWeights(
        asked.model, run.remat, step.trained.adapter, step.chunk_tokens
    )
    parts, width = formulas.FlopParts.of(mesh.shape), number_bytes(run)
    everything = choice.rows * step.sides * microbatches
    lengths = np.array([min(T, example_tokens(asked))])
    load = formulas.training(
        trained, parts, width=width, rows=everything, row_tokens=T, microbatches=microbatches,
        flops_per_token=step.flops_per_token(lengths), live_reference=step.live,
    )  # fmt: skip
    temporaries = formulas.activations(
        trained, parts, width=width, rows=choice.rows * step.sides, row_tokens=T
    )
    exchanged = formulas.exchanged(
        asked.model, parts, width=width, tokens=everything * T,
        passes=2 + step.live, repeats=microbatches,
        reduced=abstract.bytes_on_device(step.trainable) // 4,
    )  # fmt: skip
    loops = microbatches if microbatches > 1 else 0, trained.chunks(T)
    lower = functools.partial(
        abstract.lower_step, given, where, step.frozen, step.batch, loss=step.loss,
        count=step.count, optimizer=optimizer, rate=rate,
    )  # fmt: skip
    return [
        Program(
            name=f"a step of {everything:,} rows of {T:,} tokens",
            lower=lower,
            arguments={
                "parameters": abstract.bytes_on_device((step.trainable, step.base)),
                "optimizer": abstract.bytes_on_device(given.optimizer),
                "batch": abstract.bytes_on_device(step.batch),
            },
            held={},
            unknown_trips=tuple(trips for trips in loops if trips) or (1,),
            load=load,
            temporaries=temporaries,
            exchanged=exchanged,
        )
    ]


# ---------------------------------------------------------------------------- what a step is of


@dataclasses.dataclass(frozen=True)
class PlannedStep:
    """What an optimizer step is made of, in shapes.

    Attributes:
        trained: where what is trained lives, and how it runs.
        trainable, base: weights that move, and that stand still.
        frozen: what the loss is given of the latter.
        sides: rows that belong together: 2 for pairs.
        live: the reference is computed in the step.
        chunk_tokens: see `formulas.Trained`.
        flops_per_token: of examples of some lengths, see `metrics`.
    """

    trained: policy.Policy | Trainee
    trainable: trees.Tree
    base: trees.Tree
    frozen: trees.Tree | preference.Frozen
    batch: Tokens | Answers
    loss: steps.Loss
    count: steps.Count
    sides: int
    live: bool
    chunk_tokens: int
    flops_per_token: Callable[[np.ndarray], float]


def segments(asked: PlanRequest) -> int:
    """Examples of a row."""
    return max(1, row_tokens(asked.config) // example_tokens(asked))


def tuning_step(asked: PlanRequest, mesh: Mesh, rows: int, microbatches: int) -> PlannedStep:
    trained = make_policy(asked, mesh)
    trainable, base = abstract.trained(trained, base_dtype(asked.config))
    batch = abstract.tokens(mesh, (microbatches, rows), row_tokens(asked.config))
    return PlannedStep(
        trained, trainable, base, base, batch, likelihood.make_loss(trained),
        likelihood.count, sides=1, live=False, chunk_tokens=trained.chunk_tokens,
        flops_per_token=trained.flops_per_token,
    )  # fmt: skip


def preference_step(asked: PlanRequest, mesh: Mesh, rows: int, microbatches: int) -> PlannedStep:
    config = asked.config
    trained = make_policy(asked, mesh)
    trainable, base = abstract.trained(trained, base_dtype(config))
    live = config.dpo.reference == "live"
    loss = preference.make_loss(
        trained,
        dpo.make_objective(config.dpo),
        live=live,
        batch_size=config.train.batch_size,
    )
    batch = abstract.answers(
        mesh, microbatches, rows, 2, row_tokens(config), segments(asked),
        reference=config.dpo.reference == "cached",
    )  # fmt: skip
    return PlannedStep(
        trained, trainable, base, preference.Frozen(base, None), batch, loss, preference.count,
        sides=2, live=live, chunk_tokens=trained.chunk_tokens,
        flops_per_token=trained.flops_per_token,
    )  # fmt: skip


def judge_step(asked: PlanRequest, mesh: Mesh, rows: int, microbatches: int) -> PlannedStep:
    config, T = asked.config, row_tokens(asked.config)
    scorer = make_scorer(asked.model, T)
    adapter = make_adapter(config, functools.partial(heads.targets, scorer))
    trainee = Trainee(scorer, training_run(asked, mesh), Path(config.model.path), adapter, False)
    trainable, base = abstract.judge(trainee, base_dtype(config))
    sides = 2 if config.reward.kind in judging.PAIRED else 1
    batch = abstract.answers(mesh, microbatches, rows, sides, T, segments(asked), reference=False)
    objective = reward.make_objective(config.reward)
    loss = judging.make_loss(trainee, objective, batch_size=config.train.batch_size)
    return PlannedStep(
        trainee, trainable, base, base, batch, loss, judging.count, sides=sides, live=False,
        chunk_tokens=0, flops_per_token=trainee.flops_per_token,
    )  # fmt: skip


STEPS: dict[str, Callable[[PlanRequest, Mesh, int, int], PlannedStep]] = {
    "sft": tuning_step,
    "dpo": preference_step,
    "reward": judge_step,
}
TRAINING = StageProgram("trained", choose_training, training_programs)
