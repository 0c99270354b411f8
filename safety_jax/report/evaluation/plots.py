"""PNGs of the report's charts, for model cards and slides."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from safety_jax.evaluation.results.report import Report
from safety_jax.report.evaluation import escaping, forests, harm, tradeoff, words
from safety_jax.report.evaluation.forests import Axis, Forest
from safety_jax.report.evaluation.harm import Heat
from safety_jax.report.evaluation.tradeoff import TradeOff
from safety_jax.report.plots import GRID, TEXT, new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours and shapes of models, as on the page.
COLOURS = (
    "#5a6470", "#0072b2", "#c4500a", "#00805f", "#b0508c", "#9a7400", "#2f8fc9", "#7351b5",
)  # fmt: skip
SHAPES = "os^DvPHX"
LINE = 0.22  # inches between marks
LONGEST = 40  # characters of a name
LETTER = 0.08  # inches of one, in a legend


def draw(report: Report, folder: Path) -> list[str]:
    """Draws the plots for which there are figures; returns their paths, relative to the folder's
    parent."""
    shares = [f for f in (forests.safe(report), forests.over_refusal(report)) if f]
    wanted: tuple[tuple[str, Sequence, Callable], ...] = (
        ("forest", shares, _forests),
        ("changes", forests.changes(report)[:1], _forests),
        ("pareto", tradeoff.trade_offs(report), _trade_offs),
        ("categories", harm.harm(report), _heats),
        ("refusal_types", forests.types(report), _forests),
    )
    drawn = []
    with warnings.catch_warnings():
        # Names in scripts that the font lacks get boxes; the page shows them correctly.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        for name, found, painter in wanted:
            if found:
                save(painter(found, report), folder / f"{name}.png")
                drawn.append(f"{folder.name}/{name}.png")
    return drawn


def plain(text: str) -> str:
    """A name for matplotlib: one line, no formulas; legends leave out what begins with _."""
    text = escaping.line(text)
    text = text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
    return f"{' ' * text.startswith('_')}{text}".replace("$", r"\$")


def _canvas(width: float, height: float, title: str, panels: Sequence[float], across: bool):
    """A figure with a panel for each size."""
    figure, only = new_figure("")
    only.remove()
    figure.set_size_inches(width, height)
    figure.suptitle(plain(title), x=0.01, ha="left", color=TEXT, fontsize=12, fontweight="bold")
    if across:
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
    else:
        axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=list(panels))[:, 0]
    for panel in axes:
        panel.spines[["top", "right", "left"]].set_visible(False)
        panel.spines["bottom"].set_color("#999999")
        panel.tick_params(colors=TEXT, length=0)
        panel.set_axisbelow(True)
    return figure, axes


# ---------------------------------------------------------------------------- forests


def _forests(found: Sequence[Forest], report: Report) -> "Figure":
    heights = [sum(len(group.marks) + 1.2 for group in forest.groups) + 1.5 for forest in found]
    figure, axes = _canvas(8.0, LINE * sum(heights) + 0.7, report.title, heights, across=False)
    for panel, forest in zip(axes, found, strict=True):
        _forest(panel, forest)
    return figure


def _forest(axes: "Axes", forest: Forest) -> None:
    at, places, names = 0.0, [], []
    for group in forest.groups:
        axes.text(
            -0.01, at, f"{plain(group.title)}, n = {group.n}", transform=axes.get_yaxis_transform(),
            ha="right", va="center", fontsize=8, fontweight="bold", color=TEXT,
        )  # fmt: skip
        at += 1
        for mark in group.marks:
            colour, shape = look(mark.place)
            axes.hlines(at, mark.span[0], mark.span[2], color=colour, linewidth=1.6, alpha=0.75)
            axes.plot(
                mark.span[1], at, marker=shape, color=colour, markersize=5.5, linestyle="none"
            )
            axes.text(
                1.02, at, mark.text, transform=axes.get_yaxis_transform(), fontsize=7.5,
                va="center", color=TEXT,
            )  # fmt: skip
            places.append(at)
            names.append(plain(mark.model))
            at += 1
        at += 0.2
    _axis(axes, forest.axis)
    axes.set_yticks(places, names, fontsize=8)
    axes.set_ylim(at - 0.2, -1)
    axes.set_title(plain(forest.title), loc="left", color=TEXT, fontsize=10)


def _axis(axes: "Axes", axis: Axis) -> None:
    axes.set_xlim(-0.015, 1.015)
    axes.set_xticks([at for at, _ in axis.ticks], [text for _, text in axis.ticks], fontsize=8)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    if axis.zero is not None:
        axes.axvline(axis.zero, color="#777777", linewidth=1)


def look(place: int) -> tuple[str, str]:
    """A colour and a shape, different for each of the first 64 models."""
    rounds, colour = divmod(place, len(COLOURS))
    return COLOURS[colour], SHAPES[(colour + rounds) % len(SHAPES)]


# ---------------------------------------------------------------------------- trade-offs


def _trade_offs(found: Sequence[TradeOff], report: Report) -> "Figure":
    width = 3.8 * len(found) + 0.4
    figure, axes = _canvas(width, 4.2, report.title, [1.0] * len(found), across=True)
    for panel, trade_off in zip(axes, found, strict=True):
        _trade_off(panel, trade_off)
    axes[0].set_ylabel(f"safe answers, by {plain(report.safety)}", color=TEXT)
    for place, model in enumerate(words.models(report)):
        colour, shape = look(place)
        axes[0].plot([], [], marker=shape, color=colour, linestyle="none", label=plain(model))
    longest = max(len(plain(model)) for model in words.models(report))
    columns = min(4, max(1, int(width / (0.55 + LETTER * longest))))
    figure.legend(
        loc="outside lower left", ncols=columns, frameon=False, fontsize=9, labelcolor=TEXT
    )
    return figure


def _trade_off(axes: "Axes", found: TradeOff) -> None:
    from matplotlib.ticker import FuncFormatter, PercentFormatter

    for point in found.points:
        colour, shape = look(point.place)
        (left, x, right), (low, y, high) = point.across, point.up
        axes.hlines(y, left, right, color=colour, linewidth=1.3, alpha=0.5)
        axes.vlines(x, low, high, color=colour, linewidth=1.3, alpha=0.5)
        axes.plot(x, y, marker=shape, color=colour, markersize=7, linestyle="none", zorder=3)
    best = sorted((point.across[1], point.up[1]) for point in found.points if point.best)
    if len(best) > 1:
        # The Pareto front, in steps.
        axes.step(
            *zip(*best, strict=True), where="pre", color="#777777", linewidth=1, linestyle="--"
        )
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    number = (
        PercentFormatter(1, decimals=0) if found.shares else FuncFormatter(lambda x, _: f"{x:g}")
    )
    axes.xaxis.set_major_formatter(number)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_xlabel(f"{plain(found.title)} →", color=TEXT, fontsize=9)


# ---------------------------------------------------------------------------- categories


def _heats(found: Sequence[Heat], report: Report) -> "Figure":
    heights = [len(heat.rows) + 1.6 for heat in found]
    models = max(len(heat.models) for heat in found)
    size = (3.2 + 1.5 * models, 0.34 * sum(heights) + 0.8)
    figure, axes = _canvas(*size, report.title, heights, across=False)
    for panel, heat in zip(axes, found, strict=True):
        _heat(panel, heat)
    return figure


def _heat(axes: "Axes", heat: Heat) -> None:
    from matplotlib import colormaps

    shades = colormaps["Oranges"]
    for i, (_, _, cells) in enumerate(heat.rows):
        for k, cell in enumerate(cells):
            if cell is None:
                continue
            share, interval = cell
            shade = shades(0.05 + 0.85 * share)
            axes.add_patch(_square(k, i, shade))
            axes.text(
                k, i, f"{100 * share:.0f}%  {interval}", ha="center", va="center", fontsize=7.5,
                color=_ink(shade),
            )  # fmt: skip
    axes.set_xlim(-0.5, len(heat.models) - 0.5)
    axes.set_ylim(len(heat.rows) - 0.5, -0.5)
    axes.set_xticks(range(len(heat.models)), [plain(model) for model in heat.models], fontsize=8)
    labels = [f"{plain(category)}  {n}" for category, n, _ in heat.rows]
    axes.set_yticks(range(len(heat.rows)), labels, fontsize=8)
    axes.xaxis.tick_top()
    axes.spines["bottom"].set_visible(False)
    axes.set_title(f"Unsafe answers, {plain(heat.title)}", loc="left", color=TEXT, fontsize=10)


def _ink(shade: tuple[float, ...]) -> str:
    """Black or white, whichever has more contrast (WCAG's relative luminance)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shade[:3]]
    return "white" if np.dot(linear, (0.2126, 0.7152, 0.0722)) < 0.18 else "black"


def _square(x: int, y: int, colour: tuple[float, ...]):
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.49, y - 0.46), 0.98, 0.92, facecolor=colour)
