"""Curves over the runs of a sweep: figures with bands, a table, and sentences for what is shown."""

from collections.abc import Sequence
from pathlib import Path

from safety_jax.base import files
from safety_jax.evaluation.measures.curves import Curve
from safety_jax.maths.thresholds import TableMean
from safety_jax.report.plots import GRID, TEXT, new_figure, save

BAND, LINE, SHADE = "#9cc4e4", "#0072b2", "#f1e3c6"


def write(curves: Sequence[Curve], axis: str, folder: Path, title: str) -> list[str]:
    """Draws each curve, and writes `curves.md` with all of them; names of the figures."""
    names = []
    for curve in curves:
        names.append(f"plots/{curve.measure}.png")
        draw(curve, axis, folder / names[-1])
    pictures = [f"![{c.title}]({name})" for c, name in zip(curves, names, strict=True)]
    parts = [f"# {title}", text(curves, axis), *pictures]
    files.write(folder / "curves.md", "\n\n".join(parts) + "\n")
    return names


def draw(curve: Curve, axis: str, target: Path) -> None:
    """The shares of single runs, their mean, its 95% band, and where the threshold lies."""
    figure, axes = new_figure(f"{curve.title}, by {axis}")
    threshold = curve.threshold
    if threshold.low < threshold.high:
        axes.axvspan(
            threshold.low, threshold.high, color=SHADE, linewidth=0,
            label=f"enough from between {threshold.low:g} and {threshold.high:g}",
        )  # fmt: skip
    amounts = [point.amount for point in curve.points]
    banded = [point for point in curve.points if point.share.low is not None]
    axes.fill_between(
        [point.amount for point in banded],
        [max(0.0, point.share.low or 0.0) for point in banded],
        [min(1.0, point.share.high or 0.0) for point in banded],
        color=BAND, alpha=0.5, linewidth=0, label="95% interval over seeds and prompts",
    )  # fmt: skip
    axes.plot(amounts, [point.share.value for point in curve.points], color=LINE, linewidth=2)
    for point in curve.points:
        shares = list(point.by_seed.values())
        axes.plot(
            [point.amount] * len(shares), shares, color=LINE, marker="o", markersize=4,
            linestyle="none", markerfacecolor="white",
        )  # fmt: skip
    # Amounts crowd at the low end: so does the axis.
    axes.set_xscale("symlog", linthresh=max(1.0, min((a for a in amounts if a > 0), default=1.0)))
    axes.set_xticks(amounts, [f"{amount:g}" for amount in amounts])
    axes.minorticks_off()
    axes.set_ylim(0, 1.02)
    axes.set_xlabel(axis, color=TEXT)
    axes.grid(axis="x", color=GRID, linewidth=0.4)
    axes.legend(loc="lower right", frameon=False, fontsize=8)
    save(figure, target)


def text(curves: Sequence[Curve], axis: str) -> str:
    """Tables in Markdown, each with what it shows of the threshold."""
    parts = []
    for curve in curves:
        threshold = curve.threshold
        verdicts = {one.amount: one for one in threshold.comparisons}
        lines = [
            f"**{curve.title}**",
            "",
            f"| {axis} | share (95% interval) | by seed | beside the largest | as good? |",
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
    """What the data say of the threshold, and what they leave open."""
    found, largest = curve.threshold, curve.points[-1].amount
    margin = f"within {found.margin:.0%} of those at {largest:g}"
    if found.low == found.high:
        known = f"exactly from {found.low:g} on (95%)"
    else:
        known = f"from somewhere between {found.low:g} and {found.high:g} on (95%)"
    return f"Outcomes are {margin} from {axis} {found.estimate:g} on by the means; {known}."


def interval(mean: TableMean, signed: bool = False) -> str:
    """A mean and its interval, in words; of shares inside [0, 1], unless `signed`."""
    form = "{:+.2f}" if signed else "{:.2f}"
    value = form.format(mean.value)
    if mean.low is None or mean.high is None:
        return f"{value} (one seed: no interval)"
    low, high = (mean.low, mean.high) if signed else (max(0.0, mean.low), min(1.0, mean.high))
    return f"{value} ({form.format(low)} to {form.format(high)})"
