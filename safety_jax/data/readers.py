"""Readers of data files: JSON, JSON lines, CSV, Excel, Parquet, Arrow; gzip by the ending .gz.

Every reader returns one `(place, row)` a row. The place is what a user looks up: the line of a text
file or the row of a sheet, counted from 1; the row of a list or table, counted from 0.
"""

import contextlib
import csv
import gzip
import io
import json
import sys
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

import pyarrow as pa
import pyarrow.parquet

from safety_jax.base.errors import ConfigError, DataError

Row = Mapping[str, Any]
PlacedRow = tuple[str, Row]


def read_file(path: Path, *, name: str, key: str, errors: str) -> list[PlacedRow]:
    """Reads a whole data file by the reader for its ending.

    Args:
        path: where the file lies.
        name: the file's name, which tells its kind and starts every place.
        key: the config key that led here, for messages.
        errors: "strict", or "replace" to read bytes that are not UTF-8 as U+FFFD.

    Raises:
        ConfigError: no reader for this ending.
        DataError: missing, a directory, or broken; the message names file and line.
    """
    read = next((r for end, r in _READERS.items() if name.lower().endswith(end)), None)
    if path.is_dir():
        raise DataError(f"{path} is a directory; expected one data file, change {key}")
    if read is None:
        raise ConfigError(
            f"{key}: {name}: unknown kind of source; expected a file ending in "
            f"{', '.join(_READERS)}, or hf:NAME:SPLIT, or tfds:NAME:SPLIT"
        )
    if not path.exists():
        raise DataError(f"{path}: no such file; expected a data file, change {key}")
    try:
        return read(path, name, errors)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); replace the file") from error
    except RecursionError as error:
        raise DataError(f"{path}: JSON nested too deeply; expected a list of objects") from error


def _text(path: Path, name: str, errors: str) -> str:
    data = gzip.open(path).read() if name.endswith(".gz") else path.read_bytes()
    try:
        # utf-8-sig also reads plain UTF-8, and drops the mark some Windows tools put in front.
        return data.decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{name} line {line}: cannot be read as UTF-8 ({error.reason}); mend the file, or add "
            "broken_text=replace to the source to read such bytes as U+FFFD"
        ) from error


def _read_json(path: Path, name: str, errors: str) -> list[PlacedRow]:
    """A list of objects, one object of parallel lists, or (despite its name) JSON lines."""
    text = _text(path, name, errors)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            return _json_lines(text, name)
        raise DataError(
            f"{name} line {error.lineno} column {error.colno}: broken JSON ({error.msg}); "
            "expected a list of objects, mend the file"
        ) from error
    if isinstance(value, dict):
        value = _parallel_lists(value, name)
    if not isinstance(value, list):
        raise DataError(f"{name}: expected a list of objects, got one {type(value).__name__}")
    return [_object(row, f"{name} row {i}") for i, row in enumerate(value)]


def _parallel_lists(value: dict[str, Any], name: str) -> list[Row]:
    """`{"instructions": [a, b], "inputs": []}` -> one row for each place in the lists.

    The papers' files leave a column that they do not use empty, and may carry settings (not lists)
    beside the columns; neither becomes a column here.
    """
    lists = {key: column for key, column in value.items() if isinstance(column, list) and column}
    lengths = {key: len(column) for key, column in lists.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"{name}: parallel lists of different lengths {lengths}; expected equal")
    if not lists:
        raise DataError(
            f"{name}: one object with keys {', '.join(value) or '(none)'}; expected a list of "
            "objects, or an object of lists of equal length"
        )
    return [dict(zip(lists, cells, strict=True)) for cells in zip(*lists.values(), strict=True)]


def _read_json_lines(path: Path, name: str, errors: str) -> list[PlacedRow]:
    return _json_lines(_text(path, name, errors), name)


def _json_lines(text: str, name: str) -> list[PlacedRow]:
    rows = []
    # Not splitlines: JSON strings may hold U+2028 and its kin unescaped.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{name} line {number}: broken JSON ({error.msg} at column {error.colno}); "
                "expected one object a line, mend or remove the line"
            ) from error
        rows.append(_object(value, f"{name} line {number}"))
    return rows


def _object(value: Any, where: str) -> PlacedRow:
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected an object, got {type(value).__name__}: {value!r:.60}")
    return where, value


def _read_csv(path: Path, name: str, errors: str) -> list[PlacedRow]:
    # The default limit of 131,072 characters a cell is below what long documents need.
    csv.field_size_limit(sys.maxsize)
    rows: list[PlacedRow] = []
    reader = csv.reader(io.StringIO(_text(path, name, errors), newline=""), strict=True)
    line = 1
    try:
        header = next(reader, [])
        if len(set(header)) < len(header):
            raise DataError(f"{name} line 1: two columns share a name: {', '.join(header)}")
        line = reader.line_num + 1
        for cells in reader:
            if cells and len(cells) != len(header):
                raise DataError(
                    f"{name} line {line}: {len(cells)} cells; expected {len(header)}, "
                    "mend the row or its quotes"
                )
            if cells:
                rows.append((f"{name} line {line}", dict(zip(header, cells, strict=True))))
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{name} line {line}: broken CSV ({error}); mend the row") from error
    return rows


def _read_excel(path: Path, name: str, _: str) -> list[PlacedRow]:
    """The first sheet, its columns named in row 1; cells are texts, as in CSV."""
    import openpyxl

    try:
        # From memory: of a path openpyxl wants the ending, which a downloaded file need not have.
        content = io.BytesIO(path.read_bytes())
        book = openpyxl.load_workbook(content, read_only=True, data_only=True)
        with contextlib.closing(book):
            cells = [
                ["" if cell is None else str(cell) for cell in row]
                for row in book.worksheets[0].iter_rows(values_only=True)
            ]
    except (zipfile.BadZipFile, KeyError, IndexError, ValueError, ParseError) as error:
        raise DataError(f"{name}: not a readable Excel workbook ({error})") from error
    columns = [(i, title) for i, title in enumerate(cells[0] if cells else ()) if title]
    titles = [title for _, title in columns]
    if len(set(titles)) < len(titles):
        raise DataError(f"{name} row 1: two columns share a name: {', '.join(titles)}")
    return [
        # Rows end with their last cell where a file does not tell its width.
        (f"{name} row {number}", {title: row[i] if i < len(row) else "" for i, title in columns})
        for number, row in enumerate(cells[1:], start=2)
        if any(row)
    ]


def _read_parquet(path: Path, name: str, _: str) -> list[PlacedRow]:
    try:
        table = pyarrow.parquet.read_table(path)
    except pa.ArrowException as error:
        raise DataError(f"{name}: not a readable Parquet file ({error})") from error
    return _table_rows(table, name)


def _read_arrow(path: Path, name: str, _: str) -> list[PlacedRow]:
    """Both forms of Arrow: the stream that `datasets` writes, and the file with a footer."""
    try:
        with pa.memory_map(str(path)) as data:
            is_file = data.read(6) == b"ARROW1"
            data.seek(0)
            reader = pa.ipc.open_file(data) if is_file else pa.ipc.open_stream(data)
            return _table_rows(reader.read_all(), name)
    except pa.ArrowException as error:
        raise DataError(f"{name}: not a readable Arrow file ({error})") from error


def _table_rows(table: pa.Table, name: str) -> list[PlacedRow]:
    return [(f"{name} row {i}", row) for i, row in enumerate(table.to_pylist())]


_READERS: Mapping[str, Callable[[Path, str, str], list[PlacedRow]]] = {
    ".json": _read_json,
    ".json.gz": _read_json,
    ".jsonl": _read_json_lines,
    ".jsonl.gz": _read_json_lines,
    ".csv": _read_csv,
    ".csv.gz": _read_csv,
    ".xlsx": _read_excel,
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
}
ENDINGS = tuple(_READERS)
