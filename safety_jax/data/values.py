"""Checks the values of files and turns them into plain ones, once; errors name the bad value.

Rows that pass contain only valid Unicode text, finite numbers, booleans, None, and lists and
mappings of these, nested no deeper than `DEPTH`. Later code does not check this again.
"""

import datetime
import decimal
import json
import math
import re
import uuid
from collections.abc import Mapping
from typing import Any

DEPTH = 64  # levels of lists and mappings in a row
DIGITS = 300  # of a whole number; longer ones do not fit into a float

_HALF = re.compile("[\ud800-\udfff]")
_SPELLED_HALF = re.compile(r"\\u[dD][89a-fA-F]")
# First bytes of pictures and sounds: JPEG, PNG, GIF, TIFF, WAVE and WebP, Ogg, FLAC, MP3.
_MEDIA = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"II*\x00", b"MM\x00*", b"RIFF", b"OggS"),
    *(b"fLaC", b"ID3"),
)
# Types that become text: JSON cannot express them.
_AS_TEXT = (datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, uuid.UUID)


class BadValue(ValueError):
    """Says what is wrong with a value, and where it is in its row; the reader adds the row."""


class _Refused:
    """A placeholder for a value that JSON does not allow, until its row is known."""

    def __init__(self, why: str):
        self.why = why


class JsonParser:
    """Reads JSON strictly: leaves placeholders for duplicate keys, NaN, Infinity and huge numbers,
    so that `plain` can report them with their row."""

    def __init__(self) -> None:
        self._refused: list[_Refused] = []
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._mapping,
            parse_int=self._whole,
            parse_float=self._real,
            parse_constant=lambda name: self._refuse(f"{name} is no JSON number; write null"),
        )

    def parse(self, text: str) -> tuple[Any, bool]:
        """Returns the value of a JSON text, and whether it is known to be plain; else call `plain`.

        Raises:
            json.JSONDecodeError: it is not JSON.
            BadValue: it is nested too deeply to be read.
        """
        self._refused.clear()
        try:
            value = self._decoder.decode(text)
        except RecursionError as error:
            raise BadValue(_DEEP) from error
        # Most rows are known to be plain.
        deep = text.count("[") + text.count("{") > DEPTH
        return value, not (self._refused or deep or _SPELLED_HALF.search(text))

    def _refuse(self, why: str) -> _Refused:
        self._refused.append(_Refused(why))
        return self._refused[-1]

    def _mapping(self, pairs: list[tuple[str, Any]]) -> Any:
        found = dict(pairs)
        if len(found) == len(pairs):
            return found
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        return self._refuse(f"the key {twice!r} stands twice")

    def _whole(self, digits: str) -> Any:
        return int(digits) if len(digits) <= DIGITS else self._refuse(_long(digits))

    def _real(self, digits: str) -> Any:
        number = float(digits)
        if math.isfinite(number):
            return number
        return self._refuse(f"the number {digits:.20} is too large")


def plain(value: Any, errors: str = "strict") -> Any:
    """Turns a value of any reader into plain values; see the top of this file.

    Times, decimals, UUIDs and infinities become text, bytes are decoded as UTF-8, arrays become
    lists, and NaN (which tables use for missing values) becomes None. Pictures, sounds and objects
    of other types become mappings that `is_file` recognises.

    Args:
        errors: "strict", or "replace" for U+FFFD in place of broken text.

    Raises:
        BadValue: something that no row can hold.
    """
    return _plain(value, errors, (), DEPTH)


def _plain(value: Any, errors: str, path: tuple[str | int, ...], depth: int) -> Any:
    if isinstance(value, str):
        return _text(value, errors, path)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        # Not by str(), which Python refuses for numbers of 4,300 digits.
        if value.bit_length() > DIGITS * math.log2(10):
            raise BadValue(_at(path) + _long("0" * int(value.bit_length() / math.log2(10))))
        return value
    if isinstance(value, float):
        return None if math.isnan(value) else value if math.isfinite(value) else str(value)
    if isinstance(value, _Refused):
        raise BadValue(_at(path) + value.why)
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            if value.startswith(_MEDIA):
                return _file(f"{len(value):,} bytes")
            if errors == "strict":
                raise BadValue(f"{_at(path)}bytes that are not UTF-8 ({error.reason})") from error
            return value.decode("utf-8", errors)
    if depth == 0:
        raise BadValue(_at(path[:3]) + _DEEP)
    if isinstance(value, Mapping):
        if is_file(value) and isinstance(value["bytes"], bytes):
            name = _plain(value["path"], errors, (*path, "path"), depth - 1)
            return _file(f"{len(value['bytes']):,} bytes", name)
        return {
            _text(str(name), errors, path): _plain(item, errors, (*path, str(name)), depth - 1)
            for name, item in value.items()
        }
    if hasattr(value, "tolist"):  # numpy's arrays and numbers
        return _plain(value.tolist(), errors, path, depth - 1)
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, errors, (*path, i), depth - 1) for i, item in enumerate(value)]
    return str(value) if isinstance(value, _AS_TEXT) else _file(type(value).__name__)


def is_file(value: Any) -> bool:
    """Whether a value is a file, such as a picture, as the library `datasets` writes it: a mapping
    of `bytes` and `path`."""
    return isinstance(value, Mapping) and value.keys() == {"bytes", "path"}


def _file(what: str, name: Any = None) -> dict[str, Any]:
    """A file inside a row, without its bytes, which are not plain."""
    return {"bytes": what, "path": name}


_DEEP = f"lists and objects in one another, deeper than {DEPTH} levels"


def _text(text: str, errors: str, path: tuple[str | int, ...]) -> str:
    if text.isascii() or not _HALF.search(text):
        return text
    if errors == "replace":
        return _HALF.sub("\N{REPLACEMENT CHARACTER}", text)
    half = _HALF.search(text)
    raise BadValue(f"{_at(path)}half of a surrogate pair, {half and half.group()!r}")


def _long(digits: str) -> str:
    return f"a number of {len(digits):,} digits; expected at most {DIGITS}"


def _at(path: tuple[str | int, ...]) -> str:
    """`messages[3].content: `, or nothing for the row itself."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return f"{''.join(parts).removeprefix('.')}: " if path else ""
