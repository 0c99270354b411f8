"""Heat maps of attacks: one for each set, with a line for each attack and a column by model."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from safety_jax.evaluation.results.behaviour import AttackResult, UnderAttack
from safety_jax.evaluation.results.estimates import PairedChange, Rate
from safety_jax.evaluation.results.report import Report
from safety_jax.evaluation.sets.items import SAFE, UNSAFE
from safety_jax.report.evaluation import words
from safety_jax.report.evaluation.attacked import PLAIN

TOGETHER = "any of them"


@dataclasses.dataclass(frozen=True)
class MapCell:
    """A share and its notes.

    Attributes:
        notes: its interval, and other figures.
        tone: "worse" or "better" if the change from the plain prompts is significant; else "".
        worst: whether this is the worst attack on the model.
    """

    share: float
    text: str
    notes: tuple[str, ...]
    tone: str
    worst: bool


@dataclasses.dataclass(frozen=True)
class MapRow:
    """A line: an attack, the plain prompts, or all attacks together; a cell or None by model."""

    name: str
    kind: str  # "plain", "attack" or "together"
    cells: tuple[MapCell | None, ...]


@dataclasses.dataclass(frozen=True)
class AttackMap:
    """A set under its attacks: first the plain prompts, then attacks, the worst first; attacks that
    differ only in their number (`prefill:5`, `prefill:20`) are listed together."""

    title: str
    text: str
    models: tuple[str, ...]
    rows: tuple[MapRow, ...]


Pick = Callable[[AttackResult], tuple[Rate | None, PairedChange | None]]


def maps(report: Report) -> list[AttackMap]:
    """Unsafe answers to unsafe prompts, and refusals of safe ones."""
    told = (
        "The stronger the colour, the worse; the worst attack on each model has a frame. ▲ more "
        "than without an attack, ▼ less (p < 0.05, Holm). Small: 95% intervals"
    )
    several = any(one.any_success for under in report.attacks for one in under.attacks)
    any_of = ", and of prompts the share with any unsafe answer among several" if several else ""
    found = []
    for name in dict.fromkeys(under.set for under in report.attacks):
        own = [under for under in report.attacks if under.set == name]
        kind, shown = own[0].kind, words.sets(report, name)
        if kind == UNSAFE:
            title = f"Unsafe answers under attack, {shown}"
            text = (
                f"The share by {report.safety}, which reads the request without the attack. "
                f"{told}{any_of}."
            )
            made = _map(report, title, text, own, _success, lambda one: one.safe_under_all)
        elif kind == SAFE:
            title = f"Refusals under attack, {shown}"
            text = f"Whether the form alone makes a model refuse harmless requests. {told}."
            made = _map(report, title, text, own, _refused, lambda one: one.answered_under_all)
        else:
            continue
        if made is not None:
            found.append(made)
    return found


def _success(result: AttackResult) -> tuple[Rate | None, PairedChange | None]:
    return result.success, result.success_change


def _refused(result: AttackResult) -> tuple[Rate | None, PairedChange | None]:
    return result.refused, result.refused_change


def _map(
    report: Report,
    title: str,
    text: str,
    own: Sequence[UnderAttack],
    pick: Pick,
    never: Callable[[UnderAttack], Rate | None],
) -> AttackMap | None:
    order = words.models(report)
    under = sorted(own, key=lambda one: order.index(one.model))
    names = list(dict.fromkeys(found.attack for one in under for found in one.attacks))
    rows = [
        MapRow(
            name or PLAIN,
            "attack" if name else "plain",
            tuple(_cell(one, name, pick) for one in under),
        )
        for name in names
    ]
    if not any(cell for row in rows for cell in row.cells):
        return None
    worst: dict[str, float] = {}
    for row in rows:
        family, _ = _numbered(row.name)
        worst[family] = max(worst.get(family, -1.0), _mean(row))
    rows.sort(key=lambda row: (row.kind != "plain", *_rank(row.name, worst)))
    together = tuple(_together(never(one)) for one in under)
    if any(together):
        rows.append(MapRow(TOGETHER, "together", together))
    return AttackMap(title, text, tuple(one.model for one in under), tuple(rows))


def _numbered(attack: str) -> tuple[str, int]:
    """`prefill:20` as prefill and 20; an attack without a number is a family of its own."""
    family, _, number = attack.partition(":")
    return (family, int(number)) if number.isdecimal() else (attack, 0)


def _rank(attack: str, worst: Mapping[str, float]) -> tuple[float, str, int]:
    """The rank of an attack, by the worst of its family."""
    family, number = _numbered(attack)
    return -worst[family], family, number


def _mean(row: MapRow) -> float:
    known = [cell.share for cell in row.cells if cell]
    return sum(known) / len(known) if known else -1.0


def _cell(under: UnderAttack, name: str, pick: Pick) -> MapCell | None:
    result = under.result(name)
    rate, change = pick(result) if result else (None, None)
    if result is None or rate is None or rate.value is None:
        return None
    notes = [words.interval(rate.low, rate.high, True)]
    if rate is result.success and result.any_success and result.any_success.value is not None:
        notes.append(f"any: {_whole(result.any_success.value)}")
    if rate.unscored:
        notes.append(f"{rate.unscored} unscored")
    tone = ""
    if change and change.p_holm is not None and change.p_holm < words.LEVEL:
        tone = "worse" if (change.difference.value or 0) > 0 else "better"
    worst = bool(name) and name == under.worst and rate.value > 0
    return MapCell(rate.value, _whole(rate.value), tuple(notes), tone, worst)


def _together(clean: Rate | None) -> MapCell | None:
    """The share of prompts with a hit under any attack."""
    if clean is None or clean.value is None or clean.low is None or clean.high is None:
        return None
    notes = [words.interval(1 - clean.high, 1 - clean.low, True)]
    if clean.unscored:
        notes.append(f"{clean.unscored} unscored")
    return MapCell(1 - clean.value, _whole(1 - clean.value), tuple(notes), "", False)


def _whole(share: float) -> str:
    return f"{100 * share:.0f}%"
