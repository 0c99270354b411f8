"""Reads data files that are text: JSON, JSON lines, CSV, TSV, and lines of prompts."""

import codecs
import csv
import io
import json
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from safety_jax.base.errors import DataError, few
from safety_jax.data import values

Row = Mapping[str, Any]
PlacedRow = tuple[str, Row]

_OTHER_TEXT = {
    codecs.BOM_UTF32_LE: "UTF-32",  # comes first, because it begins like UTF-16
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_SEPARATOR = re.compile(r"(sep=(.))\r?\n")
# Names of dialogues: if an object has one list only, its items are rows, except under these names.
_DIALOGUES = ("messages", "conversations", "conversation", "chosen", "rejected", "prompt")


def read_text(data: bytes, name: str, errors: str) -> str:
    """Decodes a file; raises a DataError that names the line if bytes are not UTF-8."""
    other = next((form for mark, form in _OTHER_TEXT.items() if data.startswith(mark)), None)
    if other is None and len(data) > 3 and 0 in data[:2] and data[:4].count(0) == 2:
        other = "UTF-16"  # without a byte order mark
    if other:
        raise DataError(f"{name}: is {other}; expected UTF-8, save it as such")
    try:
        # utf-8-sig also reads plain UTF-8, and drops the byte order mark of some Windows tools.
        return data.decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{name} line {line}: cannot be read as UTF-8 ({error.reason}); mend the file, or add "
            "broken_text=replace to the source to read such bytes as U+FFFD"
        ) from error


# ---------------------------------------------------------------------------- JSON


def read_json(data: bytes, name: str, errors: str) -> list[PlacedRow]:
    """Reads a list of objects, an object that contains one, an object of parallel lists, or,
    despite the file's name, JSON lines."""
    text = read_text(data, name, errors)
    if not text.strip():
        return []
    try:
        value, is_plain = values.JsonParser().parse(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            return _json_lines(text, name, errors)
        raise DataError(
            f"{name} line {error.lineno} column {error.colno}: broken JSON ({error.msg}); "
            "expected a list of objects, mend the file"
        ) from error
    except values.BadValue as error:
        raise DataError(f"{name}: {error}; expected a list of objects") from error
    if not is_plain and not isinstance(value, list):
        value = plain_row(value, name, errors)
    if isinstance(value, dict):
        value = _rows_of(value, name)
    if not isinstance(value, list):
        raise DataError(f"{name}: expected a list of objects, got one {type(value).__name__}")
    return [_object(row, f"{name} row {i}", is_plain, errors) for i, row in enumerate(value)]


def _rows_of(value: dict[str, Any], name: str) -> list[Row]:
    """`{"data": [{...}, {...}]}` or `{"instructions": [a, b], "inputs": []}` -> rows.

    The papers' files have empty lists for unused columns, and may have settings (not lists) beside
    the columns; both are ignored. HarmBench's completions have a list of answers for each behavior
    instead of a list for each column.
    """
    if completions := _completions(value):
        return completions
    lists = {key: column for key, column in value.items() if isinstance(column, list) and column}
    if len(lists) == 1:
        ((key, rows),) = lists.items()
        if key not in _DIALOGUES and all(isinstance(row, dict) for row in rows):
            return rows
    lengths = {key: len(column) for key, column in lists.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"{name}: parallel lists of different lengths {lengths}; expected equal")
    if value and all(isinstance(column, dict) for column in value.values()):
        raise DataError(
            f"{name}: one object of objects, {few(list(value), 8)}; expected a list of objects: "
            'pandas writes one by to_json(orient="records")'
        )
    if not lists:
        raise DataError(
            f"{name}: one object with keys {few(list(value), 8) or '(none)'}; expected a list of "
            "objects, or an object of lists of equal length"
        )
    return [dict(zip(lists, cells, strict=True)) for cells in zip(*lists.values(), strict=True)]


def _completions(value: dict[str, Any]) -> list[Row]:
    """`{"BEHAVIOR": [{"test_case": a, "generation": b}]}` -> a row for each answer; empty for other
    files."""
    named = [(name, some) for name, some in value.items() if isinstance(some, list)]
    rows: list[Row] = [{"behavior": name, **one} for name, some in named for one in some
            if isinstance(one, dict) and {"test_case", "generation"} <= one.keys()]  # fmt: skip
    complete = len(named) == len(value) and len(rows) == sum(len(some) for _, some in named)
    return rows if complete else []


def read_json_lines(data: bytes, name: str, errors: str) -> list[PlacedRow]:
    """Reads an object from each line; blank lines count as lines, but hold nothing."""
    return _json_lines(read_text(data, name, errors), name, errors)


def _json_lines(text: str, name: str, errors: str) -> list[PlacedRow]:
    rows, parser = [], values.JsonParser()
    # Not splitlines, because JSON strings may contain U+2028 and the like unescaped.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{name} line {number}"
        try:
            value, is_plain = parser.parse(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{where}: broken JSON ({error.msg} at column {error.colno}); "
                "expected one object a line, mend or remove the line"
            ) from error
        except values.BadValue as error:
            raise DataError(f"{where}: {error}; mend or remove the line") from error
        rows.append(_object(value, where, is_plain, errors))
    return rows


def _object(value: Any, where: str, is_plain: bool, errors: str) -> PlacedRow:
    if not is_plain:
        value = plain_row(value, where, errors)
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected an object, got {type(value).__name__}: {value!r:.60}")
    return where, value


def plain_row(value: Any, where: str, errors: str) -> Any:
    try:
        return values.plain(value, errors)
    except values.BadValue as error:
        # Only half a surrogate pair can be read as U+FFFD.
        remedy = ", or add broken_text=replace to the source" if "surrogate" in str(error) else ""
        raise DataError(f"{where}: {error}; mend the row{remedy}") from error


# ---------------------------------------------------------------------------- tables, lines


def read_csv(data: bytes, name: str, errors: str) -> list[PlacedRow]:
    """Reads cells between commas, with a header; quoted cells may contain line breaks.

    Where numbers have a decimal comma, Excel writes semicolons, and other tools write tabs. If the
    header has no comma, its semicolons or tabs separate cells. A first line `sep=;` names the
    separator.
    """
    text = read_text(data, name, errors)
    if named := _SEPARATOR.match(text):
        # Its line end stays, so that lines keep their numbers.
        return _table(text[named.end(1) :], name, named[2])
    header = text.lstrip("\r\n").partition("\n")[0]
    found = "," if "," in header else next((one for one in ";\t" if one in header), ",")
    return _table(text, name, found)


def read_tsv(data: bytes, name: str, errors: str) -> list[PlacedRow]:
    """Reads cells between tabs, otherwise as CSV."""
    return _table(read_text(data, name, errors), name, "\t")


def _table(text: str, name: str, delimiter: str) -> list[PlacedRow]:
    """The rows, without columns that have no name: pandas' index, and what empty cells at the end
    of a header are."""
    # The default limit of 131,072 characters for a cell is too low for long documents.
    csv.field_size_limit(sys.maxsize)
    rows: list[PlacedRow] = []
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    line = 1
    try:
        header = next(filter(None, reader), [])
        named = [i for i, title in enumerate(header) if title.strip()]
        check_names([header[i] for i in named], f"{name} line {reader.line_num}")
        line = reader.line_num + 1
        for cells in reader:
            if cells == header:
                raise DataError(
                    f"{name} line {line}: repeats the header, as two files in one do; remove the "
                    "line"
                )
            if cells and len(cells) != len(header):
                raise DataError(
                    f"{name} line {line}: {len(cells)} cells; expected {len(header)}, "
                    "mend the row or its quotes"
                )
            if cells:
                rows.append((f"{name} line {line}", {header[i]: cells[i] for i in named}))
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{name} line {line}: broken CSV ({error}); mend the row") from error
    return rows


def check_names(names: Iterable[str], where: str) -> None:
    """Raises a DataError if two columns share a name, because a row can hold only one of them."""
    names = list(names)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{where}: two columns share a name: {twice!r} of {', '.join(names)}")


def read_lines(data: bytes, name: str, errors: str) -> list[PlacedRow]:
    """Reads a prompt from each line; blank lines count as lines, but hold nothing."""
    lines = read_text(data, name, errors).split("\n")
    return [
        (f"{name} line {number}", {"prompt": line.removesuffix("\r")})
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
