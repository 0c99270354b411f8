"""Writes and reads CSV files that people fill in with a spreadsheet program.

A cell that such a program would run as a formula gets a leading apostrophe. Nothing reads the texts
back from the file, only what people wrote beside them.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from safety_jax.base import files
from safety_jax.base.errors import DataError
from safety_jax.data import sources
from safety_jax.data.text_files import PlacedRow

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_LONGEST = 32_000  # characters; Excel moves those above 32,767 into other cells


def write(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Writes a sheet, whole or not at all."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows([safe(str(cell)) for cell in row] for row in rows)
    # The byte order mark tells spreadsheet programs that this is UTF-8.
    files.write(path, text.getvalue().encode("utf-8-sig", "replace"))


def safe(cell: str) -> str:
    """A cell that spreadsheet programs show and do not run, whatever its text."""
    # A NUL ends the cell and its row in some programs.
    cell = cell.replace("\0", "\N{REPLACEMENT CHARACTER}")
    if len(cell) > _LONGEST:
        cell = f"{cell[:_LONGEST]} [cut: {len(cell) - _LONGEST:,} characters more]"
    return "'" + cell if cell.lstrip(" ").startswith(_FORMULA) else cell


def read(path: Path, columns: Sequence[str], key: str) -> list[PlacedRow]:
    """The rows with their places; the file must have `columns`.

    Raises:
        DataError: a file that is missing, broken or empty, or lacks a column.
    """
    # It does not matter if a program has changed the texts: nobody reads them back.
    source = sources.open_source(f"{path}?broken_text=replace", key)
    missing = set(columns) - set(source.rows[0])
    if missing:
        raise DataError(
            f"{path}: column {min(missing)!r} is missing; expected those that went out, joined "
            "by commas"
        )
    return list(zip(source.where, source.rows, strict=True))
