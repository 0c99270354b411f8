"""Writes a run's metrics to `metrics.jsonl`, TensorBoard and Weights & Biases.

`metrics.jsonl` holds one JSON object per logged step; plots and the model card are made from it:

    {"step": 10, "loss": 1.93, "learning_rate": 0.0001, "tokens_per_second": 9731.2}
    {"step": 10, "eval/loss": 1.71, "eval/perplexity": 5.53}

A killed and resumed run leaves the same lines as an uninterrupted one, except for `TIMING`; this
needs all lines up to a step to be written before its checkpoint. One more thing differs: if a run
resumes between two lines, the second describes only the examples since the resume.
"""

import importlib
import json
import math
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from safety_jax.base import files
from safety_jax.base.errors import ConfigError, DataError


class Sink(Protocol):
    def write(self, step: int, metrics: Mapping[str, int | float]) -> None: ...
    def close(self) -> None: ...


class Writer:
    """Writes metrics to `metrics.jsonl` and, if asked, to TensorBoard and Weights & Biases.

    Args:
        folder: the run's folder.
        resume_step: step the run continues from, 0 for a start; later lines of an earlier process
            are removed, because they will be written again.
        tensorboard: also write event files to `tensorboard/`.
        wandb: also log to one W&B run, the same after each resume.
        config: for W&B to show.
        primary: this process writes; exactly one process of a run does.

    Raises:
        ConfigError: a library that was asked for is not installed.
        DataError: `metrics.jsonl` holds something else.
    """

    def __init__(
        self,
        folder: Path,
        resume_step: int,
        tensorboard: bool,
        wandb: bool,
        config: Mapping[str, Any],
        primary: bool = True,
    ):
        self._sinks: list[Sink] = []
        if primary:
            # The libraries come first: if one is missing, nothing has been changed yet.
            if tensorboard:
                self._sinks.append(_TensorBoard(folder / "tensorboard", resume_step))
            if wandb:
                self._sinks.append(_WeightsAndBiases(folder, config))
            self._sinks.append(_Lines(folder / "metrics.jsonl", resume_step))

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Writes the metrics of a step; each is a number or an array of one."""
        numbers = {name: _number(name, value) for name, value in metrics.items()}
        for sink in self._sinks:
            sink.write(step, numbers)

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read(file: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`, without a last line that a kill cut short.

    Raises:
        DataError: a line is not a metric line; file and line are named.
    """
    return [row for _, row in _rows(file)]


def _rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    lines = file.read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1], 1):  # anything behind the last newline was cut short
        try:
            text = line.decode()
            row = files.parse_json(text)
            values = [value for name, value in row.items() if name != "non_finite"]
            if not isinstance(row["step"], int) or not all(map(_is_value, values)):
                raise TypeError
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(
                f"{file} line {number} is not a metric line; repair or remove the file"
            ) from error
        yield text, row


def _is_value(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


class _Lines:
    """`metrics.jsonl`. JSON has no NaN: `{"loss": null, "non_finite": {"loss": "nan"}}`."""

    def __init__(self, file: Path, resume_step: int):
        if file.exists():
            kept = [text for text, row in _rows(file) if row["step"] <= resume_step]
            files.write(file, "".join(f"{text}\n" for text in kept))
        self._path, self._file = file, open(file, "a")

    def write(self, step: int, metrics: Mapping[str, int | float]) -> None:
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        row: dict[str, Any] = {"step": step, **finite}
        others = {name: str(value) for name, value in metrics.items() if not math.isfinite(value)}
        if others:
            row["non_finite"] = others
        # In one write call, so that a kill leaves at worst a last line without its newline.
        with files.writing(self._path):
            self._file.write(json.dumps(row, allow_nan=False) + "\n")
            self._file.flush()

    def close(self) -> None:
        with files.writing(self._path):  # closing writes again what could not be written
            self._file.close()


class _TensorBoard:
    def __init__(self, folder: Path, resume_step: int):
        library = _library("tensorboardX", "log.tensorboard", "tensorboard")
        # The viewer hides earlier events after this step; they are written again.
        self._writer = library.SummaryWriter(str(folder), purge_step=resume_step + 1)

    def write(self, step: int, metrics: Mapping[str, int | float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    def __init__(self, folder: Path, config: Mapping[str, Any]):
        library = _library("wandb", "log.wandb", "wandb")
        file = folder / "wandb_id"
        if not file.exists():
            files.write(file, uuid.uuid4().hex)
        try:
            self._run = library.init(
                dir=str(folder), id=file.read_text(), name=folder.name, resume="allow",
                config=dict(config),
            )  # fmt: skip
        except library.errors.Error as error:  # no key, no network
            raise ConfigError(
                f"log.wandb is on, but W&B does not start ({error}); run `wandb login`, set "
                "WANDB_MODE=offline, or set --config.log.wandb=False"
            ) from error
        # W&B's own step counter only grows, and would drop steps that are written again.
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, metrics: Mapping[str, int | float]) -> None:
        self._run.log({"step": step, **metrics})

    def close(self) -> None:
        self._run.finish()


def _library(name: str, key: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"{key} is on, but {name} cannot be imported ({error}); "
            f"pip install 'safety_jax[{extra}]' or set --config.{key}=False"
        ) from error


def _number(name: str, value: Any) -> int | float:
    if isinstance(value, int):
        return value
    try:
        return float(value)
    except TypeError as error:
        raise TypeError(f"metric {name!r} is {value!r}, not a number") from error
