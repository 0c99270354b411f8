"""Tables by the runs' value on the axis and by set, and their contrasts."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from safety_jax.base import files
from safety_jax.evaluation.measures.crossed import DIFFERENT, Contrast, CrossedTable
from safety_jax.report.curves import interval
from safety_jax.report.evaluation.text import inline


def write(
    tables: Sequence[CrossedTable], axis: str, folder: Path, title: str, notes: Sequence[str]
) -> None:
    """Writes `tables.md`."""
    parts = [f"# {inline(title)}", text(tables, axis), *map(inline, notes)]
    files.write(folder / "tables.md", "\n\n".join(parts) + "\n")


def text(tables: Sequence[CrossedTable], axis: str) -> str:
    """In Markdown, each with its contrasts below."""
    return "\n\n".join(
        "\n".join(
            [
                f"**{one.title}**",
                "",
                *_cells(one, axis),
                *_seeds(one, axis),
                "",
                *_contrasts(one, axis),
            ]
        )
        for one in tables
    )


def _cells(table: CrossedTable, axis: str) -> list[str]:
    return _by_set(table, axis, {(c.value, c.set): interval(c.share) for c in table.cells})


def _seeds(table: CrossedTable, axis: str) -> list[str]:
    """The share of each seed's run; nothing if there is one seed."""
    if all(len(cell.by_seed) < 2 for cell in table.cells):
        return []
    shares = {
        (cell.value, cell.set): ", ".join(f"{share:.2f}" for share in cell.by_seed.values())
        for cell in table.cells
    }
    return ["", *_by_set(table, f"{axis}, by seed", shares)]


def _by_set(table: CrossedTable, axis: str, shares: Mapping[tuple[str, str], str]) -> list[str]:
    lines = [
        f"| {axis} | {' | '.join(map(inline, table.sets))} |",
        "|---" * (len(table.sets) + 1) + "|",
    ]
    for value in table.values:
        row = [shares.get((value, name), "") for name in table.sets]
        lines.append(f"| {_word(value)} | {' | '.join(row)} |")
    return lines


def _contrasts(table: CrossedTable, axis: str) -> list[str]:
    lines = [f"| asked | {axis} | difference (95% interval) | p | p, Holm | |", "|---" * 6 + "|"]
    lines += [
        f"| {inline(one.set)} | {_word(one.second)} against {_word(one.first)} "
        f"| {interval(one.difference, signed=True)} | {_p(one.p)} | {_p(one.p_holm)} "
        f"| {one.verdict} |"
        for one in table.contrasts
    ]
    return [*lines, "", sentence(table.contrasts)]


def sentence(contrasts: Sequence[Contrast]) -> str:
    """How many contrasts show a difference."""
    shown = sum(one.verdict == DIFFERENT for one in contrasts)
    return f"{shown} of {len(contrasts)} contrasts show a difference; the others are inconclusive."


def _word(value: str) -> str:
    """The runs' value on the axis, or (none) for an empty one."""
    return inline(value) or "(none)"


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"
