"""Opens a data source given as one line of text and returns its rows.

    data/alpaca.json?rows=20000                          a file: json, jsonl, csv, parquet, arrow
    https://host/safety.jsonl.gz?weight=0.1              the same behind a URL, fetched once
    hf:tatsu-lab/alpaca:train                            hf:NAME[:CONFIG]:SPLIT, Hugging Face
    tfds:imdb_reviews/plain_text:train                   tfds:NAME:SPLIT, TensorFlow Datasets

Options follow the last question mark and are joined by `&`:

    rows=500          draw this many rows, without repetition
    weight=0.1        share of the final mix (see mixing.py)
    format=alpaca     the record format, where detection is not wanted (see records.py)
    columns=instruction:question,output:answer           our column : the file's column
    name=safety       the name in reports; the file's stem otherwise
    bad_rows=skip     leave out rows that are not usable, and count them, instead of stopping
    broken_text=replace   read bytes that are not UTF-8 as U+FFFD, instead of stopping

Some readers know further options, and say so. A path or URL that itself holds a question mark is
written with one more at its end.
"""

import dataclasses
import hashlib
import http.client
import math
import os
import shutil
import socket
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data import shuffling
from safety_jax.data.readers import PlacedRow, Row, read_file

# How long a server may stay silent before it counts as unreachable.
_CONNECT_SECONDS = 60
R = TypeVar("R")


@dataclasses.dataclass(frozen=True)
class Source:
    """Rows of one source, and what the user asked to do with them.

    Attributes:
        spec: the text it was opened from.
        name: its name in reports.
        rows: one mapping a row.
        where: for each row, its place in words: `alpaca.jsonl line 17`, `alpaca.json row 16`.
        take: rows to draw, or None for all.
        weight: share of the final mix, or None.
        format: name of the record format, or None to detect it.
        columns: our column name -> the source's.
        skip_bad_rows: leave unusable rows out instead of raising.
        path: the local file that was read, a download too; None for `hf:` and `tfds:`.
        extra: options that are the reader's own, see `open_source`.
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
    path: Path | None = None
    extra: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def sha256(self) -> str | None:
        """Of the file; None where there is none."""
        if self.path is None:
            return None
        with open(self.path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def open_source(spec: str, key: str = "data.train", also: Sequence[str] = ()) -> Source:
    """Reads all rows of a source.

    Args:
        spec: see the top of this file.
        key: the config key that held it, for messages.
        also: further options that the caller knows; their texts are in `Source.extra`.

    Raises:
        ConfigError: an unknown option or file type, or a source that cannot be reached.
        DataError: a file that is missing, empty or broken; the message names file and line.
    """
    location, options = parse(spec, key, also)
    kind = location.partition(":")[0]
    errors = options.pop("errors")
    opened = _OPENERS.get(kind, _open_file)(location, key, errors)
    if not opened.rows:
        raise DataError(f"{location}: holds no rows; expected at least one, change {key}")
    return Source(
        spec=spec,
        rows=[row for _, row in opened.rows],
        where=[place for place, _ in opened.rows],
        path=opened.path,
        **({"name": opened.name} | options),
    )


def draw(found: list[R], source: Source, key: str, seed: int) -> list[R]:
    """What `rows=N` takes of the rows of one source: N of them by `seed`, in the file's order.

    Raises:
        ConfigError: more than there are.
    """
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


def split(spec: str) -> tuple[str, str]:
    """`path?rows=5` -> `path` and `rows=5`; the options follow the last question mark."""
    location, question_mark, query = spec.rpartition("?")
    return (location, query) if question_mark else (spec, "")


# Options of a spec.


def _whole_number(text: str) -> int:
    if (value := int(text)) < 1:
        raise ValueError
    return value


def _positive(text: str) -> float:
    if not (math.isfinite(value := float(text)) and value > 0):
        raise ValueError
    return value


def _columns(text: str) -> dict[str, str]:
    pairs = [item.split(":") for item in text.split(",")]
    if not all(len(pair) == 2 and all(pair) for pair in pairs):
        raise ValueError
    return {ours: theirs for ours, theirs in pairs}


def _word(text: str) -> str:
    if not text:
        raise ValueError
    return text


# option: (field of Source, parser, what is expected)
_OPTIONS: Mapping[str, tuple[str, Callable[[str], Any], str]] = {
    "rows": ("take", _whole_number, "a whole number above 0"),
    "weight": ("weight", _positive, "a number above 0"),
    "format": ("format", _word, "a format of records.py"),
    "columns": ("columns", _columns, "ours:theirs pairs, as in output:answer,input:text"),
    "name": ("name", _word, "a word"),
    "bad_rows": ("skip_bad_rows", {"skip": True, "error": False}.__getitem__, "skip or error"),
    "broken_text": (
        "errors",
        {"replace": "replace", "error": "strict"}.__getitem__,
        "replace or error",
    ),
}


def parse(spec: str, key: str, also: Sequence[str] = ()) -> tuple[str, dict[str, Any]]:
    """`path?rows=5` -> `path` and `{"take": 5, ...}`: the fields of Source, and `errors`.

    Raises:
        ConfigError: no source, or an option that is unknown or has a wrong value.
    """
    location, query = split(spec)
    if not location:
        raise ConfigError(f"{key}: {spec!r} names no source; expected a path, a URL, hf: or tfds:")
    fields: dict[str, Any] = {
        "take": None,
        "weight": None,
        "format": None,
        "columns": {},
        "skip_bad_rows": False,
        "errors": "strict",
        "extra": {},
    }
    for item in filter(None, query.split("&")):
        option, _, text = item.partition("=")
        if option in also and text:
            fields["extra"][option] = urllib.parse.unquote(text)
            continue
        if option not in _OPTIONS:
            known = ", ".join([*_OPTIONS, *also])
            raise ConfigError(
                f"{key}: {spec}: unknown option {option!r}; known are {known} (a "
                "path or URL that holds a question mark itself needs one more at its end)"
            )
        field, parse, expected = _OPTIONS[option]
        try:
            fields[field] = parse(urllib.parse.unquote(text))
        except (ValueError, KeyError) as error:
            raise ConfigError(f"{key}: {spec}: {option}={text}; expected {expected}") from error
    return location, fields


# Openers: location, config key, and what to do with broken text.


@dataclasses.dataclass(frozen=True)
class _Opened:
    name: str
    rows: list[PlacedRow]
    path: Path | None


def _open_file(location: str, key: str, errors: str) -> _Opened:
    path = Path(location).expanduser()
    rows = read_file(path, name=path.name, key=key, errors=errors)
    return _Opened(path.name.split(".")[0], rows, path)


def _open_url(url: str, key: str, errors: str) -> _Opened:
    name = Path(urllib.parse.urlsplit(url).path).name
    path = _download(url, key)
    rows = read_file(path, name=name, key=key, errors=errors)
    return _Opened(name.split(".")[0], rows, path)


def _download(url: str, key: str) -> Path:
    """Fetches a URL once, into the download cache of the datasets library."""
    # Imported here: it takes a second to load, and most sources do without.
    import datasets

    folder = Path(datasets.config.DOWNLOADED_DATASETS_PATH)
    path = folder / f"safety_jax-{hashlib.sha256(url.encode()).hexdigest()}"
    if path.exists():
        return path
    # Several hosts may share the folder: each writes a file of its own, then renames it in place.
    partial = path.with_suffix(f".{socket.gethostname()}-{os.getpid()}")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with urllib.request.urlopen(url, timeout=_CONNECT_SECONDS) as reply:
            with partial.open("wb") as file:
                shutil.copyfileobj(reply, file)
    except (OSError, http.client.HTTPException, ValueError) as error:
        partial.unlink(missing_ok=True)
        raise ConfigError(
            f"{url}: cannot be fetched ({error}); download the file and set {key} to its path"
        ) from error
    partial.replace(path)
    return path


def _open_hub(location: str, key: str, _: str) -> _Opened:
    import datasets

    name, config, split = _name_config_split(location, key)
    try:
        dataset = datasets.load_dataset(name, config, split=split)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise ConfigError(
            f"{location}: cannot be loaded ({error}); mend name, config or split, or download the "
            f"data and set {key} to a file"
        ) from error
    rows = [(f"{location} row {i}", row) for i, row in enumerate(dataset)]
    return _Opened(Path(name).name, rows, None)


def _open_tfds(location: str, key: str, _: str) -> _Opened:
    import tensorflow_datasets as tfds

    # A TFDS name may hold a version after a colon: `imdb_reviews/plain_text:1.0.0`.
    name, config, split = _name_config_split(location, key)
    name = f"{name}:{config}" if config else name
    try:
        rows = [_decoded(row) for row in tfds.data_source(name, split=split)]
    except (OSError, ValueError, LookupError, ImportError, RuntimeError, AssertionError) as error:
        # TFDS lists every data set it knows in the message; its beginning says enough.
        raise ConfigError(
            f"{location}: cannot be loaded ({str(error):.200}); prepare the data set with "
            f"file_format=array_record, or set {key} to a file"
        ) from error
    placed = [(f"{location} row {i}", row) for i, row in enumerate(rows)]
    return _Opened(name.split("/")[0], placed, None)


def _name_config_split(location: str, key: str) -> tuple[str, str | None, str]:
    """`hf:NAME:CONFIG:SPLIT` -> its three parts; CONFIG may be absent."""
    kind, *parts = location.split(":")
    if len(parts) not in (2, 3) or not all(parts):
        raise ConfigError(
            f"{key}: {location}: expected {kind}:NAME:SPLIT or {kind}:NAME:CONFIG:SPLIT"
        )
    return parts[0], parts[1] if len(parts) == 3 else None, parts[-1]


def _decoded(value: Any) -> Any:
    """TFDS gives text as bytes, and lists of text as arrays of bytes."""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, Mapping):
        return {key: _decoded(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _decoded(value.tolist())
    if isinstance(value, list | tuple):
        return [_decoded(item) for item in value]
    return value


_OPENERS: Mapping[str, Callable[[str, str, str], _Opened]] = {
    "hf": _open_hub,
    "tfds": _open_tfds,
    "http": _open_url,
    "https": _open_url,
}
