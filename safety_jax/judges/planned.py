"""Judges before their weights are read, and checks of their config entries."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh

from safety_jax.base.errors import ConfigError
from safety_jax.judges import combine
from safety_jax.judges.judge import Judge, JudgeCard
from safety_jax.models import quantised
from safety_jax.models.execution import float_type
from safety_jax.models.folders import hub

Spec = Mapping[str, Any]
DESCRIPTION = "judge.json"  # beside the weights of a judge that stage `reward` trained


@dataclasses.dataclass(frozen=True)
class Resources:
    """Devices and precision of judges.

    Attributes:
        parameter_dtype, compute_dtype: of weights and of activations, by name.
        kernels: the format of judges' kernels, see `heads.kernels_of`.
        attention: a backend of `models/attention.py`, for causal trunks.
        tokens_per_batch: padded tokens of a batch, over all devices.
        special_text: see `sequence.check_special`.
    """

    mesh: Mesh
    parameter_dtype: str
    compute_dtype: str
    attention: str
    tokens_per_batch: int
    special_text: str = "text"
    kernels: str = quantised.STORED

    def stored(self) -> jnp.dtype:
        return float_type("score.parameter_dtype", self.parameter_dtype)

    def computed(self) -> jnp.dtype:
        return float_type("score.compute_dtype", self.compute_dtype)

    def precision(self, kernels: str) -> str:
        """The number types for a judge's card.

        Args:
            kernels: the format of its kernels.
        """
        held = "" if kernels == quantised.STORED else f" ({kernels} kernels)"
        return f"{self.parameter_dtype} weights{held}, {self.compute_dtype} activations"


@dataclasses.dataclass(frozen=True)
class Rewording:
    """A judge with a reworded form of the same meaning, for audits.

    Attributes:
        make: makes it from the judge itself, whose weights it shares.
    """

    card: JudgeCard
    make: Callable[[Judge], Judge]


@dataclasses.dataclass(frozen=True)
class PlannedJudge:
    """A judge before its weights are read.

    Attributes:
        load: reads them, and returns the judge.
        combination: for a combined judge, how to make its scores from those of others.
        reworded: None if the judge's form has no words of its own.
        log_odds: whether its scores are log-odds of harm, by its training loss.
    """

    card: JudgeCard
    load: Callable[[], Judge]
    combination: combine.Combination | None
    reworded: Rewording | None = None
    log_odds: bool = False


def resolve_folder(name: str, spec: Spec) -> Path:
    """The model folder of an entry."""
    if not spec["path"]:
        raise ConfigError(
            f"score.judges.{name}.path is empty; expected a Hugging Face folder, hub id or "
            "GGUF file"
        )
    return hub.resolve(spec["path"])


def described(folder: Path) -> Mapping[str, Any]:
    """The description that stage `reward` wrote beside the weights of a judge.

    Raises:
        ConfigError: stage `reward` did not write the folder.
        CheckpointError: the file is damaged.
    """
    if not (folder / DESCRIPTION).is_file():
        raise ConfigError(
            f"{folder} holds no {DESCRIPTION}; expected a judge that stage reward exported; any "
            "other model needs its own entry in score.judges"
        )
    return hub.read_json(folder / DESCRIPTION)


def max_tokens(name: str, wanted: int, positions: int) -> int:
    """`wanted`, or the model's positions if it is 0."""
    if not 0 <= wanted <= positions:
        raise ConfigError(
            f"score.judges.{name}.max_tokens is {wanted}; expected 1 to {positions}, the positions "
            "of the model, or 0 for all of them"
        )
    return wanted or positions


def numbers(name: str, key: str, value: Any, count: int) -> tuple[float, ...]:
    """A tuple of `count` numbers, or an empty one; configs cannot hold None."""
    if len(value) not in (0, count) or not all(isinstance(v, int | float) for v in value):
        raise ConfigError(
            f"score.judges.{name}.{key} is {value!r}; expected {count} number(s) in a tuple, or ()"
        )
    return tuple(float(number) for number in value)
