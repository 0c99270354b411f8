"""A training method as the skeleton `run.py` sees it: two structs of functions, no inheritance.

A `Task` exists before any weight is read: it has the examples and loads the model. `Learning` needs
the loaded model: it has the loss, its inputs and the metrics.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from safety_jax.base import trees
from safety_jax.data import prefixes
from safety_jax.data.corpora import Corpus
from safety_jax.data.loader import Loader
from safety_jax.models.execution import Execution
from safety_jax.models.folders import peft_config
from safety_jax.training import steps
from safety_jax.training.footprint import TrainedModel
from safety_jax.training.loop import Metrics
from safety_jax.training.placement import PutBatch

Indices = Int[np.ndarray, " n"]
TABLE = "examples"  # the name of the table, with a row for each example, that a loss may return


@runtime_checkable
class Learner(Protocol):
    """A model in training, language model or judge; holds no arrays."""

    @property
    def execution(self) -> Execution: ...
    @property
    def folder(self) -> Path: ...
    @property
    def adapter(self) -> peft_config.LoraConfig | None: ...
    def shardings(self) -> trees.Tree:
        """The shardings of the trainable tree."""
        ...

    def flops_per_token(self, lengths: np.ndarray) -> float:
        """Model FLOPs to train on one token of examples with these lengths."""
        ...

    def export(self, folder: Path, trainable: trees.Tree, frozen: trees.Tree, dtype: str) -> float:
        """Writes the trained weights; returns as `export_merged`, or 0 if nothing is merged."""
        ...

    def export_merged(
        self, folder: Path, trainable: trees.Tree, frozen: trees.Tree, dtype: str
    ) -> float:
        """Writes the full model, with adapters merged into the base.

        Returns:
            Of the weights that the adapters change, the share whose change is lost in rounding to
            `dtype`.
        """
        ...


L = TypeVar("L", bound=Learner)


@dataclasses.dataclass(frozen=True)
class Loaded(Generic[L]):
    """A model in training with its weights."""

    learner: L
    trainable: trees.Tree
    frozen: trees.Tree


@dataclasses.dataclass(frozen=True)
class Measured:
    """What the loss returned for some examples.

    Attributes:
        means: its scalars, averaged over the trained tokens; empty if the loss has a table.
        table: its table, one row for each example; without columns if the loss has no table.
        examples: for each row, the index of its example.
    """

    means: Metrics
    table: Float[np.ndarray, "n columns"]
    examples: Indices


@dataclasses.dataclass(frozen=True)
class Learning:
    """How a loaded model learns.

    Attributes:
        loss, count, survey: see `steps.py`.
        frozen: the loss's second argument, such as frozen weights.
        place: given a loader and its examples, returns a function that puts batches onto the mesh.
        evaluation: computes metrics of held-out examples, whose names lack the prefix `eval/`.
        summarize: computes metrics of the training examples since the last log line, from the
            loss's table; None if the loss returns no table.
        alarm: called with the metrics of each evaluation, or of each logged step in runs without
            evaluations; returns metrics to add.
    """

    loss: steps.Loss
    count: steps.Count
    frozen: Any
    place: Callable[[Loader, Any], PutBatch]
    evaluation: Callable[[Measured, Any], Metrics]
    summarize: Callable[[Measured, Any], Metrics] | None = None
    survey: steps.Survey | None = None
    alarm: Callable[[int, Metrics], Metrics] | None = None


@dataclasses.dataclass(frozen=True)
class Finished:
    """A run that reached its end.

    Attributes:
        path: its folder; plots are drawn into `plots` there.
        metrics: its `metrics.jsonl`.
        export: the folder with the trained weights.
        step: the step that was exported.
        held_out: the exported weights' results on the held-out examples; None if there are none, or
            if `Task.measures_export` is False.
    """

    path: Path
    metrics: Path
    export: Path
    step: int
    held_out: Measured | None


@dataclasses.dataclass(frozen=True)
class Account:
    """What a method writes about a finished run on its model card.

    Attributes:
        summary: one sentence.
        notes: what a reader must know about the protocol.
        plots: files, relative to the run's folder.
        results: further numbers beside those of the last evaluation.
    """

    summary: str
    notes: Sequence[str]
    plots: Sequence[str]
    results: Mapping[str, float | int | str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Task:
    """A training method with its data and model.

    Attributes:
        unit: what examples are called: rows, pairs, answers.
        sides: what each side of an example is called: ("row",), ("chosen answer", ...).
        corpus: the training and held-out examples.
        model: the model's sizes, which determine how many rows fit the devices.
        about_model: a line about the model, to print.
        flops_per_example: model FLOPs to train on one example; None if the method accepts no budget
            in FLOPs.
        load: reads the weights.
        learn: returns the `Learning` of the loaded model.
        account: once the run is finished, writes the method's own files and plots, and returns its
            part of the model card.
        share: how the sides of an example share a row; needs a trunk that supports `prefixes`.
        packs: several examples may share a row; needs a trunk that keeps segments apart.
        measures_export: `account` needs `Finished.held_out`.
        is_judge: the exported model scores text; it is always exported in full.
    """

    unit: str
    sides: Sequence[str]
    corpus: Corpus
    model: TrainedModel
    about_model: str
    flops_per_example: float | None
    load: Callable[[], Loaded[Any]]
    learn: Callable[[Any], Learning]
    account: Callable[[Finished], Account]
    share: prefixes.Share = prefixes.separate
    packs: bool = True
    measures_export: bool = False
    is_judge: bool = False
