"""Forests: values with their intervals, one below the other, on one axis.

Here is what they show; the page and the PNGs draw the same.
"""

import dataclasses
from collections.abc import Callable, Sequence

from safety_jax.evaluation.results import Comparison, Rate, Report, Row
from safety_jax.evaluation.sets import SAFE, UNSAFE
from safety_jax.report.evaluation import comparing, tables, words


@dataclasses.dataclass(frozen=True)
class Mark:
    """A value with its interval, on an axis from 0 to 1.

    Attributes:
        model: whose.
        place: of the model among all: its colour and shape.
        text: value and interval in words.
        tone: "better", "worse" or "".
    """

    model: str
    place: int
    value: float
    low: float
    high: float
    text: str
    tone: str = ""


@dataclasses.dataclass(frozen=True)
class Group:
    """Marks that belong together: a set, or a category of one."""

    title: str
    n: int
    marks: tuple[Mark, ...]


@dataclasses.dataclass(frozen=True)
class Axis:
    """Where marks lie: ticks as (place between 0 and 1, words), and the place of zero."""

    ticks: tuple[tuple[float, str], ...]
    zero: float | None = None


@dataclasses.dataclass(frozen=True)
class Forest:
    """Groups over one axis."""

    title: str
    text: str
    axis: Axis
    groups: tuple[Group, ...]


PERCENT = Axis(tuple((tick / 100, f"{tick}%") for tick in (0, 25, 50, 75, 100)))
Pick = Callable[[Row], Rate | None]


def safe(report: Report) -> Forest | None:
    """Safe shares of every set, and of all together."""
    names = [name for name in words.unsafe_sets(report) if tables.safe_rates(report, name)]
    groups = _groups(report, names, lambda row: tables.safe_rate(report, row))
    text = "Share of safe answers to unsafe prompts, with 95% intervals. Further right is safer."
    return Forest(f"Safe, by {report.safety}", text, PERCENT, groups) if groups else None


def over_refusal(report: Report) -> Forest | None:
    """Refused shares of safe sets."""
    groups = _groups(report, words.names_of(report, SAFE), tables.any_refusal)
    text = (
        "Share of safe prompts that are refused, fully or partially, with 95% intervals. Further "
        "left is better."
    )
    return Forest("Over-refusal", text, PERCENT, groups) if groups else None


def _groups(report: Report, names: Sequence[str], pick: Pick) -> tuple[Group, ...]:
    models = words.models(report)
    rates: dict[str, list[Rate | None]] = {model: [] for model in models}
    groups = []
    for name in names:
        for model in models:
            row = report.row(model, name)
            rates[model].append(pick(row) if row else None)
        groups.append(_group(name, {model: found[-1] for model, found in rates.items()}))
    if len(names) > 1:
        groups.append(_group("all together", {m: tables.pooled(of) for m, of in rates.items()}))
    return tuple(group for group in groups if group.marks)


def _group(title: str, rates: dict[str, Rate | None]) -> Group:
    marks = [
        Mark(model, place, rate.value, rate.low, rate.high, _words(rate))
        for place, (model, rate) in enumerate(rates.items())
        if rate is not None and None not in (rate.value, rate.low, rate.high)
    ]
    return Group(
        title, max((r.n + r.unscored for r in rates.values() if r), default=0), tuple(marks)
    )


def _words(rate: Rate) -> str:
    return f"{words.percent(rate.value)} {words.interval(rate.low, rate.high, True)}"


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
    """One axis for all, as wide as the widest interval."""
    known = [c for c in found if None not in (c.difference.low, c.difference.high)]
    if not known:
        return None
    ends = [abs(e) for c in known for e in (c.difference.low, c.difference.high) if e is not None]
    reach = next((r for r in (0.05, 0.1, 0.2, 0.5) if max(ends) <= r), 1.0)
    ticks = ((i / 4, words.minus(f"{100 * reach * (i / 2 - 1):+g}")) for i in range(5))
    axis = Axis(tuple((at, "0" if at == 0.5 else text) for at, text in ticks), zero=0.5)
    models = words.models(report)
    groups = []
    for name in dict.fromkeys(c.set for c in known):
        of_set = [c for c in known if c.set == name]
        marks = [
            Mark(
                c.second, models.index(c.second),
                *(_scaled(end, reach) for end in (found.value, found.low, found.high)),
                f"{words.difference(found, True)} {words.interval(found.low, found.high, True)}",
                words.tone(report, c),
            )
            for c, found in ((c, c.difference) for c in of_set)
        ]  # fmt: skip
        groups.append(Group(words.sets(report, name), of_set[0].n, tuple(marks)))
    title = f"{words.measure(known[0].measure).capitalize()}: change against {report.baseline}"
    text = (
        "In percentage points, with 95% intervals; one that crosses the middle line may be chance."
    )
    return Forest(title, text, axis, tuple(groups))


def _scaled(value: float | None, reach: float) -> float:
    return (value or 0.0) / (2 * reach) + 0.5


# ---------------------------------------------------------------------------- by type


def types(report: Report) -> list[Forest]:
    """Refusal by type of prompt: of safe sets with types, and of their unsafe twins."""
    safe_sets = words.names_of(report, SAFE)
    twins = {report.sets.get(name, {}).get("twin") for name in safe_sets}
    twins |= {name for name, facts in report.sets.items() if facts.get("twin") in safe_sets}
    found = []
    for name in [*safe_sets, *(name for name in words.unsafe_sets(report) if name in twins)]:
        wanted = "Further left is better" if name in safe_sets else "Further right is better"
        of_set = {row.model: row for row in report.rows if row.set == name}
        groups = []
        for category in dict.fromkeys(c for row in of_set.values() for c in row.categories):
            parts = {
                m: of_set[m].categories.get(category) if m in of_set else None
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
