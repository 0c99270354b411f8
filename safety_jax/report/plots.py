"""Plots of a training run, drawn from its `metrics.jsonl`."""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from safety_jax.base import files
from safety_jax.training import metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Series = tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]

# Half-life of the smoothing, as a share of the run.
_HALF_LIFE_OF_RUN = 0.02

RAW, SMOOTH, VALIDATION, TEXT, GRID = "#9db7d5", "#1f4e8c", "#d1495b", "#333333", "#e6e6e6"


def loss(file: Path, target: Path, title: str, unit: str = "loss, nats per trained token") -> bool:
    """Draws training loss (raw and smoothed) and validation loss over steps into a PNG.

    Args:
        file: a `metrics.jsonl`.
        target: the PNG, written atomically; its folder is created.
        title: one line above the plot.

    Returns:
        False, with nothing drawn, if no loss was logged.

    Raises:
        DataError: a line of the file is not a metric line.
    """
    rows = metrics.read(file)
    training, validation = series(rows, "loss"), series(rows, "eval/loss")
    if not training[0].size and not validation[0].size:
        return False
    figure, axes = new_figure(title)
    if training[0].size:
        _draw_training(axes, training)
    if validation[0].size:
        _draw_validation(axes, validation)
    axes.set_ylim(*_limits(training[1], validation[1]))
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(unit)
    axes.legend(loc="best", facecolor="white", edgecolor="none", framealpha=0.85)
    _add_token_axis(axes, series(rows, "num_tokens"))
    save(figure, target)
    return True


def rewards(file: Path, target: Path, title: str, unit: str) -> bool:
    """Draws the rewards of chosen and rejected answers, and the accuracy of their order.

    Lines are training, smoothed; dots are validation, with the 95% interval of the accuracy.

    Args, Returns, Raises: as `loss`.
    """
    rows = metrics.read(file)
    if not series(rows, "rewards/margins")[0].size:
        return False
    figure, above = new_figure(title)
    above.remove()
    above, below = figure.subplots(2, sharex=True)
    for axes in (above, below):
        bare_axes(axes)
    set_title(above, title)
    for name, colour in (("chosen", SMOOTH), ("rejected", VALIDATION)):
        _draw_pair(above, rows, f"rewards/{name}", colour, name)
    above.axhline(0, color="#999999", linewidth=0.8)
    above.set_ylabel(f"reward, {unit}")
    _draw_pair(below, rows, "rewards/accuracies", SMOOTH, "chosen above rejected")
    bounds = [series(rows, f"eval/rewards/accuracies_{side}") for side in ("low", "high")]
    if bounds[0][0].size:
        below.fill_between(
            bounds[0][0], bounds[0][1], bounds[1][1], color=SMOOTH, alpha=0.15, linewidth=0
        )
    below.axhline(0.5, color="#999999", linewidth=0.8)
    below.set_ylim(0, 1)
    below.set_ylabel("share of pairs")
    below.set_xlabel("optimizer step")
    for axes in (above, below):
        axes.legend(frameon=False, fontsize=9, labelcolor=TEXT)
    save(figure, target)
    return True


def _draw_pair(axes: "Axes", rows: Sequence[Mapping[str, Any]], name: str, colour: str, label: str):
    """Training, smoothed, as a line; validation as dots of the same colour."""
    steps, values = series(rows, name)
    half_life = max((steps[-1] - steps[0]) * _HALF_LIFE_OF_RUN, 1.0)
    axes.plot(steps, smooth(steps, values, half_life), color=colour, linewidth=2, label=label)
    at, measured = series(rows, f"eval/{name}")
    if at.size:
        axes.plot(
            at, measured, color=colour, marker="o", markersize=4, linestyle="none",
            label=f"{label}, validation: {measured[-1]:.3g} at the end",
        )  # fmt: skip


def reliability(
    confidence: Sequence[float],
    accuracy: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    count: Sequence[int],
    target: Path,
    title: str,
) -> None:
    """Draws a judge's accuracy against its confidence; the area of a dot is its share of examples.

    Args:
        confidence, accuracy, count: of each bin, see `calibration.Reliability`.
        low, high: the interval of each accuracy.
    """
    from matplotlib.collections import PathCollection
    from matplotlib.ticker import AutoLocator

    figure, axes = new_figure(title)
    axes.xaxis.set_major_locator(AutoLocator())
    axes.plot([0.5, 1], [0.5, 1], color="#999999", linewidth=0.8, label="calibrated")
    n = np.asarray(count)
    axes.vlines(confidence, low, high, color=SMOOTH, alpha=0.4)
    axes.scatter(
        confidence, accuracy, s=20 + 400 * n / n.sum(), color=SMOOTH, zorder=3,
        label="held-out examples, with 95% intervals",
    )  # fmt: skip
    axes.set_xlim(0.49, 1.01)
    axes.set_ylim(min(0.45, *low) - 0.02, 1.04)  # room for dots at the bounds
    axes.set_xlabel("confidence: probability of the likelier outcome")
    axes.set_ylabel("share that is right")
    # In the legend, a dot of all examples would cover the line above it.
    for handle in axes.legend(frameon=False, fontsize=9, labelcolor=TEXT).legend_handles:
        if isinstance(handle, PathCollection):
            handle.set_sizes([20])
    save(figure, target)


def series(rows: Sequence[Mapping[str, Any]], name: str) -> Series:
    """(steps, values) of the rows that hold a finite value of this metric."""
    pairs = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
    table = np.asarray(pairs, dtype=np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def smooth(
    steps: Float[np.ndarray, " n"], values: Float[np.ndarray, " n"], half_life: float
) -> Float[np.ndarray, " n"]:
    """Exponential moving average whose weights halve every `half_life` steps.

    It is normalised by the sum of weights, so that it starts at the first value without bias, and
    takes uneven distances between steps into account.
    """
    smoothed, total, weight = [], 0.0, 0.0
    distances = np.diff(steps, prepend=steps[:1])
    for distance, value in zip(distances, values, strict=True):
        decay = 0.5 ** (distance / half_life)
        total, weight = decay * total + value, decay * weight + 1.0
        smoothed.append(total / weight)
    return np.asarray(smoothed)


def new_figure(title: str) -> "tuple[Figure, Axes]":
    # Imported here, because matplotlib takes half a second and a run needs it only at its end.
    # `Figure` without pyplot draws with Agg and touches no global state.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=160, layout="constrained")
    axes = figure.subplots()
    set_title(axes, title)
    bare_axes(axes)
    return figure, axes


def set_title(axes: "Axes", title: str) -> None:
    """Sets a title without formulas: a folder may be named $a$."""
    axes.set_title(
        title, loc="left", color=TEXT, fontsize=12, fontweight="bold", pad=12, parse_math=False
    )


def bare_axes(axes: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.tick_params(colors=TEXT)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_training(axes: "Axes", training: Series) -> None:
    steps, values = training
    half_life = max((steps[-1] - steps[0]) * _HALF_LIFE_OF_RUN, 1.0)
    axes.plot(steps, values, color=RAW, linewidth=0.9, alpha=0.8, label="training")
    axes.plot(
        steps, smooth(steps, values, half_life), color=SMOOTH, linewidth=2,
        label=f"training, smoothed (EMA, half-life in steps: {half_life:.0f})",
    )  # fmt: skip


def _draw_validation(axes: "Axes", validation: Series) -> None:
    steps, values = validation
    best = int(np.argmin(values))
    axes.plot(
        steps, values, color=VALIDATION, linewidth=1.2, marker="o", markersize=4,
        label="validation",
    )  # fmt: skip
    axes.plot(
        steps[best], values[best], color=VALIDATION, marker="o", markersize=9,
        markerfacecolor="white", markeredgewidth=2, linestyle="none",
        label=f"best validation: {values[best]:.4f} at step {steps[best]:.0f}",
    )  # fmt: skip


def _limits(
    training: Float[np.ndarray, " n"], validation: Float[np.ndarray, " m"]
) -> tuple[float, float]:
    """The vertical limits, which may cut outliers of the raw curve but no validation points."""
    low, high = [], []
    if training.size:
        low.append(training.min())
        # In most runs the first steps are the highest; the quantile leaves out single spikes.
        high.append(max(np.quantile(training, 0.995), training[:3].mean()))
    if validation.size:
        low.append(validation.min())
        high.append(validation.max())
    bottom, top = float(min(low)), float(max(high))
    margin = 0.06 * (top - bottom) or 0.1
    return bottom - margin, top + margin


def _add_token_axis(axes: "Axes", tokens: Series) -> None:
    """A second axis on top, in tokens seen, if the run logged them."""
    from matplotlib.ticker import EngFormatter

    steps, counts = tokens
    if steps.size < 2 or np.any(np.diff(steps) <= 0) or np.any(np.diff(counts) <= 0):
        return
    top = axes.secondary_xaxis("top", functions=(_line(steps, counts), _line(counts, steps)))
    top.xaxis.set_major_formatter(EngFormatter(sep=""))
    top.spines["top"].set_visible(False)
    top.tick_params(colors="#777777", labelsize=8, length=3)
    top.set_xlabel("tokens", color="#777777", fontsize=8)


def _line(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> Callable[[Any], Any]:
    """Linear interpolation and extrapolation, because matplotlib asks beyond the data."""
    slopes = np.diff(y[[0, 1, -2, -1]])[[0, 2]] / np.diff(x[[0, 1, -2, -1]])[[0, 2]]

    def value(at: Any) -> Any:
        at = np.asarray(at, dtype=np.float64)
        before, after = np.minimum(at - x[0], 0), np.maximum(at - x[-1], 0)
        return np.interp(at, x, y) + before * slopes[0] + after * slopes[1]

    return value


def save(figure: "Figure", target: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    target.parent.mkdir(parents=True, exist_ok=True)
    files.write(target, buffer.getvalue())
