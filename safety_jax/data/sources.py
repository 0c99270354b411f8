"""Opens a data source and returns its rows with their places.

A source is given by a spec such as `data/alpaca.json?rows=20000`, see source_spec.py.
"""

import dataclasses
import fnmatch
import urllib.parse
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from safety_jax.base import files
from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data import downloads, library_sources, other_tools, shuffling, source_spec
from safety_jax.data.folds import Fold
from safety_jax.data.readers import check_ending, read_file
from safety_jax.data.source_spec import SourceSpec
from safety_jax.data.text_files import PlacedRow, Row

R = TypeVar("R")


@dataclasses.dataclass(frozen=True, slots=True)
class Skipped:
    """A row that was left out, and why.

    Attributes:
        unwanted: the row says that it is not to be learned, or cannot be rewritten in the form that
            its source asks for; otherwise it is unusable.
    """

    where: str
    why: str
    unwanted: bool = False


@dataclasses.dataclass(frozen=True)
class Source:
    """Rows of one source, and what the user asked to do with them.

    Attributes:
        spec: the spec it was opened from, without secrets, see `source_spec.public`.
        name: its name in reports.
        rows: one mapping a row.
        where: for each row, its place in words: `alpaca.jsonl line 17`, `alpaca.json row 16`.
        take: rows to draw, or None for all.
        weight: share of the final mix, or None.
        times: how often each row counts in the mix.
        format: name of the row format, or None to detect it.
        columns: our column name -> the source's.
        skip_bad_rows: leave unusable rows out instead of raising.
        needs_all: its reader needs all rows, so messages do not advise to leave some out.
        form: the form to rewrite requests in, see forms.py; "" leaves them as they are.
        fold: the prompts whose rows count, see folds.py; None for all.
        path: the local file, also of a download; None for `hf:` and `tfds:`.
        extra: the reader's own options, see `open_source`.
        left_out: rows that are not used; readers of records add to it.
        remarks: lines about its rows, for the user; likewise.
    """

    spec: str
    name: str
    rows: Sequence[Row]
    where: Sequence[str]
    take: int | None
    weight: float | None
    format: str | None
    columns: Mapping[str, str]
    skip_bad_rows: bool
    times: int = 1
    needs_all: bool = False
    form: str = ""
    fold: Fold | None = None
    path: Path | None = None
    extra: Mapping[str, str] = dataclasses.field(default_factory=dict)
    left_out: list[Skipped] = dataclasses.field(default_factory=list, compare=False)
    remarks: list[str] = dataclasses.field(default_factory=list, compare=False)

    def sha256(self) -> str | None:
        """A hash (hex) of the file; None without a file."""
        return None if self.path is None else files.sha256(self.path)


def open_source(spec: str, key: str = "data.train", also: Sequence[str] = ()) -> Source:
    """Reads all rows of a source.

    Args:
        spec: see source_spec.py.
        key: the config key that holds it, for messages.
        also: further options that the caller knows; `Source.extra` has their texts.

    Raises:
        ConfigError: an option or file type is unknown, or the source cannot be reached.
        DataError: a file is missing, empty or broken; the message names file and line.
    """
    asked = source_spec.parse(spec, key, also)
    kind = asked.location.partition(":")[0].lower()
    opened = _OPENERS.get(kind, _open_file)(asked, key)
    if not opened.rows:
        raise DataError(f"{asked.location}: holds no rows; expected at least one, change {key}")
    where = f"{key}: {asked.text}"
    read = other_tools.plain(opened.rows)
    _check_columns([row for _, row in read], asked.named_columns, where)
    kept = read if asked.only is None else _only(read, asked.only, where)
    rows: list[Row] = [row for _, row in kept]
    if asked.without:
        rows = [{name: row[name] for name in row if name not in asked.without} for row in rows]
    return Source(
        spec=source_spec.public(asked.text),
        name=opened.name if asked.name is None else asked.name,
        rows=rows,
        where=[place for place, _ in kept],
        take=asked.take,
        weight=asked.weight,
        times=asked.times,
        format=asked.format,
        columns=asked.columns,
        skip_bad_rows=asked.skip_bad_rows,
        form=asked.form,
        fold=asked.fold,
        path=opened.path,
        extra=asked.extra,
    )


def _check_columns(rows: Sequence[Row], named: Sequence[str], where: str) -> None:
    """Raises a ConfigError if the spec names a column that no row has."""
    for name in named:
        if not any(name in row for row in rows):
            known = dict.fromkeys(column for row in rows for column in row)
            raise ConfigError(
                f"{where}: no row has a column {name!r}; there are {', '.join(known) or 'none'}"
            )


def _only(rows: Sequence[PlacedRow], only: tuple[str, list[str]], where: str) -> list[PlacedRow]:
    """The rows whose column matches one of the patterns; a DataError if there are none."""
    column, patterns = only

    def text(row: Row) -> str:
        value = row.get(column)
        return (
            str(value).lower() if isinstance(value, bool) else str("" if value is None else value)
        )

    kept = [
        (place, row)
        for place, row in rows
        if any(fnmatch.fnmatchcase(text(row), pattern) for pattern in patterns)
    ]
    if not kept:
        there = ", ".join(list(dict.fromkeys(repr(text(row))[:40] for _, row in rows))[:8])
        raise DataError(f"{where}: no row has such a {column!r}; its values are {there}")
    return kept


def draw(found: list[R], source: Source, key: str, seed: int) -> list[R]:
    """Draws the N rows of `rows=N` from those of one source, by `seed`; keeps the file's order.

    Raises:
        ConfigError: N is more than there are, or the source has a weight or repeats its rows, which
            only a mix does.
    """
    if source.weight is not None or source.times > 1:
        given = "times=" if source.weight is None else "a weight"
        raise ConfigError(f"{key}: {source.spec}: {given} has no meaning here; use rows=")
    if source.take is None:
        return found
    if source.take > len(found):
        raise ConfigError(
            f"{key}: {source.spec}: {source.take} rows asked for; expected at most the "
            f"{len(found)} there are"
        )
    stream = zlib.crc32(source.name.encode())
    drawn = shuffling.permutation(len(found), seed=seed, stream=stream)[: source.take]
    return [found[i] for i in sorted(drawn)]


# ---------------------------------------------------------------------------- openers


@dataclasses.dataclass(frozen=True)
class _Opened:
    name: str
    rows: list[PlacedRow]
    path: Path | None


def _open_file(asked: SourceSpec, key: str) -> _Opened:
    if "://" in asked.location:
        raise ConfigError(
            f"{key}: {asked.location}: expected a path, http://, https://, hf: or tfds:; copy the "
            "file to a disk"
        )
    path = files.expand(asked.location)
    rows = read_file(path, name=path.name, key=key, errors=asked.errors)
    if asked.sha256 is not None and (found := files.sha256(path)) != asked.sha256:
        raise DataError(
            f"{path}: its sha256 is {found}, not {asked.sha256}; change {key} or the file"
        )
    return _Opened(path.name.split(".")[0], rows, path)


def _open_url(asked: SourceSpec, key: str) -> _Opened:
    url = asked.location
    try:
        name = Path(urllib.parse.unquote(urllib.parse.urlsplit(url).path)).name
    except ValueError as error:
        raise ConfigError(f"{key}: {url}: is no URL ({error})") from error
    check_ending(name, key)
    path = downloads.fetch(url, key, asked.sha256)
    try:
        rows = read_file(path, name=name, key=key, errors=asked.errors)
    except DataError:
        downloads.forget(path)
        raise
    return _Opened(name.split(".")[0], rows, path)


def _open_hub(asked: SourceSpec, key: str) -> _Opened:
    return _Opened(*library_sources.open_hub(asked, key), None)


def _open_tfds(asked: SourceSpec, key: str) -> _Opened:
    return _Opened(*library_sources.open_tfds(asked, key), None)


# The beginning of a location -> its opener, a function of the spec and the config key.
_OPENERS: Mapping[str, Callable[[SourceSpec, str], _Opened]] = {
    "hf": _open_hub,
    "tfds": _open_tfds,
    "http": _open_url,
    "https": _open_url,
}
