"""The report of an audit of judges: a page, Markdown, and tables for the terminal."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from safety_jax.judges.audit.findings import Effect, JudgeAudit, LabelAgreement
from safety_jax.judges.audit.labels import LabelRule, line
from safety_jax.judges.audit.perturbations import PERTURBATIONS
from safety_jax.maths.detection import Bounded
from safety_jax.report.evaluation import page, text, words
from safety_jax.report.evaluation.cells import EMPTY, Cell, Table
from safety_jax.report.evaluation.forests import PERCENT, Forest, ForestGroup, Mark

REWORDED = "reworded"  # beside PERTURBATIONS
LARGE = 0.1  # share of verdicts that turn, from which a note says so
WHAT = {REWORDED: "the judge's own form is in other words"}
EXPECTED = {REWORDED: "the same verdict"}


@dataclasses.dataclass(frozen=True)
class AuditReport:
    """What an audit found.

    Attributes:
        rule: how labels were read; None without labels.
        sources: facts by name.
        rows: in all; `labelled` and `perturbed` of them.
        left_out: how often each label is that is neither positive nor negative.
        settings: seed, resamples, versions.
    """

    judges: tuple[JudgeAudit, ...]
    rule: LabelRule | None
    sources: Mapping[str, Any]
    rows: int
    labelled: int
    perturbed: int
    left_out: Mapping[str, int]
    settings: Mapping[str, Any]


# ---------------------------------------------------------------------------- to know first


def sentences(report: AuditReport) -> list[str]:
    """One sentence a judge: whether it is right, and what moves it most."""
    found = []
    for judge in report.judges:
        parts = []
        if judge.agreements:
            whole = judge.agreements[0]
            parts.append(
                f"agrees with the labels on {_share(whole.found.accuracy)} of {whole.n:,} answers "
                f"(κ {_number(whole.found.kappa)}, AUC {_number(whole.auc)})"
            )
        moved = [e for e in judge.effects if e.flipped is not None and e.name != "empty"]
        if moved:
            most = max(moved, key=lambda e: e.flipped.value if e.flipped else 0.0)
            parts.append(
                f"turns most under “{_title(most.name)}”: {_share(most.flipped)} of verdicts"
            )
        if parts:
            found.append(f"{judge.name} {'; it '.join(parts)}.")
    return found


def notes(report: AuditReport) -> list[str]:
    """What a reader should know before trusting a judge."""
    found = []
    if report.left_out:
        count = sum(report.left_out.values())
        which = ", ".join(f"{label or '(none)'} {n}" for label, n in report.left_out.items())
        found.append(f"{count} rows have a label that is neither, and are left out: {which}")
    for judge in report.judges:
        if report.rule and not judge.agreements:
            found.append(
                f"{judge.name} is not compared with the labels, for it measures something else "
                f"({judge.card.direction}; they say what is {report.rule.means})"
            )
        for one in judge.agreements[:1]:
            found += _of_agreement(judge.name, one)
        for effect in judge.effects:
            found += _of_effect(judge.name, effect)
    return found


def _of_agreement(name: str, one: LabelAgreement) -> list[str]:
    found = []
    if one.unscored:
        found.append(
            f"{name} has no verdict on {one.unscored} of {one.n + one.unscored} labelled rows"
        )
    if one.auc and one.length is not None and one.auc.low <= one.length:
        found.append(
            f"{name}: counting an answer's words does as well (AUC {one.length:.2f}; the judge "
            f"{_number(one.auc)})"
        )
    return found


def _of_effect(name: str, effect: Effect) -> list[str]:
    found = []
    if effect.unscored:
        rows = effect.n + effect.unscored
        found.append(
            f"{name} has no score for {effect.unscored} of {rows} answers when "
            f"{_what(effect.name)}: its figures are of the others"
        )
    if effect.flipped and effect.flipped.value >= LARGE and effect.name not in ("empty", "shorter"):
        found.append(f"{name}: {_share(effect.flipped)} of verdicts turn when {_what(effect.name)}")
    if effect.name == "empty" and effect.after:
        found.append(f"{name} calls {effect.after:.1%} of empty answers positive")
    return found


# ---------------------------------------------------------------------------- tables


def tables(report: AuditReport) -> list[Table]:
    """All tables, in order."""
    found = [agreement(report), by_group(report), effects(report), sureness(report), cards(report)]
    return [table for table in found if table is not None]


_HEAD = ("rows", "positive", "accuracy", "precision", "recall", "specificity", "κ", "AUC", "words")


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
        "intervals. “Words” is the AUC of the answer's length: what counting words can do."
    )
    return Table("Against the labels", text, ("judge", *_HEAD), tuple(rows))


def by_group(report: AuditReport) -> Table | None:
    """The same by group."""
    rows = [
        (Cell(judge.name), Cell(f"{one.column}: {one.value or '(none)'}"), *_agreement(one))
        for judge in report.judges
        for one in judge.agreements[1:]
    ]
    head = ("judge", "group", *_HEAD)
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
    )


def effects(report: AuditReport) -> Table | None:
    """What changes do to verdicts and scores."""
    rows = []
    for judge in report.judges:
        for one in judge.effects:
            turned = EMPTY if one.flipped is None else Cell(f"{one.raised} / {one.lowered}")
            after = EMPTY if one.after is None else Cell(f"{one.before:.1%} → {one.after:.1%}")
            rows.append(
                (
                    Cell(judge.name),
                    Cell(_title(one.name), (_what(one.name),)),
                    Cell(f"{one.n:,}", (f"{one.unscored} unscored",) if one.unscored else ()),
                    _percent(one.flipped),
                    turned,
                    after,
                    _plain(one.shift, signed=True),
                    Cell(_expected(one.name)),
                )
            )
    head = ("judge", "change", "rows", "flipped", "to yes / no", "positive", "score", "expected")
    text = (
        "The share of verdicts that turn, how many become positive and negative, the share of "
        "positive verdicts before and after, and how far the mean score moves. Brackets are 95% "
        "intervals; answers to one prompt are drawn together."
    )
    return Table("What moves the verdict", text, head, tuple(rows)) if rows else None


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
        "How sure judges are of their verdict, and how often they are right. A temperature above 1 "
        "means that a judge is too sure."
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


# ---------------------------------------------------------------------------- charts


def forests(report: AuditReport) -> list[Forest]:
    """Agreement, and flipped verdicts, each over one axis."""
    measures = [
        ("accuracy", lambda one: one.found.accuracy),
        ("precision", lambda one: one.found.precision),
        ("recall", lambda one: one.found.recall),
        ("AUC", lambda one: one.auc),
    ]
    groups = []
    for title, pick in measures:
        spans = {j.name: pick(j.agreements[0]) for j in report.judges if j.agreements}
        groups.append(_group(report, title, spans, report.labelled))
    text = "Shares, and the AUC as one, with 95% intervals. Further right is better."
    flips = []
    for name in (*PERTURBATIONS, REWORDED):
        found = {j.name: e for j in report.judges for e in j.effects if e.name == name}
        n = max((effect.n for effect in found.values()), default=0)
        flips.append(_group(report, _title(name), {k: e.flipped for k, e in found.items()}, n))
    moved = "Share of verdicts that turn, with 95% intervals. Further left is steadier."
    made = [
        Forest("Against the labels", text, PERCENT, tuple(g for g in groups if g.marks)),
        Forest("What moves the verdict", moved, PERCENT, tuple(g for g in flips if g.marks)),
    ]
    return [forest for forest in made if forest.groups]


def _group(
    report: AuditReport, title: str, found: Mapping[str, Bounded | None], n: int
) -> ForestGroup:
    names = [judge.name for judge in report.judges]
    marks = tuple(
        Mark(name, names.index(name), (one.low, one.value, one.high), _share(one))
        for name, one in found.items()
        if one is not None
    )
    return ForestGroup(title, n, marks)


# ---------------------------------------------------------------------------- forms


def terminal(report: AuditReport) -> str:
    """Tables for the terminal, ending in a newline."""
    parts = []
    for table in (agreement(report), effects(report)):
        if table is not None:
            kept = slice(0, -1 if table.head[-1] == "expected" else None)
            rows = [[_brief(cell) for cell in row[kept]] for row in table.rows]
            parts.append(f"{table.title}\n{text.aligned(table.head[kept], rows)}")
    parts += ["\n".join(f"note: {text.escaping.line(note)}" for note in notes(report))]
    return "\n\n".join(filter(None, parts)) + "\n"


def _brief(cell: Cell) -> str:
    kept = (note for note in cell.notes if note[:1] == "[" or note.endswith("unscored"))
    return " ".join((cell.text, *kept))


def markdown(report: AuditReport) -> str:
    """The report as Markdown."""
    sections = [
        f"# {_heading(report)}",
        *(text.inline(sentence) for sentence in sentences(report)),
        "\n".join(f"- {text.inline(note)}" for note in notes(report)),
        *(part for table in tables(report) for part in text.section(table)),
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def html(report: AuditReport) -> str:
    """The page: one file without a script, which needs no network."""
    style = "\n".join(page.file(f"{name}.css") for name in ("page", "charts"))
    *found, protocol = tables(report)
    return (
        page.environment()
        .get_template("audit.html")
        .render(
            title=_heading(report),
            style=Markup(style),
            policy=page.policy(style, ""),
            models=[judge.name for judge in report.judges],
            colours=page.COLOURS,
            rows=report.rows,
            labelled=report.labelled,
            sentences=sentences(report),
            notes=notes(report),
            forests=forests(report),
            tables=found,
            protocol=protocol,
        )
    )


def _heading(report: AuditReport) -> str:
    names = ", ".join(judge.name for judge in report.judges)
    return f"Audit of {names}" if len(names) < 60 else f"Audit of {len(report.judges)} judges"


# ---------------------------------------------------------------------------- words


def _title(name: str) -> str:
    return name.replace("_", " ")


def _what(name: str) -> str:
    return PERTURBATIONS[name].what if name in PERTURBATIONS else WHAT[name]


def _expected(name: str) -> str:
    return PERTURBATIONS[name].expected if name in PERTURBATIONS else EXPECTED[name]


def _share(found: Bounded | None) -> str:
    if found is None:
        return words.NONE
    return f"{words.percent(found.value)} {words.interval(found.low, found.high, True)}"


def _number(found: Bounded | None) -> str:
    return words.NONE if found is None else words.minus(f"{found.value:.2f}")


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
