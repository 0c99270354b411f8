"""Opens a data source given as one line of text and returns its rows.

    data/alpaca.json?rows=20000                          a file, see readers.py for its endings
    https://host/safety.jsonl.gz?weight=0.1              the same behind a URL, fetched once
    hf:tatsu-lab/alpaca:train                            hf:NAME[:CONFIG]:SPLIT, Hugging Face
    tfds:imdb_reviews/plain_text:train                   tfds:NAME:SPLIT, TensorFlow Datasets

Options follow the last question mark and are joined by `&`:

    rows=500          draw this many rows, without repetition
    weight=0.1        share of the final mix (see mixing.py)
    format=alpaca     the record format, where detection is not wanted (see records.py)
    columns=instruction:question,output:answer           our column : the file's column
    without=label,score   columns to pass over, as if they were not there
    only=type:contrast_*  rows whose column has this value; * stands for anything, | for or
    prompts=-1/5      rows that ask what is in a part of all prompts, or not in it; see folds.py
    name=safety       the name in reports; the file's stem otherwise
    form=question     requests put as instruction, question or opinion, see forms.py
    bad_rows=skip     leave out rows that are not usable, and count them, instead of stopping
    broken_text=replace   read bytes that are not UTF-8 as U+FFFD, instead of stopping
    sha256=HEX        what the hash of the file must be

Some readers know further options, and say so. A path or URL that itself holds a question mark is
written with one more at its end.
"""

import dataclasses
import fnmatch
import hashlib
import re
import urllib.parse
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from safety_jax.base import files, redaction
from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data import downloads, shuffling, values
from safety_jax.data.folds import Fold
from safety_jax.data.forms import FORMS
from safety_jax.data.readers import PlacedRow, Row, check_ending, read_file

R = TypeVar("R")


@dataclasses.dataclass(frozen=True, slots=True)
class Skipped:
    """A row that was left out, and why.

    Attributes:
        unwanted: the row itself says that it is not to be learned, or has no form that its source
            asks for; otherwise it is unusable.
    """

    where: str
    why: str
    unwanted: bool = False


@dataclasses.dataclass(frozen=True)
class Source:
    """Rows of one source, and what the user asked to do with them.

    Attributes:
        spec: the text it was opened from, without secrets, see `public`.
        name: its name in reports.
        rows: one mapping a row.
        where: for each row, its place in words: `alpaca.jsonl line 17`, `alpaca.json row 16`.
        take: rows to draw, or None for all.
        weight: share of the final mix, or None.
        format: name of the record format, or None to detect it.
        columns: our column name -> the source's.
        skip_bad_rows: leave unusable rows out instead of raising.
        form: that requests are put in, see forms.py; or "" for that of the rows.
        fold: the prompts whose rows count, see folds.py; None for all.
        path: the local file that was read, a download too; None for `hf:` and `tfds:`.
        extra: options that are the reader's own, see `open_source`.
        left_out: rows that were read in vain; readers of records add to it.
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
    form: str = ""
    fold: Fold | None = None
    path: Path | None = None
    extra: Mapping[str, str] = dataclasses.field(default_factory=dict)
    left_out: list[Skipped] = dataclasses.field(default_factory=list, compare=False)

    def sha256(self) -> str | None:
        """Of the file; None where there is none."""
        if self.path is None:
            return None
        return _sha256(self.path)


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
    spec = _without_spaces(spec)
    location, options = parse(spec, key, also)
    kind = location.partition(":")[0].lower()
    errors, sha256 = options.pop("errors"), options.pop("sha256")
    opened = _OPENERS.get(kind, _open_file)(location, key, errors, sha256)
    if not opened.rows:
        raise DataError(f"{location}: holds no rows; expected at least one, change {key}")
    without, only = options.pop("without"), options.pop("only")
    named = [*options["columns"].values(), *without, *([only[0]] if only else [])]
    _check_columns([row for _, row in opened.rows], named, f"{key}: {spec}")
    kept = _only(opened.rows, only, f"{key}: {spec}") if only else opened.rows
    rows: list[Row] = [row for _, row in kept]
    if without:
        rows = [{name: row[name] for name in row if name not in without} for row in rows]
    return Source(
        spec=public(spec),
        rows=rows,
        where=[place for place, _ in kept],
        path=opened.path,
        **({"name": opened.name} | options),
    )


def _check_columns(rows: Sequence[Row], named: Sequence[str], where: str) -> None:
    """Raises a ConfigError where no row has a column that the spec names."""
    for name in named:
        if not any(name in row for row in rows):
            known = dict.fromkeys(column for row in rows for column in row)
            raise ConfigError(
                f"{where}: no row has a column {name!r}; there are {', '.join(known) or 'none'}"
            )


def _only(rows: Sequence[PlacedRow], only: tuple[str, list[str]], where: str) -> list[PlacedRow]:
    """Rows whose column fits one of the patterns; a DataError where none does."""
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


def public(spec: str) -> str:
    """A spec as it may be shown and written down: of a URL, host and path, and our own options.

    All that a run keeps of a source comes from here: its card, its config.json, its results.
    """
    return redaction.public(_without_spaces(spec))


def _without_spaces(spec: str) -> str:
    """A URL ends, for whoever looks for it in a text, at its first space."""
    return spec.replace(" ", "%20") if "://" in spec else spec


def draw(found: list[R], source: Source, key: str, seed: int) -> list[R]:
    """What `rows=N` takes of the rows of one source: N of them by `seed`, in the file's order.

    Raises:
        ConfigError: more than there are, or a weight, which only a mix has.
    """
    if source.weight is not None:
        raise ConfigError(f"{key}: {source.spec}: a weight has no meaning here; use rows=")
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


def amounts(specs: Sequence[str]) -> list[int] | None:
    """How many rows these take, where they are one source but for `rows=`; None otherwise."""
    found, others = [], set()
    for spec in specs:
        location, query = split(_without_spaces(spec))
        options = query.split("&")
        rows = [option.removeprefix("rows=") for option in options if option.startswith("rows=")]
        if len(rows) != 1 or not rows[0].isdecimal():
            return None
        found.append(int(rows[0]))
        others.add((location, frozenset(o for o in options if not o.startswith("rows="))))
    return found if len(others) == 1 else None


# Options of a spec.


def _whole_number(text: str) -> int:
    if (value := int(text)) < 1:
        raise ValueError
    return value


def _weight(text: str) -> float:
    # Sums and quotients of weights stay numbers between these.
    if not 1e-9 <= (value := float(text)) <= 1e9:
        raise ValueError
    return value


def _columns(text: str) -> dict[str, str]:
    pairs = [item.split(":") for item in text.split(",")]
    if not all(len(pair) == 2 and all(pair) for pair in pairs):
        raise ValueError
    found = {ours: theirs for ours, theirs in pairs}
    if len(found) < len(pairs):
        raise ValueError
    return found


def _names(text: str) -> tuple[str, ...]:
    return tuple(map(_word, text.split(",")))


def _values(text: str) -> tuple[str, list[str]]:
    column, colon, patterns = text.partition(":")
    if not (column and colon and patterns):
        raise ValueError
    return column, patterns.split("|")


def _hash(text: str) -> str:
    if not re.fullmatch("[0-9a-fA-F]{64}", text):
        raise ValueError
    return text.lower()


def _word(text: str) -> str:
    if not text:
        raise ValueError
    return text


# option: (field of Source, parser, what is expected)
_OPTIONS: Mapping[str, tuple[str, Callable[[str], Any], str]] = {
    "rows": ("take", _whole_number, "a whole number above 0"),
    "weight": ("weight", _weight, "a number above 0, from 1e-9 to 1e9"),
    "format": ("format", _word, "a format of records.py"),
    "columns": (
        "columns",
        _columns,
        "ours:theirs pairs, each of ours once, as in output:answer,input:text",
    ),
    "without": ("without", _names, "names of columns, as in label,score"),
    "name": ("name", _word, "a word"),
    "form": ("form", {form: form for form in FORMS}.__getitem__, f"one of {', '.join(FORMS)}"),
    "bad_rows": ("skip_bad_rows", {"skip": True, "error": False}.__getitem__, "skip or error"),
    "broken_text": (
        "errors",
        {"replace": "replace", "error": "strict"}.__getitem__,
        "replace or error",
    ),
    "sha256": ("sha256", _hash, "64 hexadecimal digits"),
    "only": ("only", _values, "a column and its value, as in type:contrast_*"),
    "prompts": ("fold", Fold.parse, "a part of all prompts, 1/5, or all but it, -1/5"),
}
ALSO = ("as", "attack", "kind", "licence", "set", "twin")
"""Options of readers that know further ones; see `open_source`."""


def parse(spec: str, key: str, also: Sequence[str] = ()) -> tuple[str, dict[str, Any]]:
    """`path?rows=5` -> `path` and `{"take": 5, ...}`: fields of Source; `errors`, `sha256`,
    `without` and `only` besides.

    Raises:
        ConfigError: no source, or an option that is unknown or has a wrong value.
    """
    spec = _without_spaces(spec)
    location, query = split(spec)
    if not location:
        raise ConfigError(f"{key}: {spec!r} names no source; expected a path, a URL, hf: or tfds:")
    fields: dict[str, Any] = {
        "take": None,
        "weight": None,
        "format": None,
        "columns": {},
        "skip_bad_rows": False,
        "form": "",
        "errors": "strict",
        "sha256": None,
        "without": (),
        "only": None,
        "fold": None,
        "extra": {},
    }
    seen: set[str] = set()
    for item in filter(None, query.split("&")):
        option, _, text = item.partition("=")
        if option in seen:
            raise ConfigError(f"{key}: {spec}: {option}= stands twice; expected it once")
        seen.add(option)
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


# Openers: location, config key, what to do with broken text, and what the hash must be.


@dataclasses.dataclass(frozen=True)
class _Opened:
    name: str
    rows: list[PlacedRow]
    path: Path | None


def _open_file(location: str, key: str, errors: str, sha256: str | None) -> _Opened:
    if "://" in location:
        raise ConfigError(
            f"{key}: {location}: expected a path, http://, https://, hf: or tfds:; copy the file "
            "to a disk"
        )
    path = files.expand(location)
    rows = read_file(path, name=path.name, key=key, errors=errors)
    if sha256 is not None and (found := _sha256(path)) != sha256:
        raise DataError(f"{path}: its sha256 is {found}, not {sha256}; change {key} or the file")
    return _Opened(path.name.split(".")[0], rows, path)


def _open_url(url: str, key: str, errors: str, sha256: str | None) -> _Opened:
    try:
        name = Path(urllib.parse.unquote(urllib.parse.urlsplit(url).path)).name
    except ValueError as error:
        raise ConfigError(f"{key}: {url}: is no URL ({error})") from error
    check_ending(name, key)
    path = downloads.fetch(url, key, sha256)
    try:
        rows = read_file(path, name=name, key=key, errors=errors)
    except DataError:
        downloads.forget(path)
        raise
    return _Opened(name.split(".")[0], rows, path)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open_hub(location: str, key: str, errors: str, sha256: str | None) -> _Opened:
    _no_hash(location, key, sha256)
    import datasets

    name, config, split = _name_config_split(location, key)
    try:
        dataset = datasets.load_dataset(name, config, split=split)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise ConfigError(
            f"{location}: cannot be loaded ({error}); mend name, config or split, or download the "
            f"data and set {key} to a file"
        ) from error
    return _Opened(Path(name).name, _placed(dataset, location, errors), None)


def _open_tfds(location: str, key: str, errors: str, sha256: str | None) -> _Opened:
    _no_hash(location, key, sha256)
    import tensorflow_datasets as tfds

    # A TFDS name may hold a version after a colon: `imdb_reviews/plain_text:1.0.0`.
    name, config, split = _name_config_split(location, key)
    name = f"{name}:{config}" if config else name
    try:
        rows = list(tfds.data_source(name, split=split))
    except (OSError, ValueError, LookupError, ImportError, RuntimeError, AssertionError) as error:
        # TFDS lists every data set it knows in the message; its beginning says enough.
        raise ConfigError(
            f"{location}: cannot be loaded ({str(error):.200}); prepare the data set with "
            f"file_format=array_record, or set {key} to a file"
        ) from error
    return _Opened(name.split("/")[0], _placed(rows, location, errors), None)


def _no_hash(location: str, key: str, sha256: str | None) -> None:
    if sha256 is not None:
        raise ConfigError(f"{key}: {location}: sha256= is of one file; expected none here")


def _placed(rows: Iterable[Any], location: str, errors: str) -> list[PlacedRow]:
    found = []
    for i, row in enumerate(rows):
        where = f"{location} row {i}"
        try:
            found.append((where, values.plain(row, errors)))
        except values.BadValue as error:
            raise DataError(f"{where}: {error}; mend the data set") from error
    return found


def _name_config_split(location: str, key: str) -> tuple[str, str | None, str]:
    """`hf:NAME:CONFIG:SPLIT` -> its three parts; CONFIG may be absent."""
    kind, *parts = location.split(":")
    if len(parts) not in (2, 3) or not all(parts):
        raise ConfigError(
            f"{key}: {location}: expected {kind}:NAME:SPLIT or {kind}:NAME:CONFIG:SPLIT"
        )
    return parts[0], parts[1] if len(parts) == 3 else None, parts[-1]


_OPENERS: Mapping[str, Callable[[str, str, str, str | None], _Opened]] = {
    "hf": _open_hub,
    "tfds": _open_tfds,
    "http": _open_url,
    "https": _open_url,
}
