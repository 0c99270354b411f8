"""Plots and metrics of a run of RAFT, from the summaries of its rounds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from safety_jax.report.evaluation.plots import plain
from safety_jax.report.plots import RAW, SMOOTH, TEXT, VALIDATION, bare_axes, new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RoundSummary = Mapping[str, Any]
# Figures that are summed over rounds.
TOTALS = (
    "prompts",
    "generated_tokens",
    "judged_tokens",
    "trained_tokens",
    "optimizer_steps",
    "sampling_flops",
    "training_flops",
)
# Panels with one line each: (key, title, whether the axis begins at 0).
PANELS = (
    ("prompts_without_choice_share", "prompts without acceptable candidate, share", True),
    ("distinct_2", "distinct-2 of candidates", True),
    ("unique_share", "different candidates a prompt, share", True),
    ("length/selected", "tokens of a selected answer", True),
    ("kl_to_start", "log p/p0 of a candidate, nats", False),
)
REWARDS = (
    ("reward/best_of_candidates", "best of the candidates", RAW),
    ("reward/selected", "selected", VALIDATION),
    ("reward/mean", "mean", SMOOTH),
)


def figures(summary: RoundSummary) -> dict[str, int | float]:
    """The numbers of a round, those of its evaluation as eval/<judge>/<source>/<figure>."""
    found: dict[str, int | float] = {
        name: value
        for name, value in summary.items()
        if isinstance(value, int | float) and name != "round"
    }
    for judge, sources in summary.get("evaluation", {}).items():
        for source, values in sources.items():
            for name, value in values.items():
                if isinstance(value, int | float):
                    found[f"eval/{judge}/{source}/{name}"] = value
    for phase, seconds in summary.get("seconds", {}).items():
        found[f"seconds/{phase}"] = seconds
    return found


def draw(summaries: Sequence[RoundSummary], folder: Path, title: str) -> list[str]:
    """Draws the plots for which there are figures; returns their paths in the run's folder."""
    folder.mkdir(exist_ok=True)
    learned = [row for row in summaries if row["round"]]
    drawn = []
    if any(row.get("reward/mean") is not None for row in learned):
        draw_rewards(learned, folder / "rewards.png", title)
        draw_histograms(learned, folder / "reward_histogram.png", title)
        drawn += ["plots/rewards.png", "plots/reward_histogram.png"]
    if learned:
        draw_health(learned, folder / "rounds.png", title)
        drawn.append("plots/rounds.png")
    if any("evaluation" in row for row in summaries):
        draw_safe_share(summaries, folder / "safe_share.png", title)
        drawn.append("plots/safe_share.png")
    return drawn


def draw_rewards(summaries: Sequence[RoundSummary], target: Path, title: str) -> None:
    """Mean, best-of-C and selected reward by round."""
    figure, axes = new_figure(title)
    for key, label, colour in REWARDS:
        _line(axes, summaries, key, colour, label)
    axes.set_xticks([row["round"] for row in summaries])
    _finish(axes, "reward, by the ranking judge")
    save(figure, target)


def draw_histograms(summaries: Sequence[RoundSummary], target: Path, title: str) -> None:
    """Rewards of all candidates in the first and in the last round."""
    figure, axes = new_figure(title)
    ends = [summaries[0], summaries[-1]] if len(summaries) > 1 else [summaries[-1]]
    for row, colour in zip(ends, (RAW, SMOOTH)[-len(ends) :], strict=True):
        found = row["reward/histogram"]
        counts = np.array(found["counts"])
        if counts.size:
            axes.stairs(
                counts / counts.sum(), found["edges"], fill=True, alpha=0.5, color=colour,
                label=f"round {row['round']}",
            )  # fmt: skip
    axes.set_xlabel("reward of a candidate")
    axes.set_ylabel("share of candidates")
    axes.legend(frameon=False, fontsize=9, labelcolor=TEXT)
    save(figure, target)


def draw_health(summaries: Sequence[RoundSummary], target: Path, title: str) -> None:
    """Signs of reward hacking and of too few acceptable candidates, one panel for each."""
    panels = [p for p in PANELS if any(row.get(p[0]) is not None for row in summaries)]
    figure, only = new_figure(title)
    only.remove()
    figure.set_size_inches(figure.get_figwidth(), 1.8 * len(panels) + 0.8)
    column = np.atleast_1d(figure.subplots(len(panels), sharex=True))
    for axes, (key, what, from_zero) in zip(column, panels, strict=True):
        bare_axes(axes)
        _line(axes, summaries, key, SMOOTH, what)
        axes.set_title(what, loc="left", color=TEXT, fontsize=9)
        if from_zero:
            axes.set_ylim(bottom=0)
        axes.set_xticks([row["round"] for row in summaries])
    column[-1].set_xlabel("round")
    save(figure, target)


def draw_safe_share(summaries: Sequence[RoundSummary], target: Path, title: str) -> None:
    """Safe answers to the held-out prompts after every round, with 95% intervals."""
    figure, axes = new_figure(title)
    lines: dict[tuple[str, str], list[tuple[int, float, float, float]]] = {}
    for row in summaries:
        for judge, sources in row.get("evaluation", {}).items():
            for source, found in sources.items():
                if "safe_share" in found:
                    point = (row["round"], found["safe_share"], *found["safe_share_95"])
                    lines.setdefault((judge, source), []).append(point)
    for (judge, source), points in lines.items():
        x, y, low, high = np.array(points).T
        label = f"{plain(source)}, by {plain(judge)}"
        (line,) = axes.plot(x, y, marker="o", markersize=4, label=label)
        axes.fill_between(x, low, high, color=line.get_color(), alpha=0.12, linewidth=0)
    axes.set_ylim(0, 1.02)
    axes.set_xticks([row["round"] for row in summaries])
    _finish(axes, "share of safe answers")
    save(figure, target)


def _line(
    axes: "Axes", summaries: Sequence[RoundSummary], key: str, colour: str, label: str
) -> None:
    known = [(row["round"], row[key]) for row in summaries if row.get(key) is not None]
    if known:
        x, y = np.array(known, float).T
        axes.plot(x, y, color=colour, marker="o", markersize=4, linewidth=2, label=label)


def _finish(axes: "Axes", what: str) -> None:
    axes.set_xlabel("round")
    axes.set_ylabel(what)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9, labelcolor=TEXT)
