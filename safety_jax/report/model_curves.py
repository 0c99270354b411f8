"""Curves of several models in one figure and one table, and whether one needs more than another."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from safety_jax.base import files
from safety_jax.evaluation.measures.curves import Curve
from safety_jax.evaluation.measures.model_curves import ModelCurves, ModelPair
from safety_jax.maths.thresholds import HELD, NOT_HELD
from safety_jax.report import curves as single
from safety_jax.report.curves import interval, points
from safety_jax.report.evaluation.plots import look, plain
from safety_jax.report.evaluation.text import inline
from safety_jax.report.plots import TEXT, new_figure, save


def write(
    found: Sequence[ModelCurves], axis: str, folder: Path, title: str, notes: Sequence[str]
) -> None:
    """Draws each measure, and writes `models.md` with all of them and the notes."""
    pictures = []
    for one in found:
        name = f"plots/{one.measure}.png"
        draw(one, axis, folder / name)
        pictures.append(f"![{one.title}]({name})")
    parts = [f"# {inline(title)}", text(found, axis), *map(inline, notes), *pictures]
    files.write(folder / "models.md", "\n\n".join(parts) + "\n")


def draw(found: ModelCurves, axis: str, target: Path) -> None:
    """A line and a band for each model; below them a bar over each model's threshold."""
    figure, axes = new_figure(f"{found.title}, by {axis} and model")
    for place, (name, curve) in enumerate(found.curves.items()):
        colour, shape = look(place + 1)  # the first colour is a baseline's grey
        amounts = [point.amount for point in curve.points]
        single.fill_band(axes, curve, color=colour, alpha=0.15)
        axes.plot(
            amounts, [point.share.value for point in curve.points], color=colour, linewidth=2,
            marker=shape, markersize=6, label=plain(name),
        )  # fmt: skip
        threshold = curve.threshold
        height = -0.05 * (1 + place)
        axes.plot([threshold.low, threshold.high], [height] * 2, color=colour, linewidth=3)
        axes.plot([threshold.estimate], [height], color=colour, marker=shape, markersize=6)
    single.space_amounts(axes, amounts)
    below = 0.05 * (len(found.curves) + 1)
    axes.set_ylim(-below, 1.02)
    axes.set_yticks([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    axes.set_xlabel(f"{axis}; below 0: threshold and its 95% interval", color=TEXT)
    # Beside the axes: curves may be anywhere inside, and a threshold's bar below.
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)
    save(figure, target)


def text(found: Sequence[ModelCurves], axis: str) -> str:
    """Tables in Markdown, each with what it shows."""
    return "\n\n".join(
        "\n".join([f"**{one.title}**", "", *_shares(one, axis), "", *_deficits(one, axis)])
        for one in found
    )


def _shares(found: ModelCurves, axis: str) -> list[str]:
    """A column for each model, and its threshold in the last row."""
    columns: Mapping[str, dict[float, str]] = {
        name: {point.amount: interval(point.share) for point in curve.points}
        for name, curve in found.curves.items()
    }
    amounts = list(next(iter(columns.values())))
    lines = [f"| {axis} | {' | '.join(map(inline, columns))} |", "|---" * (len(columns) + 1) + "|"]
    for amount in amounts:
        row = [column.get(amount, "") for column in columns.values()]
        lines.append(f"| {amount:g} | {' | '.join(row)} |")
    row = [_enough(curve) for curve in found.curves.values()]
    return [*lines, f"| **enough** (95% interval) | {' | '.join(row)} |"]


def _enough(curve: Curve) -> str:
    found, amounts = curve.threshold, [point.amount for point in curve.points]
    if found.high == amounts[0]:
        return "any: the curve is flat"
    more = " or more" if found.high == amounts[-1] else ""
    return f"{found.estimate:g} ({found.low:g} to {found.high:g}{more})"


def _deficits(found: ModelCurves, axis: str) -> list[str]:
    lines = [
        f"| {axis} | models | difference of deficits | equal? |",
        "|---" * 4 + "|",
    ]
    lines += [
        f"| {one.amount:g} | {inline(pair.second)} against {inline(pair.first)} "
        f"| {interval(one.difference, signed=True, most=2.0)} | {one.verdict} |"
        for pair in found.pairs
        for one in pair.deficits
    ]
    margin = next(iter(found.curves.values())).threshold.margin
    said = [sentence(pair, axis, margin) for pair in found.pairs]
    said += [_rising(name, curve, axis) for name, curve in found.curves.items()]
    return [*lines, "", *(f"- {text}" for text in said if text)]


def _rising(name: str, curve: Curve, axis: str) -> str:
    """A sentence if a model may need more than the largest amount: its deficits are then
    underestimated."""
    *smaller, largest = (point.amount for point in curve.points)
    if not smaller or curve.threshold.high < largest:
        return ""
    return (
        f"{inline(name)} may need more than {largest:g} {axis}: {smaller[-1]:g} are not shown to "
        "be as good, and no larger amount was tried."
    )


def sentence(pair: ModelPair, axis: str, margin: float) -> str:
    """Whether a pair of models needs the same amount."""
    claim = f"{inline(pair.second)} needs as many {axis} as {inline(pair.first)}: {pair.verdict}"
    if pair.verdict == HELD:
        return f"{claim}; at every amount their deficits are equal within {points(margin)}."
    apart = [one for one in pair.deficits if one.verdict == NOT_HELD]
    if not apart:
        return f"{claim}."
    said = [
        f"{'larger' if one.difference.value < 0 else 'smaller'} at {one.amount:g}" for one in apart
    ]
    return f"{claim}; its deficit against its own largest amount is {', '.join(said)}."
