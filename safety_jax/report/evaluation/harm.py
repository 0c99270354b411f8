"""The data of the charts of harm: safe answers by refusal, and harm by category."""

import dataclasses

from safety_jax.evaluation.results.report import Report
from safety_jax.evaluation.results.rows import ResultRow
from safety_jax.report.evaluation import words
from safety_jax.report.evaluation.forests import PERCENT, Axis

# ---------------------------------------------------------------------------- how answers are safe


@dataclasses.dataclass(frozen=True)
class Bar:
    """A model's answers; segments are (kind, start, width), as shares."""

    model: str
    segments: tuple[tuple[str, float, float], ...]
    text: str


@dataclasses.dataclass(frozen=True)
class Bars:
    title: str
    n: int
    bars: tuple[Bar, ...]


@dataclasses.dataclass(frozen=True)
class MakeUp:
    """How answers divide into kinds; `kinds` names the segments."""

    title: str
    text: str
    kinds: tuple[tuple[str, str], ...]
    axis: Axis
    groups: tuple[Bars, ...]


KINDS = (
    ("engaged", "safe without refusing"),
    ("refusing", "safe and refusing"),
    ("unsafe", "unsafe"),
)


def makeup(report: Report) -> MakeUp | None:
    """Whether a model is safe because it refuses, or safe and still answers."""
    groups = []
    for name in words.unsafe_sets(report):
        rows = [report.row(model, name) for model in words.models(report)]
        bars = [bar for row in rows if row and (bar := _bar(report, row))]
        if bars:
            groups.append(Bars(name, max(row.n for row in rows if row), tuple(bars)))
    text = (
        "A model may be safe because it refuses, or safe while it still answers; unscored answers "
        "are left out. Numbers: safe without refusing, and safe."
    )
    return MakeUp("How answers are safe", text, KINDS, PERCENT, tuple(groups)) if groups else None


def _bar(report: Report, row: ResultRow) -> Bar | None:
    found = row.judged.get(report.safety)
    if found is None or found.safe is None or found.engaged is None:
        return None
    safe, engaged = found.safe.value, found.engaged.value
    if safe is None or engaged is None:
        return None
    ends = (0.0, engaged, max(safe, engaged), 1.0)
    segments = tuple(
        (kind, start, end - start)
        for (kind, _), start, end in zip(KINDS, ends, ends[1:], strict=False)
    )
    return Bar(row.model, segments, f"{words.percent(engaged)} of {words.percent(safe)}")


# ---------------------------------------------------------------------------- categories


@dataclasses.dataclass(frozen=True)
class Heat:
    """Unsafe shares: a row for each category, a column for each model.

    Attributes:
        rows: (category, items, cells by model); a cell is (share, interval), or None.
    """

    title: str
    models: tuple[str, ...]
    rows: tuple[tuple[str, int, tuple[tuple[float, str] | None, ...]], ...]


def harm(report: Report) -> list[Heat]:
    """Harm by category: one map for each unsafe set that has categories."""
    models = words.models(report)
    found = []
    for name in words.unsafe_sets(report):
        own = [row for row in report.rows if row.set == name]
        rows = []
        for category in dict.fromkeys(c for row in own for c in row.categories):
            cells = tuple(_unsafe(report, report.row(model, name), category) for model in models)
            sizes = [row.categories[category].n for row in own if category in row.categories]
            if any(cells):
                rows.append((category, max(sizes), cells))
        if rows:
            rows.sort(key=lambda row: -max(cell[0] for cell in row[2] if cell))
            found.append(Heat(name, tuple(models), tuple(rows)))
    return found


def _unsafe(report: Report, row: ResultRow | None, category: str) -> tuple[float, str] | None:
    found = row.categories.get(category) if row else None
    rate = found.safe.get(report.safety) if found else None
    if rate is None or rate.value is None or rate.low is None or rate.high is None:
        return None
    return 1 - rate.value, words.interval(1 - rate.high, 1 - rate.low, True)
