"""Tables of attacks: each of them, the worst, and what is safe under all."""

from collections.abc import Callable, Sequence

from safety_jax.evaluation.results.behaviour import AttackResult, UnderAttack
from safety_jax.evaluation.results.estimates import PairedChange, Rate
from safety_jax.evaluation.results.report import Report
from safety_jax.evaluation.sets.items import REFERENCE, SAFE, UNSAFE
from safety_jax.report.evaluation import words
from safety_jax.report.evaluation.cells import (
    EMPTY,
    Cell,
    Table,
    any_refusal,
    changed,
    estimate,
    pooled,
    rate,
    with_change,
    without_empty,
)

PLAIN = "no attack"
JUDGED_BARE = "Judges read the request without the attack, and the answer."


def overview(report: Report, *, briefly: bool = False) -> Table | None:
    """A line for each model and set of unsafe prompts: the success of attacks and, unless briefly,
    over-refusal and helpfulness."""
    under = _by_kind(report, UNSAFE)
    if not any(found.safe_under_all for found in under):
        return None
    over, over_words = _over_refusal(report)
    helps, help_words = _help(report)
    columns: dict[str, Callable[[UnderAttack], Cell]] = {
        "set": lambda found: Cell(words.sets(report, found.set)),
        "model": lambda found: Cell(found.model),
        "unsafe without attack": lambda found: rate(found.attacks[0].success),
        "worst attack": lambda found: Cell(found.worst or words.NONE),
        "its success": _success_of_worst,
        "safe under all": lambda found: rate(found.safe_under_all),
        f"against {report.baseline}": lambda found: changed(found.against_baseline, 1),
    }
    if not briefly:
        columns[over_words] = lambda found: over(found.model)
        columns[help_words] = lambda found: helps(found.model)
    text = (
        f"Success is the share of unsafe answers, by {report.safety or 'no judge'}. Safe under "
        f"all: prompts that are answered safely under every attack and without one. {JUDGED_BARE}"
    )
    rows = tuple(tuple(cell(found) for cell in columns.values()) for found in under)
    return without_empty(Table("Under attack", text, tuple(columns), rows))


def matrices(report: Report) -> list[Table]:
    """Success and refusals on unsafe prompts, refusals of safe ones; a column for each attack."""
    beside = "followed by the change from the prompts without an attack, in points."
    found = (
        _matrix(
            report,
            "Success of attacks",
            f"The share of unsafe answers, by {report.safety}; {beside}",
            UNSAFE,
            lambda result: (result.success, result.success_change),
            -1,
        ),
        _matrix(
            report,
            "Unsafe prompts refused under attack",
            f"The share of refusals, full or partial; {beside}",
            UNSAFE,
            lambda result: (result.refused, result.refused_change),
            0,
        ),
        _matrix(
            report,
            "Safe prompts refused under attack",
            f"Whether the form alone makes a model refuse; {beside}",
            SAFE,
            lambda result: (result.refused, result.refused_change),
            -1,
        ),
    )
    return [table for table in found if table is not None]


def changes(report: Report) -> Table | None:
    """Every attack against the plain prompts, with its tests."""
    rows = [
        (
            Cell(words.sets(report, under.set)),
            Cell(under.model),
            Cell(found.attack),
            Cell(str(tested.n)),
            rate(found.success),
            *_tested(found.success_change, -1 if under.kind == UNSAFE else 0),
            rate(found.refused),
            *_tested(found.refused_change, -1 if under.kind == SAFE else 0),
        )
        for under in report.attacks
        for found in under.attacks
        if (tested := found.success_change or found.refused_change)
    ]
    if not rows:
        return None
    text = (
        "On the same prompts: exact McNemar and Newcombe's interval (if prompts have several "
        "answers, the exact sign-flip test over prompts, and an interval with a design effect), p "
        f"adjusted over the attacks on a set (Holm). {JUDGED_BARE}"
    )
    head = (
        "set", "model", "attack", "prompts", "unsafe", "change [95%]", "p, Holm", "refused",
        "change of refusals [95%]", "p, Holm, of refusals",
    )  # fmt: skip
    return without_empty(Table("Attacks against the plain prompts", text, head, tuple(rows)))


# ---------------------------------------------------------------------------- helpers


def _by_kind(report: Report, kind: str) -> list[UnderAttack]:
    """The results on sets of a kind, ordered by set and model."""
    sets = list(dict.fromkeys(found.set for found in report.attacks))
    models = words.models(report)
    return sorted(
        (found for found in report.attacks if found.kind == kind),
        key=lambda found: (sets.index(found.set), models.index(found.model)),
    )


def _success_of_worst(found: UnderAttack) -> Cell:
    worst = found.result(found.worst) if found.worst else None
    return rate(worst.success if worst else None)


def _matrix(
    report: Report,
    title: str,
    text: str,
    kind: str,
    pick: Callable[[AttackResult], tuple[Rate | None, PairedChange | None]],
    better: int,
) -> Table | None:
    under = _by_kind(report, kind)
    names = list(dict.fromkeys(found.attack for one in under for found in one.attacks))
    rows = []
    for one in under:
        results = [one.result(name) for name in names]
        shown = [pick(found) if found else (None, None) for found in results]
        rows.append(
            (
                Cell(words.sets(report, one.set)),
                Cell(one.model),
                *(with_change(rate(share), change, better) for share, change in shown),
            )
        )
    if not any(cell.text != words.NONE for row in rows for cell in row[2:]):
        return None
    return Table(title, text, ("set", "model", *(name or PLAIN for name in names)), tuple(rows))


def _tested(change: PairedChange | None, better: int) -> Sequence[Cell]:
    if change is None:
        return EMPTY, EMPTY
    notes = (words.interval(change.difference.low, change.difference.high, True),)
    text = words.difference(change.difference, True)
    return Cell(text, notes, tone=words.moved(change, better)), Cell(words.p_value(change.p_holm))


def _over_refusal(report: Report) -> tuple[Callable[[str], Cell], str]:
    """Refusals of safe prompts without an attack, by model: on XSTest if there, or on all sets."""
    names = words.names_of(report, SAFE)
    chosen = [name for name in names if name == "XSTest-safe"] or names

    def cell(model: str) -> Cell:
        rows = [report.row(model, name) for name in chosen]
        return rate(pooled([any_refusal(row) if row else None for row in rows]))

    return cell, f"over-refusal, {', '.join(chosen) or words.NONE}"


def _help(report: Report) -> tuple[Callable[[str], Cell], str]:
    """The helpfulness judge's mean on the first set that it judged, by model."""
    chosen = next(
        (
            name
            for name in words.names_of(report, REFERENCE, SAFE)
            if any(row.set == name and report.helpfulness in row.judged for row in report.rows)
        ),
        "",
    )

    def cell(model: str) -> Cell:
        row = report.row(model, chosen)
        judged = row.judged.get(report.helpfulness) if row else None
        return estimate(judged.mean if judged else None)

    return cell, f"{chosen}, mean of {report.helpfulness}"
