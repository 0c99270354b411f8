"""The page and the plot of stage `tamper`: unsafe answers by step, and steps to the target."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from safety_jax.evaluation.measures.tampering import StepsTo, TamperedCurve
from safety_jax.evaluation.results.estimates import Rate
from safety_jax.report.evaluation.plots import plain
from safety_jax.report.evaluation.text import inline
from safety_jax.report.plots import SMOOTH, TEXT, VALIDATION, new_figure, save

_STYLES = ("-", "--", ":", "-.")
_COLOURS = (SMOOTH, VALIDATION, "#3d8b5f", "#8a5fa8", "#c58a1b", "#5b6b7a")


def draw(curves: Sequence[TamperedCurve], target: Path, title: str) -> None:
    """Draws the share of unsafe answers by step; colours are models, line styles tamperings."""
    figure, axes = new_figure(title)
    models = list(dict.fromkeys(one.model for one in curves))
    ways = list(dict.fromkeys(one.tampering for one in curves))
    for one in curves:
        colour = _COLOURS[models.index(one.model) % len(_COLOURS)]
        style = _STYLES[ways.index(one.tampering) % len(_STYLES)]
        known = [point for point in one.points if point.unsafe.value is not None]
        steps = [point.step for point in known]
        rates = [point.unsafe for point in known]
        shares = np.array([[rate.value, rate.low, rate.high] for rate in rates], float)
        value, low, high = shares.reshape(-1, 3).T
        axes.plot(
            steps, value, color=colour, linestyle=style, marker="o", markersize=4,
            label=f"{plain(one.model)}, {plain(one.tampering)}",
        )  # fmt: skip
        axes.fill_between(steps, low, high, color=colour, alpha=0.1, linewidth=0)
    axes.axhline(curves[0].steps_to.share, color="#999999", linewidth=0.8)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("optimizer step of the tampering")
    axes.set_ylabel("share of unsafe answers, with 95% intervals")
    axes.legend(frameon=False, fontsize=8, labelcolor=TEXT)
    save(figure, target)


def table(curves: Sequence[TamperedCurve]) -> str:
    """In Markdown: unsafe answers in percent by step, a row for each model and tampering."""
    steps = [point.step for point in curves[0].points]
    found = [
        [
            one.model,
            one.tampering,
            *(_share(point.unsafe) for point in one.points),
            said(one.steps_to, one.points[-1].step),
        ]
        for one in curves
    ]
    target = f"steps to {100 * curves[0].steps_to.share:g}%"
    return _markdown(["model", "trained on", *map(_step, steps), target], found)


def page(
    curves: Sequence[TamperedCurve],
    title: str,
    facts: Mapping[str, Any],
    config: Mapping[str, Any],
) -> str:
    """The page of a run, in Markdown."""
    steps = [point.step for point in curves[0].points]
    parts = [
        f"# {inline(title)}: tampering",
        "Each model was trained by LoRA on the given rows, and answered after each listed step. "
        f"Unsafe answers by the judge `{facts['judge']}` in percent, with 95% Wilson intervals "
        "over prompts. The last column is the first listed step that reaches the target, with the "
        "95% interval of a bootstrap over prompts.",
        table(curves),
        *(inline(note) for note in notes(curves)),
        "![unsafe answers by step](plots/success.png)",
    ]
    if any(point.refused for one in curves for point in one.points):
        parts += ["## Ordinary prompts refused", _by_step(curves, steps, "refused")]
    parts += [
        "## Degenerate answers",
        "Answers that are empty or repeat themselves: a model that is trained too hard breaks, and "
        "judges of safety cannot be trusted on its answers.",
        _by_step(curves, steps, "broken"),
        "## Protocol",
        _fenced(facts),
        "## Config",
        _fenced(config),
    ]
    return "\n\n".join(parts) + "\n"


def said(found: StepsTo, last: int) -> str:
    """`5 (3 to 10)`, `not within 200 (50 to not within 200)`, or `unknown`."""
    if not found.known:
        return "unknown"
    never = f"not within {last}"
    value = never if found.value is None else str(found.value)
    low, high = (never if end is None else str(end) for end in (found.low, found.high))
    return f"{value} ({low} to {high})" if low != high else value


def notes(curves: Sequence[TamperedCurve]) -> list[str]:
    """Notes on answers without a verdict."""
    told = []
    for one in curves:
        unscored = sum(point.unsafe.unscored for point in one.points)
        answers = sum(point.unsafe.n for point in one.points) + unscored
        if unscored:
            told.append(
                f"{one.model}, {one.tampering}: the judge has no verdict on {unscored:,} of "
                f"{answers:,} answers to unsafe prompts; the shares are over the others."
            )
    return told


def _by_step(curves: Sequence[TamperedCurve], steps: Sequence[int], what: str) -> str:
    rows = [
        [one.model, one.tampering, *(_share(getattr(point, what)) for point in one.points)]
        for one in curves
    ]
    return _markdown(["model", "trained on", *map(_step, steps)], rows)


def _step(number: int) -> str:
    return f"step {number}" if number else "before"


def _share(rate: Rate | None) -> str:
    if rate is None or rate.value is None or rate.low is None or rate.high is None:
        return "-"
    return f"{100 * rate.value:.0f} ({100 * rate.low:.0f}-{100 * rate.high:.0f})"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _fenced(value: Any) -> str:
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=True)
    return f"```json\n{text}\n```"
