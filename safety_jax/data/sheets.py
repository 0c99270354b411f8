"""CSV files that people fill in with a spreadsheet.

A cell that a spreadsheet would run as a formula gets an apostrophe in front; texts are never read
back from such a file, only what people wrote beside them.
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
_LONGEST = 32_000  # characters; Excel moves what is above 32,767 into other cells


def write(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Writes a sheet, whole or not at all."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows([safe(str(cell)) for cell in row] for row in rows)
    # The mark tells spreadsheets that this is UTF-8.
    files.write(path, text.getvalue().encode("utf-8-sig", "replace"))


def safe(cell: str) -> str:
    """A cell that is shown and not run, whatever stands in it."""
    # A NUL ends the cell in some programs, and with it the row.
    cell = cell.replace("\0", "\N{REPLACEMENT CHARACTER}")
    if len(cell) > _LONGEST:
        cell = f"{cell[:_LONGEST]} [cut: {len(cell) - _LONGEST:,} characters more]"
    return "'" + cell if cell.lstrip(" ").startswith(_FORMULA) else cell


def read(path: Path, columns: Sequence[str], key: str) -> list[PlacedRow]:
    """Rows with their places; `columns` must be there.

    Raises:
        DataError: a file that is missing, broken or empty, or lacks a column.
    """
    # What a spreadsheet makes of the texts does not matter: nobody reads them back.
    source = sources.open_source(f"{path}?broken_text=replace", key)
    missing = set(columns) - set(source.rows[0])
    if missing:
        raise DataError(
            f"{path}: column {min(missing)!r} is missing; expected those that went out, joined "
            "by commas"
        )
    return list(zip(source.where, source.rows, strict=True))
