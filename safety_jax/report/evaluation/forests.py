"""The data of forest plots: values with their intervals on one axis, for the page and the PNGs."""

import dataclasses
from collections.abc import Callable, Sequence

from safety_jax.evaluation.results.comparisons import Comparison
from safety_jax.evaluation.results.estimates import Rate
from safety_jax.evaluation.results.report import Report
from safety_jax.evaluation.results.rows import ResultRow
from safety_jax.evaluation.sets.items import SAFE, UNSAFE
from safety_jax.report.evaluation import cells, comparing, words
from safety_jax.report.evaluation.cells import Span


@dataclasses.dataclass(frozen=True)
class Mark:
    """A value with its interval, on an axis from 0 to 1.

    Attributes:
        model: its name.
        place: index of the model, for its colour and shape.
        span: low, value and high.
        text: value and interval as text.
        tone: "better", "worse" or "".
    """

    model: str
    place: int
    span: Span
    text: str
    tone: str = ""


@dataclasses.dataclass(frozen=True)
class ForestGroup:
    """The marks of a set, or of a category."""

    title: str
    n: int
    marks: tuple[Mark, ...]


@dataclasses.dataclass(frozen=True)
class Axis:
    """An axis: ticks as (position between 0 and 1, label), and the position of zero."""

    ticks: tuple[tuple[float, str], ...]
    zero: float | None = None


@dataclasses.dataclass(frozen=True)
class Forest:
    """Groups over one axis."""

    title: str
    text: str
    axis: Axis
    groups: tuple[ForestGroup, ...]


REACHES = (0.05, 0.1, 0.2, 0.5, 1.0)  # half-widths of an axis of differences
PERCENT = Axis(tuple((tick / 100, f"{tick}%") for tick in (0, 25, 50, 75, 100)))
Pick = Callable[[ResultRow], Rate | None]


def safe(report: Report) -> Forest | None:
    """Safe shares on every set, and on all together."""
    names = [name for name in words.unsafe_sets(report) if cells.safe_rates(report, name)]
    groups = _groups(report, names, lambda row: cells.safe_rate(report, row))
    text = "Share of safe answers to unsafe prompts, with 95% intervals. Further right is safer."
    return Forest(f"Safe, by {report.safety}", text, PERCENT, groups) if groups else None


def over_refusal(report: Report) -> Forest | None:
    """Refused shares of safe sets."""
    groups = _groups(report, words.names_of(report, SAFE), cells.any_refusal)
    text = (
        "Share of safe prompts that are refused, fully or partially, with 95% intervals. Further "
        "left is better."
    )
    return Forest("Over-refusal", text, PERCENT, groups) if groups else None


def _groups(report: Report, names: Sequence[str], pick: Pick) -> tuple[ForestGroup, ...]:
    models = words.models(report)
    rates: dict[str, list[Rate | None]] = {model: [] for model in models}
    groups = []
    for name in names:
        for model in models:
            row = report.row(model, name)
            rates[model].append(pick(row) if row else None)
        groups.append(_group(name, {model: found[-1] for model, found in rates.items()}))
    if len(names) > 1:
        pooled = {model: cells.pooled(found) for model, found in rates.items()}
        groups.append(_group("all together", pooled))
    return tuple(group for group in groups if group.marks)


def _group(title: str, rates: dict[str, Rate | None]) -> ForestGroup:
    marks = []
    for place, (model, rate) in enumerate(rates.items()):
        span = cells.span(rate)
        if span is not None:
            low, value, high = span
            text = f"{words.percent(value)} {words.interval(low, high, True)}"
            marks.append(Mark(model, place, span, text))
    n = max((rate.n + rate.unscored for rate in rates.values() if rate), default=0)
    return ForestGroup(title, n, tuple(marks))


# ---------------------------------------------------------------------------- against the baseline


def changes(report: Report) -> list[Forest]:
    """Differences from the baseline: one forest for each measure that is a share."""
    made = [c for c in comparing.compared(report) if words.is_share(c.measure)]
    return [
        forest
        for measure in dict.fromkeys(c.measure for c in made)
        if (forest := _changes(report, [c for c in made if c.measure == measure]))
    ]


def _changes(report: Report, found: Sequence[Comparison]) -> Forest | None:
    """One forest, with an axis as wide as the widest interval."""
    known = [(c, span) for c in found if (span := cells.span(c.difference)) is not None]
    if not known:
        return None
    widest = max(abs(end) for _, span in known for end in span)
    reach = next((reach for reach in REACHES if widest <= reach), REACHES[-1])
    ticks = ((i / 4, words.minus(f"{100 * reach * (i / 2 - 1):+g}")) for i in range(5))
    axis = Axis(tuple((at, "0" if at == 0.5 else text) for at, text in ticks), zero=0.5)
    groups = []
    for name in dict.fromkeys(c.set for c, _ in known):
        own = [(c, span) for c, span in known if c.set == name]
        marks = tuple(_change(report, c, span, reach) for c, span in own)
        groups.append(ForestGroup(words.sets(report, name), own[0][0].n, marks))
    title = f"{words.measure(known[0][0].measure).capitalize()}: change against {report.baseline}"
    text = (
        "In percentage points, with 95% intervals; one that crosses the middle line may be chance."
    )
    return Forest(title, text, axis, tuple(groups))


def _change(report: Report, c: Comparison, span: Span, reach: float) -> Mark:
    low, value, high = (end / (2 * reach) + 0.5 for end in span)
    text = f"{words.difference(c.difference, True)} {words.interval(span[0], span[2], True)}"
    if c.forced:
        text += " forced"
    place = words.models(report).index(c.second)
    return Mark(c.second, place, (low, value, high), text, words.tone(report, c))


# ---------------------------------------------------------------------------- by type


def types(report: Report) -> list[Forest]:
    """Refusals by type of prompt, on safe sets with types and on their unsafe twins."""
    safe_sets = words.names_of(report, SAFE)
    twins = {report.sets.get(name, {}).get("twin") for name in safe_sets}
    twins |= {name for name, facts in report.sets.items() if facts.get("twin") in safe_sets}
    found = []
    for name in [*safe_sets, *(name for name in words.unsafe_sets(report) if name in twins)]:
        wanted = "Further left is better" if name in safe_sets else "Further right is better"
        own = {row.model: row for row in report.rows if row.set == name}
        groups = []
        for category in dict.fromkeys(c for row in own.values() for c in row.categories):
            parts = {
                m: own[m].categories.get(category) if m in own else None
                for m in words.models(report)
            }
            rates = {
                m: part.refused.any if part and part.refused else None for m, part in parts.items()
            }
            groups.append(_group(category, rates))
        groups = [group for group in groups if group.marks]
        if groups:
            kind = words.KINDS[SAFE if name in safe_sets else UNSAFE]
            text = f"Refused share of {kind}, by type, with 95% intervals. {wanted}."
            found.append(Forest(f"Refusal by type, {name}", text, PERCENT, tuple(groups)))
    return found
