"""The results of a suffix search: a plot of its losses, a card, and a message."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safety_jax.evaluation.search.gcg import Step
from safety_jax.report.evaluation.text import inline
from safety_jax.report.plots import RAW, SMOOTH, TEXT, new_figure, save

MOST_LINES = 40  # individual searches that the plot shows
MOST_ROWS = 50  # requests that the card lists


def draw(found: Sequence[Sequence[Step]], target: Path, title: str) -> None:
    """Draws the loss of every search by step; in a universal one, lines mark added requests."""
    figure, axes = new_figure(title)
    for steps in found[:MOST_LINES]:
        alone = len(found) == 1
        axes.plot(
            [step.step for step in steps],
            [step.loss for step in steps],
            color=SMOOTH if alone else RAW,
            linewidth=1.5 if alone else 1.0,
        )
        for last, step in zip(steps, steps[1:], strict=False):
            if alone and step.goals > last.goals:
                axes.axvline(step.step, color="#cccccc", linewidth=0.8, zorder=0)
                axes.annotate(
                    f"{step.goals}", (step.step, axes.get_ylim()[1]), color=TEXT, fontsize=8
                )
    axes.set_xlabel("step")
    axes.set_ylabel("loss, nats per token of the target")
    axes.set_ylim(bottom=0)
    save(figure, target)


def summary(results: Mapping[str, Any]) -> str:
    """A message of two lines."""
    rows = results["requests"]
    reached = sum(row["reached"] for row in rows)
    before, after = (sum(row[key] for row in rows) / len(rows) for key in ("loss_before", "loss"))
    rate = results["candidates_per_second"]
    speed = "" if rate is None else f", {rate:,.0f} candidates/s"
    return (
        f"mean loss {before:.3f} before, {after:.3f} with the suffix; {reached} of {len(rows)} "
        f"targets reached\n{results['steps']:,} steps, {results['evaluations']:,} losses of a "
        f"candidate and a request{speed}"
    )


def card(results: Mapping[str, Any], title: str, name: str) -> str:
    """README.md of the run.

    Args:
        name: the file of suffixes.
    """
    settings = results["settings"]
    rows = results["requests"]
    shown = "\n".join(
        f"| {_cell(row['id'])} | {row['loss_before']:.3f} | {row['loss']:.3f} | "
        f"{'yes' if row['reached'] else 'no'} | {'yes' if row['searched'] else 'no'} | "
        f"{row['step']} | {_cell(row['target'], 60)} |"
        for row in rows[:MOST_ROWS]
    )
    more = f"\n{len(rows) - MOST_ROWS} more are in results.json.\n" if len(rows) > MOST_ROWS else ""
    lines = summary(results).splitlines()
    return f"""# {_cell(title)}

Suffixes that make a model comply, found by GCG (Zou et al., arXiv 2307.15043); {results["mode"]}
search.

{lines[0]}.
{lines[1]}.

![loss](plots/loss.png)

**This is no success rate.** A reached target means that the model begins its answer with it; a
judge decides whether the answer is unsafe:

    safety-jax --config=evaluate --config.evaluate.models=model=MODEL \\
        '--config.evaluate.sets=SET?attack=suffix:{name}' --config.data.template=TEMPLATE

| | |
|---|---|
| model | {_cell(results["model"])} |
| set | {_cell(results["set"])}, {len(rows)} requests |
| template | {_cell(results["template"])} |
| suffix | {len(results["start"].split())} words to start from, {settings["steps"]} steps of \
{settings["candidates"]} candidates, top {settings["top_k"]}, seed {settings["seed"]} |

| request | loss before | loss | reached | in the search | step | target |
|---|---|---|---|---|---|---|
{shown}
{more}"""


def _cell(text: str, most: int = 200) -> str:
    """Untrusted text as one cell of a table: one line, without markup or invisible characters."""
    line = " ".join(text.split())
    return inline(line if len(line) <= most else f"{line[: most - 1]}…")
