"""The parts of each training stage's optimizer step, as shapes alone. See `planned.py`."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

from jax.sharding import Mesh
from ml_collections import ConfigDict

from safety_jax.base.batch import Answers, Tokens
from safety_jax.models.encoders import heads
from safety_jax.planning import abstract
from safety_jax.stages import dpo_task, kto, orpo, reward, sft_task
from safety_jax.stages.planned import (
    PlanRequest,
    ProgramChoice,
    base_dtype,
    make_adapter,
    make_policy,
    make_scorer,
    training_run,
)
from safety_jax.training import constrained, judging, likelihood, policy, preference
from safety_jax.training.judge_model import Trainee
from safety_jax.training.task import Learning, Loaded


def row_tokens(config: ConfigDict) -> int:
    return int(config.data.row_tokens or config.data.max_length)


def example_tokens(asked: PlanRequest) -> int:
    return asked.example_tokens or int(asked.config.data.max_length)


def judged_sides(config: ConfigDict) -> int:
    return 2 if config.reward.kind in judging.PAIRED else 1


@dataclasses.dataclass(frozen=True)
class PlannedStep:
    """The parts of an optimizer step, as shapes.

    Attributes:
        loaded: the model, with its trainable and its frozen tree.
        learning: as the stage makes it.
        sides: rows of an example that have a gradient: 2 for pairs.
        survey: the step makes another forward pass over as many rows: for a live reference, or
            for KTO's reference point.
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
    early = sft_task.early_weight(config.sft) if config.stage == "sft" else None
    learning = likelihood.learning(loaded.learner, loaded.frozen, mesh, early)
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
            reference=lambda _: None,  # shapes need no values
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
    known = lambda _: None  # noqa: E731  shapes need no values
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
