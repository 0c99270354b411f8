"""What a run says about itself while it runs: metric lines, speed, a progress bar.

`metrics.jsonl` holds one JSON object per logged step and is the source of plots and model card:

    {"step": 10, "loss": 1.93, "learning_rate": 0.0001, "tokens_per_second": 9731.2}
    {"step": 10, "eval/loss": 1.71, "eval/perplexity": 5.53}

A killed and continued run leaves the same lines as an uninterrupted one, but for `TIMING`. That
needs every line up to a step to be written before the checkpoint of that step is.
"""

import importlib
import json
import math
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from safety_jax.base import files
from safety_jax.base.errors import ConfigError, DataError

TIMING = ("tokens_per_second", "mfu", "seconds_per_step")
"""Metrics that differ between two runs of the same config."""

# Dense bfloat16 FLOP/s of one jax device, from the vendors' data sheets; the first name that the
# device kind starts with holds. A TPU v3 chip and a TPU7x chip are two devices each.
PEAK_FLOPS: dict[str, float] = {
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 1153.5e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100": 989.4e12,
    "NVIDIA H200": 989.4e12,
    "NVIDIA B200": 2250e12,
    "NVIDIA L4": 121e12,
    "NVIDIA A10": 125e12,
}


class Sink(Protocol):
    def write(self, step: int, metrics: Mapping[str, int | float]) -> None: ...
    def close(self) -> None: ...


class Writer:
    """Writes metrics to `metrics.jsonl` and, where asked, to TensorBoard and Weights & Biases.

    Args:
        folder: the run's folder.
        resume_step: step the run continues from, 0 for a start; what an earlier process wrote after
            it is removed, for it will be written again.
        tensorboard: also write event files to `tensorboard/`.
        wandb: also log to one W&B run, the same after each resume.
        config: shown by W&B.
        primary: whether this process writes; exactly one process of a run does.

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
            # Asked-for libraries first: when one is missing, nothing has been changed yet.
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
    """The lines of a `metrics.jsonl`; a last line that a kill cut short is left out.

    Raises:
        DataError: a line is not a metric line; file and line are named.
    """
    return [row for _, row in _rows(file)]


def _rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    lines = file.read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1], 1):  # what follows the last newline was cut short
        try:
            text = line.decode()
            row = json.loads(text)
            row["step"] + 0
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"{file} line {number} is not a metric line; repair or remove the file"
            ) from error
        yield text, row


class _Lines:
    """`metrics.jsonl`. JSON has no NaN: `{"loss": null, "non_finite": {"loss": "nan"}}`."""

    def __init__(self, file: Path, resume_step: int):
        if file.exists():
            kept = [text for text, row in _rows(file) if row["step"] <= resume_step]
            files.write(file, "".join(f"{text}\n" for text in kept))
        self._file = open(file, "a")

    def write(self, step: int, metrics: Mapping[str, int | float]) -> None:
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        row: dict[str, Any] = {"step": step, **finite}
        others = {name: str(value) for name, value in metrics.items() if not math.isfinite(value)}
        if others:
            row["non_finite"] = others
        # One write call: a kill leaves a whole line or, at worst, a last line without its newline.
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class _TensorBoard:
    def __init__(self, folder: Path, resume_step: int):
        library = _library("tensorboardX", "log.tensorboard", "tensorboard")
        # Events after the step are hidden by the viewer, and written again.
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
        # W&B's own counter only grows and drops steps that are written again after a resume.
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


def flops_per_token(
    *,
    matmul_weights: int,
    adapter_weights: int,
    trains_base: bool,
    layers: int,
    heads: int,
    head_size: int,
    example_tokens: float,
) -> float:
    """Model FLOPs to train on one token, the numerator of MFU (PaLM, arXiv 2204.02311, appendix B).

        forward   2 per matmul weight (projections, MLP, head; not the embedding lookup)
                  2·2·T·H·E·L / 2 for causal scores and their product with the values
        backward  base weights 2x forward; 1x where they are frozen, for only the gradient of the
                  input is needed; adapters and attention 2x

    What is computed again for rematerialisation is not counted, nor is padding.

    Args:
        matmul_weights: base weights that multiply activations.
        adapter_weights: LoRA weights, 0 without.
        trains_base: full fine-tuning.
        layers, heads, head_size: L, H, E of the model.
        example_tokens: T, the mean over tokens of the length of the token's example, that is
            sum of squared lengths / sum of lengths; packing does not change it.
    """
    base = 2 * matmul_weights * (3 if trains_base else 2)
    adapters = 2 * adapter_weights * 3
    attention = 2 * 2 * example_tokens * heads * head_size * layers / 2 * 3
    return base + adapters + attention


def peak_flops(device_kind: str) -> float | None:
    """Dense bfloat16 FLOP/s of one device, by `jax.Device.device_kind`; None when not known."""
    found = (peak for name, peak in PEAK_FLOPS.items() if device_kind.startswith(name))
    return next(found, None)


def peak_of(devices: np.ndarray) -> float | None:
    """FLOP/s of all devices of a mesh together; None when their kind is not known."""
    peak = peak_flops(devices.flat[0].device_kind)
    return None if peak is None else peak * devices.size


class Throughput:
    """Tokens per second and MFU since the last reading.

    Args:
        flops_per_token: see the function of that name.
        peak: FLOP/s of all devices together; None leaves MFU out.
        clock: seconds.
    """

    def __init__(
        self,
        flops_per_token: float,
        peak: float | None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._flops, self._peak, self._clock = flops_per_token, peak, clock
        self.restart()

    def restart(self) -> None:
        """Forgets what ran so far: after compilation, validation or a wait for a checkpoint."""
        self._tokens, self._steps, self._since = 0, 0, self._clock()

    def add(self, tokens: int) -> None:
        """Counts a finished step of this many real (not padding) tokens."""
        self._tokens += tokens
        self._steps += 1

    def read(self) -> dict[str, float]:
        """The metrics of `TIMING`, and starts anew; empty when no step ran."""
        seconds = self._clock() - self._since
        if not self._steps or seconds <= 0:
            return {}
        speed = self._tokens / seconds
        rates = {"tokens_per_second": speed, "seconds_per_step": seconds / self._steps}
        if self._peak:
            rates["mfu"] = speed * self._flops / self._peak
        self.restart()
        return rates


class ProgressBar:
    """On stderr: a bar on a terminal, elsewhere one line per `log`; nothing if not `primary`."""

    def __init__(self, total_steps: int, done_steps: int, primary: bool = True):
        self._total, self._start, self._primary = total_steps, done_steps, primary
        self._began = time.perf_counter()
        is_bar = primary and sys.stderr.isatty()
        self._bar = tqdm(
            total=total_steps, initial=done_steps, unit="step", disable=not is_bar,
            file=sys.stderr, dynamic_ncols=True, smoothing=0.05,
        )  # fmt: skip

    def step(self, step: int) -> None:
        """Moves to `step` steps done."""
        self._bar.update(step - self._bar.n)

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Shows the most telling metrics, tokens per second and MFU beside the time left."""
        shown = _show(metrics)
        self._bar.set_postfix_str("  ".join(shown))
        if self._primary and self._bar.disable:
            parts = [f"step {step}/{self._total}", *shown, f"left {self._left(step)}"]
            print("  ".join(parts), file=sys.stderr, flush=True)

    def print(self, text: str) -> None:
        """Prints a line without breaking the bar."""
        if self._primary:
            self._bar.write(text, file=sys.stderr)

    def close(self) -> None:
        self._bar.close()

    def _left(self, step: int) -> str:
        done = step - self._start
        if done <= 0:
            return "unknown"
        seconds = (time.perf_counter() - self._began) / done * (self._total - step)
        return tqdm.format_interval(seconds)


def _show(metrics: Mapping[str, Any]) -> list[str]:
    formats = {
        "loss": "loss {:.4f}",
        "rewards/margins": "margin {:.3f}",
        "eval/loss": "eval loss {:.4f}",
        "eval/rewards/accuracies": "eval accuracy {:.1%}",
        "tokens_per_second": "{:,.0f} tokens/s",
        "mfu": "MFU {:.1%}",
    }
    return [form.format(float(metrics[name])) for name, form in formats.items() if name in metrics]
