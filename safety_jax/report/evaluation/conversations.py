"""Tables of conversations: by set, turn by turn, and of requests inside them."""

from collections.abc import Callable

from safety_jax.evaluation.results.behaviour import ConversationResult, RequestResult, TurnResult
from safety_jax.evaluation.results.estimates import PairedChange, Rate
from safety_jax.evaluation.results.report import Report
from safety_jax.evaluation.sets.items import SAFE, UNSAFE
from safety_jax.report.evaluation import words
from safety_jax.report.evaluation.cells import (
    EMPTY,
    Cell,
    Table,
    changed,
    rate,
    with_change,
    without_empty,
)

ALONE = "asked alone"


def conversations(report: Report) -> list[Table]:
    """All tables; none if there are no conversations."""
    found = [overview(report), *by_turn(report), *requests(report)]
    return [table for table in found if table is not None]


def overview(report: Report, *, briefly: bool = False) -> Table | None:
    """A line for each set and model."""
    if not report.conversations:
        return None
    columns: dict[str, Callable[[ConversationResult], Cell]] = {
        "set": lambda found: Cell(found.set),
        "model": lambda found: Cell(found.model),
        "conversations": lambda found: Cell(str(found.conversations)),
        "cut": lambda found: Cell(str(found.cut)) if found.cut else EMPTY,
        "safe to the end": lambda found: rate(found.safe_throughout),
        f"against {report.baseline}": lambda found: changed(found.against_baseline, 1),
        "first unsafe turn": _first,
        "refused after a refusal": lambda found: rate(found.refused_after_refusal),
        "after an answer": lambda found: rate(found.refused_after_answer),
        "safe again after unsafe": lambda found: rate(found.recovered),
    }
    if not briefly:
        columns |= {
            "safe turns refused before any refusal": lambda found: rate(found.over_refused_before),
            "safe turns refused after one": lambda found: rate(found.over_refused_after),
            "safe turns after the request, against without it": lambda found: changed(
                found.spread, -1
            ),
        }
    text = (
        f"Unsafe answers by {report.safety or 'no judge'}, which reads each answer with its "
        "conversation. Refused after a refusal: of two successive unsafe turns, the share of "
        "refusals of the second if the first was refused. Intervals and tests are over "
        "conversations."
    )
    rows = tuple(tuple(cell(found) for cell in columns.values()) for found in _ordered(report))
    return without_empty(Table("Conversations", text, tuple(columns), rows))


def by_turn(report: Report) -> list[Table]:
    """Tables with a column for each turn."""
    found = (
        _matrix(
            report,
            "Unsafe by this turn",
            f"The share of conversations with an unsafe answer, by {report.safety}, at this turn "
            "or before it.",
            lambda turn: turn.unsafe_by,
        ),
        _matrix(
            report,
            "Unsafe turns refused",
            "The share of refusals, full or partial, of turns that ask for something unsafe.",
            lambda turn: turn.refused,
        ),
        _matrix(
            report,
            "Safe turns refused",
            "Over-refusal by position: the share of refusals of harmless turns.",
            lambda turn: turn.over_refused,
        ),
    )
    return [table for table in found if table is not None]


def requests(report: Report) -> list[Table]:
    """The same requests alone and in conversations, a column for each kind of conversation."""
    behind = "followed by the change from the requests alone, in points, p adjusted (Holm)."
    found = (
        _in_conversations(
            report,
            "Requests in conversations: unsafe answers",
            f"The share of unsafe answers, by {report.safety}; {behind}",
            UNSAFE,
            lambda result: (result.unsafe, result.unsafe_change),
            -1,
        ),
        _in_conversations(
            report,
            "Requests in conversations: refusals",
            f"The share of refusals, full or partial, of unsafe requests; {behind}",
            UNSAFE,
            lambda result: (result.refused, result.refused_change),
            0,
        ),
        _in_conversations(
            report,
            "Safe requests in conversations: refusals",
            f"The share of refusals, full or partial; {behind}",
            SAFE,
            lambda result: (result.refused, result.refused_change),
            -1,
        ),
    )
    return [table for table in found if table is not None]


# ---------------------------------------------------------------------------- helpers


def _ordered(report: Report) -> list[ConversationResult]:
    """The results, ordered by set and model."""
    sets = list(dict.fromkeys(found.set for found in report.conversations))
    models = words.models(report)
    return sorted(
        report.conversations, key=lambda found: (sets.index(found.set), models.index(found.model))
    )


def _first(found: ConversationResult) -> Cell:
    """`3 (2–4, of 7)`: median, earliest and latest of the conversations with an unsafe turn."""
    turns = [turn for turn, n in enumerate(found.first_unsafe, start=1) for _ in range(n)]
    if not turns:
        return EMPTY
    middle = turns[(len(turns) - 1) // 2]
    return Cell(str(middle), (f"{turns[0]}–{turns[-1]}, of {len(turns)}",))


def _matrix(
    report: Report, title: str, text: str, pick: Callable[[TurnResult], Rate | None]
) -> Table | None:
    lines = [found for found in _ordered(report) if any(map(pick, found.turns))]
    most = max((len(found.turns) for found in lines), default=0)
    rows = [
        (
            Cell(found.set),
            Cell(found.model),
            *(rate(pick(turn)) for turn in found.turns),
            *[EMPTY] * (most - len(found.turns)),
        )
        for found in lines
    ]
    head = ("set", "model", *(f"turn {number}" for number in range(1, most + 1)))
    return Table(title, text, head, tuple(rows)) if rows else None


def _in_conversations(
    report: Report,
    title: str,
    text: str,
    kind: str,
    pick: Callable[[RequestResult], tuple[Rate | None, PairedChange | None]],
    better: int,
) -> Table | None:
    chosen = [found for found in report.requests if found.kind == kind]
    names = list(dict.fromkeys(one.setting for found in chosen for one in found.results))
    rows = []
    for found in chosen:
        by = {one.setting: pick(one) for one in found.results}
        shown = [by.get(name, (None, None)) for name in names]
        if any(share for share, _ in shown):
            cells = (with_change(rate(share), change, better) for share, change in shown)
            rows.append((Cell(found.set), Cell(found.model), *cells))
    head = ("set", "model", *(name or ALONE for name in names))
    return Table(title, text, head, tuple(rows)) if rows else None
