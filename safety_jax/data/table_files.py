"""Reads data files that are tables: Excel, Parquet, Arrow.

Arrow's C++ trusts the lengths and offsets in a file, and a wrong one can kill the process. So
another process reads and checks such files, and writes their rows as JSON; whatever happens to it,
the run can report it in one line. That process begins at `_main`, below.
"""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from safety_jax.base.errors import DataError, few
from safety_jax.data import class_labels, text_files, values
from safety_jax.data.text_files import PlacedRow

_ROWS_PER_BATCH = 1_000
# The time limit of the other process, in addition to a second for each megabyte.
_SECONDS = 120
_SHEET_BYTES = 2 << 30  # of an unpacked Excel file


def read_excel(path: Path, name: str, errors: str) -> list[PlacedRow]:
    """The rows of the only sheet that is not empty, whose row 1 names the columns; cells are texts,
    as in CSV."""
    import openpyxl

    try:
        # From memory, because openpyxl checks a path's ending, which a downloaded file may lack.
        content = io.BytesIO(path.read_bytes())
        with zipfile.ZipFile(content) as parts:
            size = sum(part.file_size for part in parts.infolist())
        if size > _SHEET_BYTES:
            raise ValueError(f"it unpacks to {size >> 20:,} MiB")
        book = openpyxl.load_workbook(content, read_only=True, data_only=True)
        with contextlib.closing(book):
            sheets = {sheet.title: _cells(sheet) for sheet in book.worksheets}
    except OSError:
        raise
    # For a broken workbook, openpyxl raises whatever its parts happen to raise.
    except Exception as error:
        raise DataError(
            f"{name}: not a readable Excel workbook ({type(error).__name__}: {error})"
        ) from error
    filled = {title: cells for title, cells in sheets.items() if any(map(any, cells))}
    if len(filled) > 1:
        raise DataError(
            f"{name}: {len(filled)} sheets hold something ({few([*map(repr, filled)], 3)}); "
            "expected one: save each as a file of its own"
        )
    cells = next(iter(filled.values()), [])
    columns = [(i, title) for i, title in enumerate(cells[0] if cells else ()) if title.strip()]
    text_files.check_names([title for _, title in columns], f"{name} row 1")
    rows = [
        # Rows end with their last cell if the file does not state its width.
        (f"{name} row {number}", {title: row[i] if i < len(row) else "" for i, title in columns})
        for number, row in enumerate(cells[1:], start=2)
        if any(row)
    ]
    return [(where, text_files.plain_row(row, where, errors)) for where, row in rows]


# Excel's spelling of control characters, which XML cannot hold: a carriage return is `_x000D_`.
_ESCAPED = re.compile("_x(00[01][0-9A-Fa-f])_")


def _cells(sheet: Any) -> list[list[str]]:
    return [
        ["" if cell is None else _ESCAPED.sub(_unescaped, str(cell)) for cell in row]
        for row in sheet.iter_rows(values_only=True)
    ]


def _unescaped(found: re.Match[str]) -> str:
    return chr(int(found[1], 16))


def read_arrow(path: Path, name: str, errors: str) -> list[PlacedRow]:
    """The rows of a Parquet or Arrow file; the latter may be a stream, as `datasets` writes it, or
    have a footer."""
    package = str(Path(__file__).parents[2])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    seconds = _SECONDS + path.stat().st_size / 1e6
    with tempfile.TemporaryFile() as found:
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-m", __name__, str(path.absolute()), errors],
                stdin=subprocess.DEVNULL,
                stdout=found,
                stderr=subprocess.PIPE,
                timeout=seconds,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            )
        except subprocess.TimeoutExpired as error:
            raise DataError(
                f"{name}: not read within {seconds:.0f} seconds; the file is broken, replace it"
            ) from error
        if done.returncode:
            raise DataError(f"{name}: not a readable {_KINDS[_kind(path)]} file ({_why(done)})")
        found.seek(0)
        rows = (json.loads(line) for line in found)
        return [(f"{name} row {i}", row) for i, row in enumerate(rows)]


def _why(done: subprocess.CompletedProcess[bytes]) -> str:
    if done.returncode < 0:
        with contextlib.suppress(ValueError):
            return f"reading it ended with {signal.Signals(-done.returncode).name}: it is broken"
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else f"code {done.returncode}"


# ---------------------------------------------------------------------------- the other process

_KINDS = {"parquet": "Parquet", "file": "Arrow", "stream": "Arrow"}


def _kind(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(6)
    return "parquet" if start[:4] == b"PAR1" else "file" if start == b"ARROW1" else "stream"


def _main(path: str, errors: str) -> None:
    """Writes the rows of a file to stdout, one JSON object a line."""
    import pyarrow as pa

    try:
        with open(1, "w", encoding="utf-8") as out:
            for number, row in enumerate(_rows(Path(path))):
                try:
                    print(json.dumps(values.plain(row, errors), allow_nan=False), file=out)
                except values.BadValue as error:
                    sys.exit(f"row {number}: {error}")
    except (pa.ArrowException, OSError, ValueError, ArithmeticError, MemoryError) as error:
        sys.exit(" ".join(f"{error or type(error).__name__}".split()))


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    import pyarrow as pa

    with path.open("rb") as file:
        table = _table(file, _kind(path))
        table.validate(full=True)
        if len(set(table.column_names)) < len(table.column_names):
            raise ValueError(f"two columns share a name: {', '.join(table.column_names)}")
        classes = class_labels.of_schema(table.schema.metadata)
        for batch in table.to_batches(max_chunksize=_ROWS_PER_BATCH):
            for row in pa.Table.from_batches([batch]).to_pylist():
                yield class_labels.named(row, classes)


def _table(file: IO[bytes], kind: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet

    if kind == "parquet":
        return pyarrow.parquet.read_table(file)
    return (pa.ipc.open_file if kind == "file" else pa.ipc.open_stream)(file).read_all()


if __name__ == "__main__":
    code = 0
    try:
        _main(*sys.argv[1:])
    except SystemExit as error:
        print(error.code, file=sys.stderr, flush=True)
        code = 1
    # At an ordinary exit, Arrow's threads sometimes abort a process whose work is done.
    os._exit(code)
