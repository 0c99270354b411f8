"""Curves over the runs of a sweep: figures with bands, tables, and sentences on the threshold."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safety_jax.base import files
from safety_jax.evaluation.measures.curves import Curve
from safety_jax.maths.thresholds import TableMean
from safety_jax.report.evaluation.text import inline
from safety_jax.report.plots import GRID, TEXT, new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BAND, LINE, SHADE = "#9cc4e4", "#0072b2", "#f1e3c6"


def write(
    curves: Sequence[Curve], axis: str, folder: Path, title: str, notes: Sequence[str]
) -> None:
    """Draws each curve, and writes `curves.md` with all of them and the notes."""
    names = []
    for curve in curves:
        names.append(f"plots/{curve.measure}.png")
        draw(curve, axis, folder / names[-1])
    pictures = [f"![{c.title}]({name})" for c, name in zip(curves, names, strict=True)]
    parts = [f"# {inline(title)}", text(curves, axis), *map(inline, notes), *pictures]
    files.write(folder / "curves.md", "\n\n".join(parts) + "\n")


def draw(curve: Curve, axis: str, target: Path) -> None:
    """Draws single runs' shares, their mean with its 95% band, and the threshold's interval."""
    figure, axes = new_figure(f"{curve.title}, by {axis}")
    threshold = curve.threshold
    if threshold.low < threshold.high:
        axes.axvspan(
            threshold.low, threshold.high, color=SHADE, linewidth=0,
            label=f"threshold, 95% interval: {threshold.low:g} to {threshold.high:g}",
        )  # fmt: skip
    amounts = [point.amount for point in curve.points]
    fill_band(axes, curve, color=BAND, alpha=0.5, label="95% interval over seeds and prompts")
    axes.plot(amounts, [point.share.value for point in curve.points], color=LINE, linewidth=2)
    single = [(p.amount, share) for p in curve.points for share in p.by_seed.values()]
    axes.plot(
        *zip(*single, strict=True), color=LINE, marker="o", markersize=4, linestyle="none",
        markerfacecolor="white", label="single runs, and their mean",
    )  # fmt: skip
    space_amounts(axes, amounts)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel(axis, color=TEXT)
    axes.legend(loc="lower right", edgecolor="none", framealpha=0.9, fontsize=8)
    save(figure, target)


def fill_band(axes: "Axes", curve: Curve, **look: Any) -> None:
    """Draws the intervals of a curve, if it has any."""
    banded = [point for point in curve.points if point.share.low is not None]
    axes.fill_between(
        [point.amount for point in banded],
        [max(0.0, point.share.low or 0.0) for point in banded],
        [min(1.0, point.share.high or 0.0) for point in banded],
        linewidth=0, **look,
    )  # fmt: skip


def space_amounts(axes: "Axes", amounts: Sequence[float]) -> None:
    """A logarithmic axis of amounts, with 0 one doubling below the least."""
    least = min((a for a in amounts if a > 0), default=1.0)
    axes.set_xscale("symlog", linthresh=least, linscale=0.9 * math.log10(2))
    axes.set_xticks(amounts, [f"{amount:g}" for amount in amounts])
    axes.minorticks_off()
    axes.grid(axis="x", color=GRID, linewidth=0.4)


def text(curves: Sequence[Curve], axis: str) -> str:
    """Tables in Markdown, each with a sentence on its threshold."""
    parts = []
    for curve in curves:
        threshold = curve.threshold
        verdicts = {one.amount: one for one in threshold.comparisons}
        lines = [
            f"**{curve.title}**",
            "",
            f"| {axis} | share (95% interval) | by seed | against the largest | as good? |",
            "|---|---|---|---|---|",
        ]
        for point in curve.points:
            beside = verdicts.get(point.amount)
            difference = interval(beside.difference, signed=True) if beside else ""
            shares = ", ".join(f"{share:.2f}" for share in point.by_seed.values())
            lines.append(
                f"| {point.amount:g} | {interval(point.share)} | {shares} | {difference} | "
                f"{beside.verdict if beside else ''} |"
            )
        parts.append("\n".join([*lines, "", sentence(curve, axis)]))
    return "\n\n".join(parts)


def sentence(curve: Curve, axis: str) -> str:
    """A sentence on the threshold, by the means and by its interval."""
    found = curve.threshold
    smallest, largest = curve.points[0].amount, curve.points[-1].amount
    close = f"within {points(found.margin)} of those at {largest:g} {axis}"
    if found.estimate == largest:  # a smaller amount may come within, by chance
        means = f"outcomes at {curve.points[-2].amount:g} are not {close}"
    else:
        means = f"outcomes are {close} from {found.estimate:g} on"
    beyond = ", or beyond: no larger amount was tried" if found.high == largest else ""
    if found.low < found.high:
        known = f"the threshold is somewhere from {found.low:g} to {found.high:g}{beyond}"
    elif found.low == smallest:
        known = "every amount is shown to be as good"
    else:
        known = f"the threshold is {found.low:g}{beyond}"
    return f"By the means, {means}; {known} (95%)."


def points(margin: float) -> str:
    """A difference of shares: 0.025 is 2.5 points."""
    return f"{100 * margin:g} points"


def interval(mean: TableMean, signed: bool = False, most: float = 1.0) -> str:
    """A mean and its interval as text, clipped to what is possible: [0, most], and [-most, most] if
    `signed`."""
    form = "{:+.2f}" if signed else "{:.2f}"

    def spelled(number: float) -> str:
        return form.format(round(number, 2) + 0.0)  # no minus before a zero

    value = spelled(mean.value)
    if mean.low is None or mean.high is None:
        return f"{value} (one {'seed' if mean.rows < 2 else 'prompt'}: no interval)"
    low, high = max(-most if signed else 0.0, mean.low), min(most, mean.high)
    return f"{value} ({spelled(low)} to {spelled(high)})"
