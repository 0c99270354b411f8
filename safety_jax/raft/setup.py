"""The plan of a RAFT run, its parts, and the weights that pass from round to round."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from safety_jax.base import compilation, trees
from safety_jax.data.records import Record
from safety_jax.models.decoding import generation
from safety_jax.raft import judging, round_measures, sampling, selection
from safety_jax.raft.prompt_pool import HeldOut, Pool
from safety_jax.training.policy import Policy

RoundSummary = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Weights:
    """The policy between two rounds."""

    trainable: trees.Tree
    frozen: trees.Tree


@dataclasses.dataclass(frozen=True)
class Tuned:
    """The result of fine-tuning on a round's selection.

    Attributes:
        weights: for the next round.
        steps, tokens, flops: optimizer steps, trained tokens and model FLOPs.
        figures: the last metrics of the training loop.
        remark: a warning about a round that hardly trains; None if it does.
    """

    weights: Weights
    steps: int
    tokens: int
    flops: float
    figures: Mapping[str, float]
    remark: str | None = None


@runtime_checkable
class Tuner(Protocol):
    """Fine-tunes in a round's folder; the stage implements it, because it knows the config."""

    def tune(
        self, path: Path, number: int, records: Sequence[Record], weights: Weights
    ) -> Tuned | None:
        """Trains on the records; None if the run is asked to stop before the end."""
        ...

    def restore(self, path: Path, number: int, weights: Weights) -> Weights:
        """The weights that `tune` left in the folder of a finished round."""
        ...


@dataclasses.dataclass(frozen=True)
class RaftPlan:
    """The settings of a run, apart from its models.

    Attributes:
        path: the folder of the rounds.
        pool, held_out: prompts to learn from, and prompts answered after every round.
        rounds: their greatest number.
        patience: the run ends after so many rounds without a rise of the selected reward; 0: never.
        rule, limits: how candidates are chosen, and which figures raise an alarm.
        block: prompts sampled between two writes.
        reference_answers: whether the answer of a prompt's row is one more candidate.
        people: whether people make the choices, in a file.
        keep_checkpoints: whether a round's weights build on the checkpoints of all rounds before
            it, because adapters are merged into the base after each.
    """

    path: Path
    pool: Pool
    held_out: HeldOut
    seed: int
    rounds: int
    patience: int
    rule: selection.SelectionRule
    limits: round_measures.AlarmLimits
    block: int
    reference_answers: bool
    people: bool
    keep_checkpoints: bool


@dataclasses.dataclass(frozen=True)
class RaftParts:
    """The models and functions of a run.

    Attributes:
        sample, answer: how candidates are sampled, and how held-out prompts are answered.
        start_model: gives log p0; None if nothing needs it.
        say: prints a message to the user.
    """

    policy: Policy
    sample: generation.Setup
    answer: generation.Setup
    judges: judging.Judges
    tuner: Tuner
    start_model: sampling.StartModel | None
    compiled: compilation.Counter
    say: Callable[[str], None]
