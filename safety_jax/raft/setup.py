"""What a run of RAFT consists of: its plan, its parts, and what passes from round to round."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from safety_jax.base import compilation, trees
from safety_jax.data.records import Record
from safety_jax.models.decoding import generation
from safety_jax.raft import judging, round_measures, sampling, selection
from safety_jax.raft.prompt_pool import Pool, Prompt
from safety_jax.training.policy import Policy

RoundSummary = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Weights:
    """The policy between two rounds."""

    trainable: trees.Tree
    frozen: trees.Tree


@dataclasses.dataclass(frozen=True)
class Tuned:
    """What fine-tuning on a round's selection left.

    Attributes:
        weights: for the next round.
        steps, tokens, flops: optimizer steps, tokens learned from, and what they cost.
        figures: the loop's last numbers.
    """

    weights: Weights
    steps: int
    tokens: int
    flops: float
    figures: Mapping[str, float]


@runtime_checkable
class Tuner(Protocol):
    """Fine-tunes in a round's folder; the stage's, for it knows the config."""

    def tune(
        self, path: Path, number: int, records: Sequence[Record], weights: Weights
    ) -> Tuned | None:
        """None when asked to stop before the end."""
        ...

    def restore(self, path: Path, number: int, weights: Weights) -> Weights:
        """What `tune` left in the folder of a finished round."""
        ...


@dataclasses.dataclass(frozen=True)
class RaftPlan:
    """What a run is, apart from its models.

    Attributes:
        path: the folder of the rounds.
        pool, held_out: prompts to learn from, and those answered after every round.
        rounds: at most so many.
        patience: rounds without a rise of the selected reward before the run ends; 0: never.
        rule, limits: how candidates are chosen, and what is alarming.
        block: prompts sampled between two writes.
        reference_answers: the answer of a prompt's row is one more candidate.
        people: choices come from a file that people fill in.
        keep_checkpoints: whether weights are made of those of all rounds (see `Tuner.restore`).
    """

    path: Path
    pool: Pool
    held_out: Sequence[Prompt]
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
    """What a run works with.

    Attributes:
        sample, answer: how candidates are sampled, and how held-out prompts are answered.
        first: the model at the start; None where nothing asks for log p0.
        say: tells the person who watches.
    """

    policy: Policy
    sample: generation.Setup
    answer: generation.Setup
    judges: judging.Judges
    tuner: Tuner
    first: sampling.First | None
    compiled: compilation.Counter
    say: Callable[[str], None]
