"""A method of training as the skeleton `run.py` sees it: two structs of functions, no inheritance.

`Task` is known before any weight is read: the examples, and how the model is loaded. `Learning`
needs the loaded model: the loss and its inputs, and what is logged and measured.
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
from safety_jax.models import llama
from safety_jax.models.folders import peft_config
from safety_jax.training import steps
from safety_jax.training.footprint import TrainedModel
from safety_jax.training.loop import Metrics
from safety_jax.training.placement import PutBatch

Indices = Int[np.ndarray, " n"]
TABLE = "examples"  # the name under which a loss returns a row for each example


@runtime_checkable
class Learner(Protocol):
    """A model in training, language model or judge; holds no arrays."""

    @property
    def run(self) -> llama.Execution: ...
    @property
    def folder(self) -> Path: ...
    @property
    def adapter(self) -> peft_config.LoraConfig | None: ...
    def shardings(self) -> trees.Tree:
        """Where the trainable tree lives."""
        ...

    def flops_per_token(self, lengths: np.ndarray) -> float:
        """Model FLOPs to train on one token of examples with these lengths."""
        ...

    def export(self, folder: Path, trainable: trees.Tree, frozen: trees.Tree, dtype: str) -> float:
        """Writes what was trained; returns as `export_merged`, 0 where nothing is merged."""
        ...

    def export_merged(
        self, folder: Path, trainable: trees.Tree, frozen: trees.Tree, dtype: str
    ) -> float:
        """Writes the full model, adapters added to the base.

        Returns:
            The share of the weights which the adapters moved that `dtype` is too coarse to show.
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
        means: its scalars, averaged over what the loss counts (tokens, pairs, ...).
        table: its table, one row for each example; no columns where the loss returns no table.
        examples: the index into the data of each row's example.
    """

    means: Metrics
    table: Float[np.ndarray, "n columns"]
    examples: Indices


@dataclasses.dataclass(frozen=True)
class Learning:
    """How a loaded model learns.

    Attributes:
        loss, count, survey: see `steps.py`.
        frozen: what the loss is given beside the trainable tree.
        place: given a loader and its examples, returns what puts the loader's batches onto the
            mesh.
        evaluation: metrics of held-out examples; their names lack the prefix `eval/`.
        summarize: metrics of the training examples since the last log line, from the loss's table;
            None where the loss's scalars are all there is.
        alarm: is called with each step's or evaluation's metrics, and returns metrics to add.
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
        path: its folder; `plots` are drawn into the folder of that name.
        metrics: its `metrics.jsonl`.
        export: what was trained.
        step: the step that was exported.
        held_out: what the exported weights make of the held-out examples; None without such, or
            where `Task.measures_export` is False.
    """

    path: Path
    metrics: Path
    export: Path
    step: int
    held_out: Measured | None


@dataclasses.dataclass(frozen=True)
class Account:
    """What a method says of a finished run on its model card.

    Attributes:
        summary: one sentence.
        notes: what a reader must know of the protocol.
        plots: files, relative to the run's folder.
        results: numbers beside those of the last evaluation.
    """

    summary: str
    notes: Sequence[str]
    plots: Sequence[str]
    results: Mapping[str, float | int | str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Task:
    """A method of training.

    Attributes:
        unit: what examples are called: rows, pairs, answers.
        sides: what each side of an example is called: ("row",), ("chosen answer", ...).
        corpus: what is learned from and measured on.
        model: its sizes, by which rows are fitted to the devices.
        about_model: a line about the model, to print.
        flops_per_example: model FLOPs to train on one example; None where no budget in FLOPs can
            be given.
        load: reads the weights.
        learn: the rest, of the loaded model.
        account: writes and draws what is particular to the method, once the run is finished.
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
