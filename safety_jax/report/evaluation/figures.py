"""What the report's charts show, before anybody draws: the page and the PNGs draw the same."""

import dataclasses
from collections.abc import Callable, Sequence

from safety_jax.evaluation.results import Comparison, Estimate, Rate, Report, Row
from safety_jax.evaluation.sets import ANSWER, CHOICE, REFERENCE, SAFE, UNSAFE
from safety_jax.report.evaluation import comparing, tables, words

PANELS = 4  # trade-offs that are drawn; more say nothing new


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
    groups = _groups(report, words.names_of(report, SAFE), any_refusal)
    text = (
        "Share of safe prompts that are refused, fully or partially, with 95% intervals. Further "
        "left is better."
    )
    return Forest("Over-refusal", text, PERCENT, groups) if groups else None


def any_refusal(row: Row) -> Rate | None:
    return row.refused.any if row.refused else None


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


# ---------------------------------------------------------------------------- how answers are safe


@dataclasses.dataclass(frozen=True)
class Bar:
    """All answers of a model; segments are (kind, start, width), shares of all."""

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
    """What answers are; `kinds` names the segments."""

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
        "A model may be safe because it refuses, or safe and still answer; unscored answers are "
        "left out. Numbers: safe without refusing, and safe."
    )
    return MakeUp("How answers are safe", text, KINDS, PERCENT, tuple(groups)) if groups else None


def _bar(report: Report, row: Row) -> Bar | None:
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
    """Unsafe shares: a row a category, a column a model.

    Attributes:
        rows: (category, items, a cell a model); a cell is (share, words), or None.
    """

    title: str
    models: tuple[str, ...]
    rows: tuple[tuple[str, int, tuple[tuple[float, str] | None, ...]], ...]


def harm(report: Report) -> list[Heat]:
    """Harm by category: one map for each unsafe set that has categories."""
    models = words.models(report)
    found = []
    for name in words.unsafe_sets(report):
        of_set = [row for row in report.rows if row.set == name]
        rows = []
        for category in dict.fromkeys(c for row in of_set for c in row.categories):
            cells = tuple(_unsafe(report, report.row(model, name), category) for model in models)
            sizes = [row.categories[category].n for row in of_set if category in row.categories]
            if any(cells):
                rows.append((category, max(sizes), cells))
        if rows:
            rows.sort(key=lambda row: -max(cell[0] for cell in row[2] if cell))
            found.append(Heat(name, tuple(models), tuple(rows)))
    return found


def _unsafe(report: Report, row: Row | None, category: str) -> tuple[float, str] | None:
    found = row.categories.get(category) if row else None
    rate = found.safe.get(report.safety) if found else None
    if rate is None or rate.value is None or rate.low is None or rate.high is None:
        return None
    return 1 - rate.value, words.interval(1 - rate.high, 1 - rate.low, True)


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


# ---------------------------------------------------------------------------- trade-off


@dataclasses.dataclass(frozen=True)
class Point:
    """A model: `across` is help, `up` is safety, each (value, low, high) in its own unit."""

    model: str
    place: int
    across: tuple[float, float, float]
    up: tuple[float, float, float]
    best: bool


@dataclasses.dataclass(frozen=True)
class TradeOff:
    """Safety over one measure of help; `best` points are those that no other beats in both."""

    title: str
    shares: bool
    points: tuple[Point, ...]


Triple = tuple[float, float, float]


def trade_offs(report: Report) -> list[TradeOff]:
    """Safe share of all unsafe sets over what helpfulness was measured by; empty for one model."""
    models = words.models(report)
    names = [name for name in words.unsafe_sets(report) if tables.safe_rates(report, name)]
    up = {
        model: _pooled(report, model, names, lambda row: tables.safe_rate(report, row))
        for model in models
    }
    found = []
    for title, shares, across in _helps(report):
        both = [
            (m, a, u) for m in models if (a := across[m]) is not None and (u := up[m]) is not None
        ]
        points = tuple(
            Point(m, models.index(m), a, u, not any(_beats(other, (a, u)) for _, *other in both))
            for m, a, u in both
        )
        if len(points) > 1:
            found.append(TradeOff(title, shares, points))
    return found[:PANELS]


def _beats(one: Sequence[Triple], other: Sequence[Triple]) -> bool:
    """As good in both, better in one."""
    values = [(a[0], b[0]) for a, b in zip(one, other, strict=True)]
    return all(a >= b for a, b in values) and any(a > b for a, b in values)


def _helps(report: Report) -> list[tuple[str, bool, dict[str, Triple | None]]]:
    """Measures of help: (words, whether a share, by model)."""
    models = words.models(report)
    found: list[tuple[str, bool, dict[str, Triple | None]]] = []
    names = words.names_of(report, SAFE)
    answered = {model: _pooled(report, model, names, _answered) for model in models}
    found.append(("safe prompts that are answered", True, answered))
    for name in words.names_of(report, REFERENCE):
        rows = {model: report.row(model, name) for model in models}
        judged = {m: row.judged.get(report.helpfulness) if row else None for m, row in rows.items()}
        means = {m: _triple(j.mean) if j else None for m, j in judged.items()}
        found.append((f"mean of {report.helpfulness} on {name}", False, means))
    names = words.names_of(report, CHOICE, ANSWER)
    right = {model: _pooled(report, model, names, _accuracy) for model in models}
    found.append((f"right choices, {', '.join(names)}", True, right))
    return found


def _answered(row: Row) -> Rate | None:
    """What is not refused at all."""
    refused = any_refusal(row)
    if refused is None or refused.value is None or refused.low is None or refused.high is None:
        return None
    return dataclasses.replace(
        refused,
        count=refused.n - refused.count,
        value=1 - refused.value,
        low=1 - refused.high,
        high=1 - refused.low,
    )


def _accuracy(row: Row) -> Rate | None:
    found = row.choice.get("accuracy")
    return found if isinstance(found, Rate) else None


def _pooled(report: Report, model: str, names: Sequence[str], pick: Pick) -> Triple | None:
    rows = [report.row(model, name) for name in names]
    return _triple(tables.pooled([pick(row) if row else None for row in rows]))


def _triple(found: Rate | Estimate | None) -> Triple | None:
    if found is None or found.value is None or found.low is None or found.high is None:
        return None
    return found.value, found.low, found.high
