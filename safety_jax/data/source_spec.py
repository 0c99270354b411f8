"""Parses a data source's spec, one line of text: its location, and options.

    data/alpaca.json?rows=20000                          a file, see readers.py for its endings
    https://host/safety.jsonl.gz?weight=0.1              the same behind a URL, fetched once
    hf:tatsu-lab/alpaca:train                            hf:NAME[:CONFIG]:SPLIT, Hugging Face
    tfds:imdb_reviews/plain_text:train                   tfds:NAME:SPLIT, TensorFlow Datasets

Options follow the last question mark and are joined by `&`:

    rows=500          draw this many rows, without repetition
    weight=0.1        share of the final mix (see mixing.py)
    times=2           every row counts this often in the mix
    format=alpaca     the row format, instead of detecting it (see formats/)
    columns=instruction:question,output:answer           our column : the file's column
    without=label,score   columns to ignore, as if they were not there
    only=type:contrast_*  rows whose column has this value; * matches anything, | means or
    prompts=-1/5      rows whose prompt is in a part of all prompts, or not in it; see folds.py
    name=safety       the name in reports; the file's stem otherwise
    form=question     requests rewritten as instruction, question or opinion, see forms.py
    bad_rows=skip     leave out rows that are not usable, and count them, instead of stopping
    broken_text=replace   read bytes that are not UTF-8 as U+FFFD, instead of stopping
    sha256=HEX        the hash that the file must have

Some users of sources, such as evaluation sets, have further options. A path or URL that contains a
question mark needs one more at its end.
"""

import dataclasses
import re
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from safety_jax.base import redaction
from safety_jax.base.errors import ConfigError
from safety_jax.data.folds import Fold
from safety_jax.data.forms import FORMS


@dataclasses.dataclass(frozen=True)
class SourceSpec:
    """A parsed spec.

    Attributes:
        text: the spec itself, with spaces in a URL as %20.
        location: the path, URL, `hf:` or `tfds:` name.
        take: rows to draw, or None for all.
        weight: share of the final mix, or None.
        times: how often each row counts in the mix.
        format: name of the row format, or None to detect it.
        columns: our column name -> the source's.
        without: columns of the source to ignore.
        only: a column, and patterns one of which must match its value; None for all rows.
        fold: the prompts whose rows count; None for all.
        name: the name in reports; None for the source's own.
        form: the form to rewrite requests in; "" leaves them as they are.
        skip_bad_rows: leave unusable rows out instead of raising.
        errors: how to decode bytes that are not UTF-8, an argument of `bytes.decode`.
        sha256: the hash that the file must have, or None.
        extra: the reader's own options.
    """

    text: str
    location: str
    take: int | None = None
    weight: float | None = None
    times: int = 1
    format: str | None = None
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    without: tuple[str, ...] = ()
    only: tuple[str, list[str]] | None = None
    fold: Fold | None = None
    name: str | None = None
    form: str = ""
    skip_bad_rows: bool = False
    errors: str = "strict"
    sha256: str | None = None
    extra: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def named_columns(self) -> list[str]:
        """Columns that the source must have."""
        only = [] if self.only is None else [self.only[0]]
        return [*self.columns.values(), *self.without, *only]


def parse(text: str, key: str, also: Sequence[str] = ()) -> SourceSpec:
    """Parses a spec.

    Args:
        key: the config key that holds it, for messages.
        also: further options that the reader knows.

    Raises:
        ConfigError: the spec names no source, or an option is unknown or has a wrong value.
    """
    # Cards and configs would lose options of URLs that are missing there.
    assert set(also) <= set(redaction.OPTIONS), f"redaction.OPTIONS lacks one of {also}"
    text = _without_spaces(text)
    location, query = split(text)
    if not location:
        raise ConfigError(f"{key}: {text!r} names no source; expected a path, a URL, hf: or tfds:")
    fields: dict[str, Any] = {}
    extra: dict[str, str] = {}
    seen: set[str] = set()
    for item in filter(None, query.split("&")):
        option, _, value = item.partition("=")
        if option in seen:
            raise ConfigError(f"{key}: {text}: {option}= is given twice; expected it once")
        seen.add(option)
        if option in also and value:
            extra[option] = urllib.parse.unquote(value)
            continue
        if option not in _OPTIONS:
            known = ", ".join([*_OPTIONS, *also])
            raise ConfigError(
                f"{key}: {text}: unknown option {option!r}; known are {known} (a "
                "path or URL that holds a question mark itself needs one more at its end)"
            )
        field, read, expected = _OPTIONS[option]
        try:
            fields[field] = read(urllib.parse.unquote(value))
        except (ValueError, KeyError) as error:
            raise ConfigError(f"{key}: {text}: {option}={value}; expected {expected}") from error
    return SourceSpec(text, location, extra=extra, **fields)


def split(text: str) -> tuple[str, str]:
    """`path?rows=5` -> `path` and `rows=5`; the options follow the last question mark."""
    location, question_mark, query = text.rpartition("?")
    return (location, query) if question_mark else (text, "")


def public(text: str) -> str:
    """A spec without secrets: of a URL, only host and path, and our own options.

    Cards, config.json and results only have specs from here.
    """
    return redaction.public(_without_spaces(text))


def amounts(texts: Sequence[str]) -> list[int] | None:
    """The `rows=` of specs that are otherwise the same source; None if they are not."""
    found, others = [], set()
    for text in texts:
        location, query = split(_without_spaces(text))
        options = query.split("&")
        rows = [option.removeprefix("rows=") for option in options if option.startswith("rows=")]
        if len(rows) != 1 or not rows[0].isdecimal():
            return None
        found.append(int(rows[0]))
        others.add((location, frozenset(o for o in options if not o.startswith("rows="))))
    return found if len(others) == 1 else None


def _without_spaces(text: str) -> str:
    """A spec whose URL has no spaces, because URLs in messages are redacted up to the first one."""
    return text.replace(" ", "%20") if "://" in text else text


# ---------------------------------------------------------------------------- values of options


def _whole_number(text: str) -> int:
    if (value := int(text)) < 1:
        raise ValueError
    return value


def _weight(text: str) -> float:
    # Between these, sums and quotients of weights neither overflow nor vanish.
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


# option: (field of SourceSpec, parser, what is expected)
_OPTIONS: Mapping[str, tuple[str, Callable[[str], Any], str]] = {
    "rows": ("take", _whole_number, "a whole number above 0"),
    "weight": ("weight", _weight, "a number above 0, from 1e-9 to 1e9"),
    "times": ("times", _whole_number, "a whole number above 0"),
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
