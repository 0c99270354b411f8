"""The forms of an audit's report: charts and the page, Markdown, text for the terminal."""

from collections.abc import Mapping

from markupsafe import Markup

from safety_jax.judges.audit.perturbations import PERTURBATIONS, REWORDED
from safety_jax.maths.detection import Bounded
from safety_jax.report.audit import tables
from safety_jax.report.audit.contents import AuditReport, notes, sentences, share, title
from safety_jax.report.evaluation import page, text
from safety_jax.report.evaluation.cells import Cell
from safety_jax.report.evaluation.forests import PERCENT, Forest, ForestGroup, Mark


def forests(report: AuditReport) -> list[Forest]:
    """Agreement, and flipped verdicts, each over one axis."""
    measures = [
        ("accuracy", lambda one: one.found.accuracy),
        ("precision", lambda one: one.found.precision),
        ("recall", lambda one: one.found.recall),
        ("AUC", lambda one: one.auc),
    ]
    groups = []
    for measure, pick in measures:
        spans = {j.name: pick(j.agreements[0]) for j in report.judges if j.agreements}
        groups.append(_group(report, measure, spans, report.labelled))
    text = "Shares, and the AUC as one, with 95% intervals. Further right is better."
    flips = []
    for name in (*PERTURBATIONS, REWORDED):
        found = {j.name: e for j in report.judges for e in j.effects if e.name == name}
        n = max((effect.n for effect in found.values()), default=0)
        flips.append(_group(report, title(name), {k: e.flipped for k, e in found.items()}, n))
    moved = "Share of verdicts that flip, with 95% intervals. Further left is more robust."
    made = [
        Forest("Against the labels", text, PERCENT, tuple(g for g in groups if g.marks)),
        Forest("Flipped verdicts", moved, PERCENT, tuple(g for g in flips if g.marks)),
    ]
    return [forest for forest in made if forest.groups]


def _group(
    report: AuditReport, heading: str, found: Mapping[str, Bounded | None], n: int
) -> ForestGroup:
    names = [judge.name for judge in report.judges]
    marks = tuple(
        Mark(name, names.index(name), (one.low, one.value, one.high), share(one))
        for name, one in found.items()
        if one is not None
    )
    return ForestGroup(heading, n, marks)


# ---------------------------------------------------------------------------- forms


def terminal(report: AuditReport) -> str:
    """Tables for the terminal, ending in a newline."""
    parts = []
    for table in (tables.agreement(report), tables.effects(report)):
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
        *(part for table in tables.tables(report) for part in text.section(table)),
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def html(report: AuditReport) -> str:
    """The page: one file, without scripts or network access."""
    style = "\n".join(page.file(f"{name}.css") for name in ("page", "charts"))
    *found, protocol = tables.tables(report)
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
