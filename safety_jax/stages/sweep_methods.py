"""The methods of a sweep: the stages whose runs one program can train (docs/sweep.md).

A method makes the tasks of the runs and the loss of the program, in which everything that differs
between runs is data.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from jax.sharding import Mesh
from ml_collections import ConfigDict

from safety_jax.data import prefixes
from safety_jax.data.pairs import Pairs
from safety_jax.maths import losses
from safety_jax.stages import dpo_task, groups, learners, references, sft_task
from safety_jax.stages.sweep_axes import Variant
from safety_jax.training import likelihood, policy, steps
from safety_jax.training.optim import Optimization
from safety_jax.training.placement import TokenValues
from safety_jax.training.pooling import ExamplePool
from safety_jax.training.preference import PairObjective
from safety_jax.training.task import Learning, Loaded, Task

Numbers = Mapping[str, jax.Array]


@runtime_checkable
class SweepMethod(Protocol):
    """The runs of a sweep as its program sees them.

    Attributes:
        tasks: of the runs, in their order.
        remarks: messages about what is computed before the steps.
    """

    tasks: list[Task]
    remarks: list[str]

    def numbers(self, config: ConfigDict) -> dict[str, float]:
        """The numbers of a run that the program takes as data."""
        ...

    def learning(self, loaded: Loaded, numbers: Numbers) -> Learning:
        """The loss of any run, with its numbers as data of the compiled step."""
        ...

    def prepare(self, loaded: Loaded) -> None:
        """Computes what all runs need from the base, once it is read."""
        ...


class SftRuns:
    """Runs of stage `sft`. Rows share the prefix that is common to the examples of all runs."""

    def __init__(self, config: ConfigDict, runs: Sequence[Variant], base: groups.Base, mesh: Mesh):
        self._mesh = mesh
        self._weighs = weighs_early(runs)
        self._early_tokens = config.sft.early_tokens
        made = [sft_task.make_task(one.config, mesh, base) for one in runs]
        (side,) = _pool(made).sides
        share = prefixes.as_all(learners.share_opening(config, base.config, mesh), [side])
        self.tasks = [dataclasses.replace(task, share=share) for task in made]
        self.remarks: list[str] = []

    def numbers(self, config: ConfigDict) -> dict[str, float]:
        return {"early_weight": config.sft.early_weight} if self._weighs else {}

    def learning(self, loaded: Loaded, numbers: Numbers) -> Learning:
        early = early_weight(numbers, self._early_tokens)
        return likelihood.learning(loaded.learner, loaded.frozen, self._mesh, early)

    def prepare(self, loaded: Loaded) -> None:
        del loaded


def weighs_early(runs: Sequence[Variant]) -> bool:
    """Whether a run weighs the first tokens of answers, so that all take the weight as data."""
    return any(one.config.sft.early_weight != 1 for one in runs)


def early_weight(numbers: Numbers, tokens: int) -> losses.EarlyWeight | None:
    """The weight of the first `tokens` tokens of each answer, from the numbers of a run."""
    known = "early_weight" in numbers
    return losses.EarlyWeight(numbers["early_weight"], tokens) if known else None


class DpoRuns:
    """Runs of stage `dpo`, all with the base as their reference.

    Whether both answers of a pair share a row is decided for all runs together, and the reference
    scores each pair once, however many runs have it. If runs have different objectives, a switch
    takes the one of the run.
    """

    def __init__(self, config: ConfigDict, runs: Sequence[Variant], base: groups.Base, mesh: Mesh):
        self._config, self._mesh = config, mesh
        self._names = sorted({one.config.dpo.objective for one in runs})
        made = [dpo_task.make_task(one.config, mesh, base) for one in runs]
        self._pool = _pool(made)
        self._share = prefixes.as_all(learners.share(config, base.config), self._pool.sides)
        self._values: TokenValues | None = None
        self.tasks = [
            dataclasses.replace(task, share=self._share, learn=self._learn(one))
            for one, task in zip(runs, made, strict=True)
        ]
        self.remarks = self._describe(base)

    def _learn(self, one: Variant) -> Callable[[Loaded], Learning]:
        def say(text: str) -> None:
            tqdm.tqdm.write(f"run {one.name}: {text}")

        return functools.partial(dpo_task.learn, one.config, self._mesh, known=self._known, say=say)

    def _known(self, pairs: Pairs) -> TokenValues | None:
        return None if self._values is None else self._pool.values_of(pairs, self._values)

    def numbers(self, config: ConfigDict) -> dict[str, float]:
        return objective_numbers(config.dpo, self._names)

    def learning(self, loaded: Loaded, numbers: Numbers) -> Learning:
        objective = shared_objective(self._names, numbers)
        return dpo_task.learn(
            self._config, self._mesh, loaded, objective=objective, known=self._known
        )

    def prepare(self, loaded: Loaded) -> None:
        known = references.make(self._config, self._config.dpo, loaded, self._mesh, self._share)
        self._values = known(self._pool)

    def _describe(self, base: groups.Base) -> list[str]:
        if self._config.dpo.reference != "cached":
            return []
        sides = self._pool.sides
        tokens = np.array([side.lengths.sum() for side in sides])
        # A forward pass is a third of full training.
        forward = [policy.flops_per_token(base.config, None, side.lengths) / 3 for side in sides]
        shared = self._share(sides, self._config.data.row_tokens or self._config.data.max_length)
        read = 1.0 if shared is None else 1 - shared.saved
        return [
            f"reference: the {len(self._pool):,} pairs of all runs, {round(read * tokens.sum()):,} "
            f"tokens, {read * float(tokens @ forward):.1e} FLOPs, once; then kept on disk"
        ]


def _pool(tasks: Sequence[Task]) -> ExamplePool:
    """The examples that any of the tasks trains on or evaluates."""
    parts = [part for task in tasks for part in (task.corpus.training, task.corpus.evaluation)]
    return ExamplePool.of([part for part in parts if part is not None])


def scaled(loaded: Loaded, numbers: Numbers) -> Loaded:
    """The model with the scale of a run's adapter as data."""
    learner = dataclasses.replace(loaded.learner, scale=numbers["scale"])
    return dataclasses.replace(loaded, learner=learner)


def advance(
    learning: Learning,
    optimization: Optimization,
    state: steps.State,
    frozen: Any,
    batch: Any,
    used: jax.Array,
    numbers: Numbers,
) -> tuple[steps.State, steps.Parts]:
    """The optimizer step of one run, see `steps.make`; its learning rate is one of the numbers."""

    def rate(_: Any) -> jax.Array:
        return numbers["learning_rate"]

    return steps.advance(
        learning.loss, learning.count, optimization.follow(rate), rate, learning.survey,
        state, frozen, batch, used,
    )  # fmt: skip


def objective_numbers(group: ConfigDict, names: Sequence[str]) -> dict[str, float]:
    """The objective of the config's `dpo` group, as numbers.

    Args:
        names: of the objectives of all runs; the index of this one is a number.
    """
    numbers = {name: group[name] for name in ("beta", "smoothing", "margin", "nll_weight")}
    return {"objective": float(names.index(group.objective)), **numbers}


def shared_objective(names: Sequence[str], numbers: Numbers) -> PairObjective:
    """The objective that `objective_numbers` chose; its loss is valid, its metrics are not."""
    own = {name: numbers[name] for name in ("beta", "smoothing", "margin")}
    each = [dpo_task.pair_loss(name, **own) for name in names]
    chosen = numbers["objective"].astype(jnp.int32)
    return PairObjective(
        lambda pairs: jax.lax.switch(chosen, each, pairs),
        own["beta"],
        nll_weight=numbers["nll_weight"],
    )


METHODS: dict[str, Callable[..., SweepMethod]] = {"sft": SftRuns, "dpo": DpoRuns}
