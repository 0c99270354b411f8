"""The optimizer step that a run of a training stage would compile, by its own config, on shapes
alone. See `planned.py`."""

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from safety_jax.base import memory
from safety_jax.base.batch import Answers, Tokens
from safety_jax.models import llama, lora, quantised
from safety_jax.models.encoders import heads
from safety_jax.planning import abstract, formulas
from safety_jax.planning.programs import Program
from safety_jax.stages import dpo_task, fits, groups, kto, learners, orpo, reward, sft_task
from safety_jax.stages.planned import (
    PlanRequest,
    ProgramChoice,
    StageProgram,
    base_bytes,
    base_dtype,
    chosen,
    kernel_bytes,
    make_adapter,
    make_policy,
    make_scorer,
    number_bytes,
    training_run,
)
from safety_jax.training import constrained, fitting, judging, likelihood, policy, preference
from safety_jax.training.fitting import Needs, RowSettings
from safety_jax.training.footprint import FlopParts, TrainedModel
from safety_jax.training.judge_model import Trainee
from safety_jax.training.task import Learning, Loaded


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
    each = base_bytes(asked) if config.lora.rank > 0 else 3.0 * 4
    sizes = asked.own_mesh() if asked.keep else asked.mesh_for_rows(rows, each)
    given, remat = config.train.rows_per_microbatch, config.model.remat
    # Fewer microbatches gather weights less often: as many rows as fit, where they may be chosen.
    kept = asked.keep and given != fits.AUTO
    choice = chosen(sizes, given if kept else rows, rows, free=not kept)
    if remat == fits.AUTO:
        return dataclasses.replace(choice, remat=choose_remat(asked, choice))
    return dataclasses.replace(choice, remat=remat)


def choose_remat(asked: PlanRequest, choice: ProgramChoice) -> str:
    """What a run with this memory would choose, by formula."""
    T, rows = row_tokens(asked.config), rows_of_step(asked)
    best = fitting.choose(
        RowSettings(None if choice.free else choice.rows, T, None, T),
        Needs(np.full((rows, 1), T), [np.arange(rows)], T, packing=True),
        sizes_of(asked),
        FlopParts.of(choice.mesh._asdict()),
        memory=memory.SHARE * asked.memory,
        platform="tpu",
    )
    return best.fit.remat


def sizes_of(asked: PlanRequest) -> TrainedModel:
    """The model as the run trains it, for formulas."""
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


def judged_sides(config: ConfigDict) -> int:
    return 2 if config.reward.kind in judging.PAIRED else 1


def training_programs(asked: PlanRequest, choice: ProgramChoice) -> list[Program]:
    """The optimizer step of a training stage."""
    config, T = asked.config, row_tokens(asked.config)
    mesh = asked.mesh(choice.mesh)
    microbatches = math.ceil(rows_of_step(asked) / choice.rows)
    step = STEPS[config.stage](asked, mesh, choice, microbatches)
    rate, optimizer = groups.optimization(config).make(total_steps=1000)
    learner, trainable, frozen = step.loaded.learner, step.loaded.trainable, step.loaded.frozen
    given, where = abstract.state(learner, trainable, optimizer)
    run = learner.run
    trained = formulas.TrainedWeights(asked.model, run.remat, learner.adapter, step.chunk_tokens)
    parts, width = FlopParts.of(mesh.shape), number_bytes(run)
    everything = choice.rows * step.sides * microbatches
    lengths = np.array([min(T, example_tokens(asked))])
    load = formulas.training(
        trained, parts, width=width, rows=everything, row_tokens=T, microbatches=microbatches,
        flops_per_token=learner.flops_per_token(lengths), live_reference=step.survey,
        dequantised=config.model.base != quantised.STORED,
    )  # fmt: skip
    temporaries = sizes_of(asked).temporaries(
        parts, remat=run.remat, rows=choice.rows, row_tokens=T
    )
    exchanged = formulas.exchanged(
        asked.model, parts, width=width, tokens=everything * T,
        passes=2 + step.survey, repeats=microbatches,
        reduced=abstract.bytes_on_device(trainable) // 4,
        kernel_bytes=kernel_bytes(asked.model, config.model.base, width),
    )  # fmt: skip
    loops = microbatches if microbatches > 1 else 0, trained.chunks(T)
    lower = functools.partial(
        abstract.lower_step, given, where, step.learning, step.batch,
        optimizer=optimizer, rate=rate,
    )  # fmt: skip
    return [
        Program(
            name=f"a step of {everything:,} rows of {T:,} tokens",
            lower=lower,
            arguments={
                "parameters": abstract.bytes_on_device((trainable, frozen)),
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
        loaded: the model; its trees are of weights that move and that stand still.
        learning: the method's, as its stage makes it.
        sides: rows of an example that the gradient goes through: 2 for pairs.
        survey: the step makes another forward pass over as many rows: a reference that is computed
            in the step, or KTO's reference point.
        chunk_tokens: see `formulas.TrainedWeights`.
    """

    loaded: Loaded
    learning: Learning
    batch: Tokens | Answers
    sides: int
    survey: bool
    chunk_tokens: int


def segments(asked: PlanRequest) -> int:
    """Examples of a row."""
    return max(1, row_tokens(asked.config) // example_tokens(asked))


def load_policy(asked: PlanRequest, mesh: Mesh, remat: str) -> Loaded[policy.Policy]:
    trained = make_policy(asked, mesh, remat)
    config = asked.config
    return Loaded(trained, *abstract.trained(trained, base_dtype(config), config.model.base))


def tuning_step(
    asked: PlanRequest, mesh: Mesh, choice: ProgramChoice, microbatches: int
) -> PlannedStep:
    config, T = asked.config, row_tokens(asked.config)
    loaded = load_policy(asked, mesh, choice.remat)
    learning = likelihood.learning(loaded.learner, loaded.frozen, mesh)
    batch: Tokens | Answers = abstract.tokens(mesh, (microbatches, choice.rows), T)
    constrains = is_constrained(config)
    if constrains:
        live = config.sft.reference == "live"
        learning = constrained.learning(
            loaded.learner,
            sft_task.make_betas(config.sft),
            preference.Frozen(loaded.frozen, None),
            mesh,
            live=live,
            reference=lambda _: None,  # what a reference says is no shape
        )
        batch = abstract.answers(
            mesh, microbatches, choice.rows, 1, T, segments(asked), reference=not live
        )
    return PlannedStep(
        loaded,
        learning,
        batch,
        sides=1,
        survey=constrains and config.sft.reference == "live",
        chunk_tokens=loaded.learner.chunk_tokens,
    )


def is_constrained(config: ConfigDict) -> bool:
    return config.stage == "sft" and config.sft.objective == sft_task.CONSTRAINED


def answers_step(
    asked: PlanRequest, mesh: Mesh, choice: ProgramChoice, microbatches: int
) -> PlannedStep:
    """The step of stages `dpo`, `kto` and `orpo`: rows of two sides."""
    config, stage = asked.config, asked.config.stage
    loaded = load_policy(asked, mesh, choice.remat)
    known = lambda _: None  # noqa: E731  what a reference says is no shape
    if stage == "kto":
        learning = kto.learn(config, mesh, loaded, known=known)
    elif stage == "orpo":
        learning = orpo.learn(config, mesh, orpo.make_objective(config.orpo.weight), loaded)
    else:
        learning = preference.learning(
            loaded.learner,
            dpo_task.make_objective(config.dpo),
            preference.Frozen(loaded.frozen, None),
            mesh,
            live=config.dpo.reference == "live",
            batch_size=config.train.batch_size,
            reference=known,
            say=print,
        )
    cached = stage != "orpo" and config[stage].reference == "cached"
    batch = abstract.answers(
        mesh, microbatches, choice.rows, 2, row_tokens(config), segments(asked), reference=cached,
        weights=stage == "dpo" and config.dpo.objective == dpo_task.WEIGHTED,
    )  # fmt: skip
    return PlannedStep(
        loaded,
        learning,
        batch,
        sides=1 if stage == "kto" else 2,
        survey=stage == "kto" or (stage == "dpo" and config.dpo.reference == "live"),
        chunk_tokens=loaded.learner.chunk_tokens,
    )


def judge_step(
    asked: PlanRequest, mesh: Mesh, choice: ProgramChoice, microbatches: int
) -> PlannedStep:
    config, T = asked.config, row_tokens(asked.config)
    scorer = make_scorer(asked.model, T)
    adapter = make_adapter(asked, functools.partial(heads.targets, scorer))
    trainee = Trainee(
        scorer, training_run(asked, mesh, choice.remat), Path(config.model.path), adapter, False
    )
    loaded = Loaded(trainee, *abstract.judge(trainee, base_dtype(config), config.model.base))
    kind, sides = config.reward.kind, judged_sides(config)
    learning = judging.learning(
        trainee,
        reward.make_objective(config.reward),
        loaded.frozen,
        mesh,
        kind=kind,
        batch_size=config.train.batch_size,
    )
    batch = abstract.answers(
        mesh, microbatches, choice.rows, sides, T, segments(asked), reference=False
    )
    return PlannedStep(loaded, learning, batch, sides=sides, survey=False, chunk_tokens=0)


STEPS: dict[str, Callable[[PlanRequest, Mesh, ProgramChoice, int], PlannedStep]] = {
    "sft": tuning_step,
    "dpo": answers_step,
    "kto": answers_step,
    "orpo": answers_step,
    "reward": judge_step,
}
TRAINING = StageProgram("trained", choose_training, training_programs)
