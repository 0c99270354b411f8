"""The tables of an audit, shared by all forms of its report."""

from safety_jax.judges.audit.findings import LabelAgreement
from safety_jax.judges.audit.labels import line
from safety_jax.maths.detection import Bounded
from safety_jax.report.audit.contents import AuditReport, expected, title, what
from safety_jax.report.evaluation import words
from safety_jax.report.evaluation.cells import EMPTY, Cell, Table


def tables(report: AuditReport) -> list[Table]:
    """All tables, in order."""
    found = [agreement(report), by_group(report), effects(report), sureness(report), cards(report)]
    return [table for table in found if table is not None]


_HEAD = ("rows", "positive", "accuracy", "precision", "recall", "specificity", "κ", "AUC")
_BESIDE = ("of length", "of words")


def agreement(report: AuditReport) -> Table | None:
    """Every judge against the labels."""
    rows = [
        (Cell(judge.name), *_agreement(judge.agreements[0]))
        for judge in report.judges
        if judge.agreements
    ]
    if not rows or report.rule is None:
        return None
    text = (
        f"Positive is {report.rule.means}, by the column {report.rule.column}. Brackets are 95% "
        "intervals. The last two columns are the AUC of the answer's length, and of its words by "
        "naive Bayes, trained on the labels of the other prompts here."
    )
    return Table("Against the labels", text, ("judge", *_HEAD, *_BESIDE), tuple(rows))


def by_group(report: AuditReport) -> Table | None:
    """Every judge against the labels, by group."""
    rows = [
        (Cell(judge.name), Cell(f"{one.column}: {one.value or '(none)'}"), *_agreement(one))
        for judge in report.judges
        for one in judge.agreements[1:]
    ]
    head = ("judge", "group", *_HEAD, *_BESIDE)
    text = "Groups with ten labelled rows or more."
    return Table("By group", text, head, tuple(rows)) if rows else None


def _agreement(one: LabelAgreement) -> tuple[Cell, ...]:
    found = one.found
    shares = (found.accuracy, found.precision, found.recall, found.specificity)
    return (
        Cell(f"{one.n:,}", (f"{one.unscored} unscored",) if one.unscored else ()),
        Cell(f"{one.positives:,}"),
        *(_percent(value) for value in shares),
        _plain(found.kappa),
        _plain(one.auc),
        EMPTY if one.length is None else Cell(f"{one.length:.2f}"),
        _plain(one.wording),
    )


def effects(report: AuditReport) -> Table | None:
    """The effects of changes on verdicts and scores."""
    rows = []
    for judge in report.judges:
        for one in judge.effects:
            flips = EMPTY if one.flipped is None else Cell(f"{one.raised} / {one.lowered}")
            after = EMPTY if one.after is None else Cell(f"{one.before:.1%} → {one.after:.1%}")
            rows.append(
                (
                    Cell(judge.name),
                    Cell(title(one.name), (what(one.name),)),
                    Cell(f"{one.n:,}", (f"{one.unscored} unscored",) if one.unscored else ()),
                    _percent(one.flipped),
                    flips,
                    after,
                    _plain(one.shift, signed=True),
                    Cell(expected(one.name)),
                )
            )
    head = ("judge", "change", "rows", "flipped", "to yes / no", "positive", "score", "expected")
    text = (
        "The share of verdicts that flip, the numbers that become positive and negative, the share "
        "of positive verdicts before and after, and the shift of the mean score. Brackets are 95% "
        "intervals, in which the answers to one prompt are one cluster."
    )
    return Table("Flipped verdicts", text, head, tuple(rows)) if rows else None


def sureness(report: AuditReport) -> Table | None:
    """Calibration."""
    rows = []
    for judge in report.judges:
        if (found := judge.confidence) is None:
            continue
        rows += [
            (
                Cell(judge.name),
                Cell(f"{sure:.1%}"),
                Cell(f"{right:.1%}"),
                Cell(f"{count:,}"),
                Cell(f"{found.error:.3f}" if i == 0 else words.NONE),
                Cell(f"{found.temperature:.2f}" if i == 0 else words.NONE),
                Cell(
                    f"{found.error_scaled:.3f}"
                    if i == 0 and found.error_scaled is not None
                    else words.NONE
                ),
            )
            for i, (sure, right, count) in enumerate(found.bins)
        ]
    head = ("judge", "says", "is right", "rows", "ECE", "temperature", "ECE with it")
    text = (
        "How sure judges are of their verdict, and how often they are right. With a temperature "
        "above 1, a judge is overconfident."
    )
    return Table("Calibration", text, head, tuple(rows)) if rows else None


def cards(report: AuditReport) -> Table:
    """What was audited."""
    rows = []
    for judge in report.judges:
        card, cut = judge.card, line(judge.card)
        weights = (card.weights_sha256 or "")[:16] or words.NONE
        facts = (card.kind, card.model or "rules", card.direction, card.template, weights)
        verdict = words.NONE if cut is None else f"{cut:g}"
        rows.append((judge.name, *facts, verdict, card.protocol()))
    head = ("judge", "kind", "model", "direction", "form", "weights", "verdict from", "protocol")
    body = tuple(tuple(Cell(one or words.NONE) for one in row) for row in rows)
    return Table("Protocol", _protocol(report), head, body)


def _protocol(report: AuditReport) -> str:
    data = "; ".join(
        f"{name}: {facts['rows']:,} rows, sha256 {str(facts['sha256'])[:16]}"
        for name, facts in report.sources.items()
    )
    settings = ", ".join(f"{key} {value}" for key, value in report.settings.items())
    return f"{data}. {report.perturbed:,} rows were changed. {settings}."


def _percent(found: Bounded | None) -> Cell:
    if found is None:
        return EMPTY
    interval = words.interval(found.low, found.high, True)
    return Cell(words.percent(found.value), (interval,), bar=(found.low, found.value, found.high))


def _plain(found: Bounded | None, *, signed: bool = False) -> Cell:
    if found is None:
        return EMPTY
    value, low, high = (
        words.minus(f"{one:{'+' if signed else ''}.3f}")
        for one in (found.value, found.low, found.high)
    )
    return Cell(value, (f"[{low}, {high}]",))
