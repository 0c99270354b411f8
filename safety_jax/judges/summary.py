"""Summaries of a run's scores by judge and source, and the correlations of judges."""

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from safety_jax.judges.inputs import ScoreInput, Stored
from safety_jax.judges.judge import SAFER, JudgeCard, Score, clusters_of
from safety_jax.maths import clusters

FEWEST = 3  # pairs of scores that a correlation needs


def describe(
    card: JudgeCard, items: Sequence[ScoreInput], scores: Sequence[Score]
) -> dict[str, Any]:
    """A judge's card and figures: over all rows, and by source if there are several."""
    facts: dict[str, Any] = {"card": dataclasses.asdict(card), "protocol": card.protocol()}
    facts |= figures(card, items, scores)
    sources = list(dict.fromkeys(item.source for item in items))
    if len(sources) > 1:
        facts["by_source"] = {}
        for source in sources:
            places = [i for i, item in enumerate(items) if item.source == source]
            own = [items[i] for i in places], [scores[i] for i in places]
            facts["by_source"][source] = figures(card, *own)
    return facts


def figures(
    card: JudgeCard, items: Sequence[ScoreInput], scores: Sequence[Score]
) -> dict[str, Any]:
    """Counts, moments, labels, reasons, and the unsafe share of scored rows with its 95% interval,
    for which the answers to one prompt are one cluster (`maths.clusters`), and with its bounds if
    every unscored row were safe, or unsafe."""
    values = np.array([score.value for score in scores if score.value is not None])
    unscored = [score.reason for score in scores if score.value is None]
    found: dict[str, Any] = {
        "rows": len(scores),
        "scored": len(values),
        "unscored": len(unscored),
        "reasons": dict(Counter(_kind(reason) for reason in unscored).most_common()),
        "labels": dict(Counter(s.label for s in scores if s.label).most_common()),
    }
    if len(values):
        found |= {
            "mean": float(values.mean()),
            "median": float(np.median(values)),
            "deviation": float(values.std()),
            "lowest": float(values.min()),
            "highest": float(values.max()),
        }
    verdicts = [card.is_unsafe(score) for score in scores]
    judged = [verdict for verdict in verdicts if verdict is not None]
    if judged:
        prompts = clusters_of([item.conversation for item in items])
        known = np.array([verdict is not None for verdict in verdicts])
        low, high = clusters.share(np.array(judged, bool), prompts[known])
        found["unsafe"] = {
            "count": sum(judged),
            "share": sum(judged) / len(judged),
            "interval": [low, high],
            "bounds": [sum(judged) / len(scores), 1 - judged.count(False) / len(scores)],
        }
    return found


def _kind(reason: str) -> str:
    """The reason with its numbers removed, for counting."""
    return re.sub(r"\d[\d.,e+-]*", "N", reason)


def correlations(scores: Mapping[str, Sequence[Score]], stored: Stored) -> list[dict[str, Any]]:
    """Spearman's rank correlation of every two columns, over the rows with both values."""
    columns: dict[str, Sequence[float | None]] = {
        name: [score.value for score in found] for name, found in scores.items()
    }
    columns |= {f"{name} (stored)": values for name, values in stored.items()}
    found = []
    for first, second in itertools.combinations(columns, 2):
        pairs = [
            (a, b)
            for a, b in zip(columns[first], columns[second], strict=True)
            if a is not None and b is not None
        ]
        rho = _spearman(pairs)
        found.append({"first": first, "second": second, "rows": len(pairs), "spearman": rho})
    return found


def _spearman(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Spearman's correlation; None if there are too few pairs, or one side is constant."""
    if len(pairs) < FEWEST or any(len(set(side)) == 1 for side in zip(*pairs, strict=True)):
        return None
    first, second = zip(*pairs, strict=True)
    return float(stats.spearmanr(first, second).statistic)


# ---------------------------------------------------------------------------- for the terminal


def tables(summary: Mapping[str, Any]) -> str:
    """The summary as text: a table of judges, and one of their correlations."""
    head = ("judge", "source", "scored", "unscored", "mean", "median", "unsafe [95%]", "labels")
    lines: list[tuple[str, ...]] = []
    for name, judge in summary["judges"].items():
        lines.append((name, "all", *_cells(judge)))
        lines += [
            ("", source, *_cells(part)) for source, part in judge.get("by_source", {}).items()
        ]
    text = _table(head, lines)
    for name, judge in summary["judges"].items():
        card = judge["card"]
        line = card["threshold"]
        side = "below" if card["direction"] == SAFER else "from"
        says = "" if line is None else f"; unsafe {side} {line:g}"
        text += f"\n{name}: {card['kind']} {card['model']}".rstrip() + f", {card['direction']}"
        text += f"{says}; protocol {judge['protocol']}"
        for reason, count in judge["reasons"].items():
            text += f"\n    {count} unscored: {reason}"
    agreement = [
        (c["first"], c["second"], str(c["rows"]), _number(c["spearman"]))
        for c in summary["correlations"]
    ]
    if agreement:
        text += "\n\n" + _table(("agreement of", "with", "rows", "Spearman"), agreement)
    return text


def _cells(part: Mapping[str, Any]) -> tuple[str, ...]:
    unsafe = "-"
    if "unsafe" in part:
        low, high = part["unsafe"]["interval"]
        unsafe = f"{part['unsafe']['share']:.1%} [{low:.1%}, {high:.1%}]"
    labels = ", ".join(f"{label} {count}" for label, count in part["labels"].items())
    numbers = (_number(part.get("mean")), _number(part.get("median")))
    return (str(part["scored"]), str(part["unscored"]), *numbers, unsafe, labels or "-")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]
    rows = [head, ["-" * width for width in widths], *lines]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
