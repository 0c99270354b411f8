"""The report as text: Markdown for a model card, and a table for the terminal."""

import json
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from markupsafe import escape

from safety_jax.evaluation.results.report import Report
from safety_jax.report.evaluation import (
    attacked,
    best_of,
    comparing,
    conversations,
    details,
    escaping,
    grouped,
    model_index,
    protocol,
)
from safety_jax.report.evaluation import summary as summaries
from safety_jax.report.evaluation.cells import Cell, Table
from safety_jax.report.evaluation.sentence import sentence


def tables(report: Report) -> str:
    """Summary, comparisons and notes for the terminal, ending in a newline.

    The summary is transposed, with a line for each measure and set, because terminals are narrow.
    """
    summary = summaries.summary(report)
    sections = [aligned(*_sideways(summary))] if summary else []
    for table in comparing.comparisons(report, briefly=True):
        rows = [[joined(cell) for cell in row] for row in table.rows]
        sections.append(f"{table.title}\n{aligned(table.head, rows)}")
    if preferred := comparing.preferred(report):
        rows = [[joined(cell) for cell in row] for row in preferred.rows]
        sections.append(f"{preferred.title}\n{aligned(preferred.head, rows)}")
    several = best_of.best_of(report, briefly=True)
    overview = attacked.overview(report, briefly=True)
    for table in filter(None, (overview, *_transposed(report), several)):
        rows = [[joined(cell) for cell in row] for row in table.rows]
        sections.append(f"{table.title}\n{aligned(table.head, rows)}")
    if talked := conversations.overview(report, briefly=True):
        rows = [[joined(cell) for cell in row] for row in talked.rows]
        sections.append(f"{talked.title}\n{aligned(talked.head, rows)}")
    refused = comparing.refused(report)
    if refused:
        rows = [[cell.text for cell in row] for row in refused.rows]
        sections.append(f"{refused.title}\n{aligned(refused.head, rows)}")
    if said := sentence(report):
        sections.append(escaping.line(said))
    if report.notes:
        sections.append("\n".join(f"note: {escaping.line(note)}" for note in report.notes))
    return "\n\n".join(sections) + "\n"


def _sideways(table: Table) -> tuple[list[str], list[list[str]]]:
    models = [row[0].text for row in table.rows]
    rows, column = [], 0
    for above, count in table.groups:
        for i in range(column, column + count):
            if i:
                first = above if i == column else ""
                rows.append([first, table.head[i], *(_short(row[i]) for row in table.rows)])
        column += count
    return ["", "", *models], rows


def _transposed(report: Report) -> list[Table]:
    """Tables with a column for each attack, transposed: one for each set, with a line for each
    attack."""
    found = []
    for table in attacked.matrices(report):
        for name in dict.fromkeys(row[0].text for row in table.rows):
            own = [row for row in table.rows if row[0].text == name]
            rows = tuple(
                (Cell(attack), *(row[i] for row in own))
                for i, attack in enumerate(table.head[2:], start=2)
            )
            head = ("attack", *(row[1].text for row in own))
            found.append(Table(f"{table.title}: {name}", table.text, head, rows))
    return found


def _short(cell: Cell) -> str:
    """The value and its interval."""
    return " ".join((cell.text, *cell.notes[:1]))


def joined(cell: Cell) -> str:
    """A value with its notes."""
    return " ".join((cell.text, *cell.notes))


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns for the terminal."""
    head, *rows = ([escaping.line(text) for text in row] for row in (head, *rows))
    widths = [max(_width(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(
            text + " " * (width - _width(text)) for text, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in lines
    )


def _width(text: str) -> int:
    """Columns of a terminal: wide characters take two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


# ---------------------------------------------------------------------------- Markdown


def markdown(report: Report, plots: Sequence[str]) -> str:
    """The report for a model card.

    Args:
        plots: paths of PNG files, relative to the text.
    """
    compared = comparing.comparisons(report)
    judged = [
        details.judged(report),
        comparing.agreement(report),
        comparing.quality(report),
        comparing.corrected(report),
    ]
    measured = [
        details.refusals(report),
        comparing.preferred(report),
        details.derived(report),
        details.choices(report),
        details.groups(report),
        details.overlap(report),
        details.degenerate(report),
    ]
    attacks, summary = _attacks(report), summaries.summary(report)
    sections = [
        f"# {inline(report.title)}",
        inline(sentence(report)),
        "\n".join(f"- {inline(note)}" for note in report.notes),
        *([inline(summary.text), _lines(*_sideways(summary))] if summary else []),
        *(f"![{Path(plot).stem.replace('_', ' ')}]({plot})" for plot in plots),
        *(["## Against the baseline"] if compared else []),
        *(part for table in compared for part in section(table)),
        *section(comparing.refused(report)),
        *(["## Attacks"] if attacks else []),
        *(part for table in attacks for part in section(table)),
        *(["## Conversations"] if report.conversations or report.requests else []),
        *(part for table in conversations.conversations(report) for part in section(table)),
        *(["## Groups"] if report.groups else []),
        *(part for table in grouped.groups(report) for part in section(table)),
        *(part for table in (*measured, *judged) for part in section(table)),
        "## Protocol",
        *(part for table in protocol.tables(report) for part in section(table)),
        *_front_matter(report),
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def _attacks(report: Report) -> list[Table]:
    """All tables of attacks, with a line for each attack, because Markdown needs few columns."""
    found = (
        attacked.overview(report),
        *_transposed(report),
        best_of.best_of(report),
        attacked.changes(report),
    )
    return [table for table in found if table is not None]


def section(table: Table | None) -> list[str]:
    """A table in Markdown with its title."""
    return [f"### {inline(table.title)}", *_table(table)] if table else []


def _table(table: Table) -> list[str]:
    rows = [[joined(cell) for cell in row] for row in table.rows]
    return [inline(table.text), _lines(table.head, rows)]


def _lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [[inline(text) for text in row] for row in (head, *rows)]
    cells.insert(1, ["---"] * len(head))
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def inline(text: str) -> str:
    """Escapes one line of Markdown, so that it is no markup, HTML or link.

    Brackets stay readable, for intervals; only those that would begin a link are escaped.
    """
    text = escaping.line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = "".join(f"\\{letter}" if letter in "\\`*_|#!~$" else letter for letter in text)
    return re.sub(r"\](?=[(\[:])", r"\\]", text)


def _front_matter(report: Report) -> list[str]:
    """The front matter with which the Hub shows the results on each model's card."""
    found = []
    for model, entry in model_index.entries(report).items():
        # JSON is valid YAML; a name must not end the fence, nor look like a tag.
        text = json.dumps(entry, indent=1, allow_nan=False)
        text = text.replace("`", "\\u0060").replace("<", "\\u003c")
        name = escape(escaping.line(model))  # in HTML, escapes of Markdown would be read as text
        found += [
            f"<details><summary>Front matter for the card of {name}</summary>",
            f"```yaml\n{text}\n```",
            "</details>",
        ]
    return ["## For model cards", *found] if found else []
