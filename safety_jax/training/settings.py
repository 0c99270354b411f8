"""The numbers of a training run, whatever its method: how much, how long, and what is kept."""

import dataclasses
import math

from safety_jax.base.errors import ConfigError
from safety_jax.data import loader
from safety_jax.data.prefixes import Shared
from safety_jax.training import optim

MOST_STEPS = 10_000_000  # of a run; all are planned before the first
DIRECTIONS = {"lowest": False, "highest": True}  # of a metric: whether more is better


@dataclasses.dataclass(frozen=True)
class Batching:
    """How examples become batches, see `loader.Loader`.

    Attributes:
        batch_size: examples of an optimizer step.
        row_tokens: tokens of a packed row.
        seed: of the order.
        most_microbatches: None: as many as the fullest step fills.
        most_segments: likewise, of examples in a row; of batches to learn from and held out.
    """

    batch_size: int
    rows_per_microbatch: int
    row_tokens: int
    packing: bool
    prefetch_steps: int
    seed: int
    most_microbatches: int | None = None
    most_segments: int | None = None

    def rows(self, shared: Shared | None, sides: int, parts: int) -> int:
        """Rows of a microbatch over all devices, each of which holds one side of examples, or all:
        of longer rows no more than there is memory for.

        Args:
            parts: devices that share out rows.
        """
        if shared is None:
            return self.rows_per_microbatch
        return shared_rows(self.rows_per_microbatch, self.row_tokens, shared, sides, parts)


def shared_rows(rows: int, row_tokens: int, shared: Shared, sides: int, parts: int) -> int:
    """Rows of all sides that take the memory of `rows` of one side each, see `Batching.rows`."""
    return max(parts, rows * sides * row_tokens // shared.row_tokens // parts * parts)


@dataclasses.dataclass(frozen=True)
class Budget:
    """How long a run trains: one of these limits is set, the others are 0."""

    max_steps: int
    max_flops: float
    epochs: float

    def steps(self, examples: int, batch_size: int, flops_per_example: float | None) -> int:
        """Optimizer steps.

        Raises:
            ConfigError: none of the limits is set, or two that exclude each other; or more steps
                than can be planned.
        """
        found = self._steps(examples, batch_size, flops_per_example)
        if found > MOST_STEPS:
            raise ConfigError(
                f"train.max_steps {self.max_steps}, train.epochs {self.epochs:g}, train.max_flops "
                f"{self.max_flops:g}: the run would have {found:.3g} steps; expected at most "
                f"{MOST_STEPS:,}"
            )
        return found

    def _steps(self, examples: int, batch_size: int, flops_per_example: float | None) -> int:
        if self.max_flops:
            if self.max_flops < 0 or self.max_steps > 0 or flops_per_example is None:
                raise ConfigError(
                    f"train.max_flops {self.max_flops:g}, train.max_steps {self.max_steps}: "
                    "expected one of them above 0 and the other 0"
                )
            return max(1, round(self.max_flops / (flops_per_example * batch_size)))
        if self.max_steps > 0:
            return self.max_steps
        if self.epochs <= 0:
            raise ConfigError(
                f"train.max_steps {self.max_steps} and train.epochs {self.epochs}: set one above 0"
            )
        return math.ceil(self.epochs * loader.steps_per_epoch(examples, batch_size))


@dataclasses.dataclass(frozen=True)
class Saving:
    """When checkpoints are written, which are kept, and which is exported.

    Attributes:
        best_metric: of evaluations, with their `eval/`; `best_is` lowest or highest.
        export: "last" or "best".
    """

    every_steps: int
    keep_last: int
    best_metric: str
    best_is: str
    export: str


@dataclasses.dataclass(frozen=True)
class Logging:
    """When metrics are written, and where to beside `metrics.jsonl`."""

    every_steps: int
    eval_every_steps: int
    tensorboard: bool
    wandb: bool


@dataclasses.dataclass(frozen=True)
class Settings:
    """The numbers of a run."""

    batching: Batching
    budget: Budget
    optimization: optim.Optimization
    saving: Saving
    logging: Logging
