"""The numbers of a training run, the same for all methods: batches, length, saving, logging."""

import dataclasses
import math

from safety_jax.base.errors import ConfigError
from safety_jax.data import loader
from safety_jax.data.prefixes import Shared
from safety_jax.training import optim

MOST_STEPS = 10_000_000  # in a run, because all are planned before the first
FEWEST_STEPS = 5  # of a budget of compute; a whole number of fewer may be off by over 10 %
DIRECTIONS = {"lowest": False, "highest": True}  # whether a higher metric is better


@dataclasses.dataclass(frozen=True)
class Batching:
    """How examples become batches, see `loader.Loader`.

    Attributes:
        batch_size: examples in an optimizer step.
        row_tokens: tokens in a packed row.
        seed: determines the order of examples.
        most_microbatches: microbatches that the compiled step has room for; None: as many as the
            fullest step fills.
        most_segments: examples that a row has room for, in training and held-out batches; None: as
            many as the fullest row holds.
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
        """Rows in a microbatch over all devices. Shared rows, which are longer, are so many that
        they take the same memory.

        Args:
            parts: the number of devices that rows are divided over.
        """
        if shared is None:
            return self.rows_per_microbatch
        return shared_rows(self.rows_per_microbatch, self.row_tokens, shared, sides, parts)


def shared_rows(rows: int, row_tokens: int, shared: Shared, sides: int, parts: int) -> int:
    """How many rows that hold all sides take as much memory as `rows` rows for each side."""
    return max(parts, rows * sides * row_tokens // shared.row_tokens // parts * parts)


@dataclasses.dataclass(frozen=True)
class Budget:
    """How long a run trains: `max_steps` or `max_flops` if one is above 0, else `epochs`.

    Attributes:
        most_epochs: the most passes over the examples that `max_flops` may pay for.
    """

    max_steps: int
    max_flops: float
    epochs: float
    most_epochs: float = math.inf

    def steps(self, examples: int, batch_size: int, flops_per_example: float | None) -> int:
        """The number of optimizer steps.

        Raises:
            ConfigError: none of the limits is above 0, or both `max_steps` and `max_flops` are, or
                the run has more than `MOST_STEPS`.
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
            paid = self._paid(examples, batch_size, flops_per_example)
            return max(1, round(min(paid, self._most_steps(examples, batch_size))))
        if self.max_steps > 0:
            return self.max_steps
        if self.epochs <= 0:
            raise ConfigError(
                f"train.max_steps {self.max_steps} and train.epochs {self.epochs}: set one above 0"
            )
        return math.ceil(self.epochs * loader.steps_per_epoch(examples, batch_size))

    def _most_steps(self, examples: int, batch_size: int) -> float:
        return self.most_epochs * loader.steps_per_epoch(examples, batch_size)

    def _paid(self, examples: int, batch_size: int, flops_per_example: float) -> float:
        """The number of steps that `max_flops` pays for, which is not a whole one.

        The last step of an epoch is cheaper where it has fewer than `batch_size` examples: with 10
        of them in batches of 8, what 20 examples cost pays for 4 steps.
        """
        epochs, left = divmod(self.max_flops / flops_per_example, examples)
        last = (examples - 1) % batch_size + 1
        whole = examples - last
        within = (
            left / batch_size if left <= whole else (whole / batch_size + (left - whole) / last)
        )
        return epochs * loader.steps_per_epoch(examples, batch_size) + within

    def remark(self, examples: int, batch_size: int, flops_per_example: float | None) -> str | None:
        """A warning about a `max_flops` that pays for hardly any step, or for more passes than the
        run takes; else None."""
        if not self.max_flops or flops_per_example is None:
            return None
        paid, most = (
            self._paid(examples, batch_size, flops_per_example),
            self._most_steps(examples, batch_size),
        )
        if paid > most:
            return (
                f"train.max_flops {self.max_flops:g} (in a recipe, from recipe.max_flops) pays for "
                f"{self.most_epochs * paid / most:.3g} passes over {examples:,} examples, and the "
                f"run takes {self.most_epochs:g}: more would only learn them by heart"
            )
        if paid >= FEWEST_STEPS:
            return None
        return (
            f"train.max_flops {self.max_flops:g} (in a recipe, from recipe.max_flops) pays for "
            f"{paid:.2g} steps of {min(batch_size, examples)} examples, and the run takes "
            f"{max(1, round(paid))}; raise it, or lower train.batch_size"
        )


@dataclasses.dataclass(frozen=True)
class Saving:
    """When checkpoints are written, which are kept, and which is exported.

    Attributes:
        best_metric: an evaluation metric, with its prefix `eval/`.
        best_is: "lowest" or "highest".
        export: "last" or "best".
    """

    every_steps: int
    keep_last: int
    best_metric: str
    best_is: str
    export: str


@dataclasses.dataclass(frozen=True)
class Logging:
    """When metrics are written, and where, in addition to `metrics.jsonl`."""

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

    def remark(self, steps: int, examples: int, flops_per_example: float | None) -> str | None:
        """A warning about a run of that many steps that hardly trains; else None."""
        told = (
            self.budget.remark(examples, self.batching.batch_size, flops_per_example),
            self.optimization.remark(steps),
        )
        return "; and ".join(filter(None, told)) or None
