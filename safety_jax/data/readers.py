"""Reads data files by their ending, and checks everything in them, once.

    .json .jsonl .ndjson .csv .tsv .txt     text, also behind .gz .xz .bz2 .zst
    .xlsx .parquet .arrow .feather          tables

Every reader returns a `(place, row)` for each row. The place tells the user where to look: the line
of a text file or the row of a sheet, counted from 1; the row of a list or table, counted from 0.
"""

import bz2
import gzip
import lzma
import sys
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from safety_jax.base import files, mistaken, terminal
from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data import table_files, text_files
from safety_jax.data.text_files import PlacedRow

# A compressed file may unpack to so many times its size, or at least to so many bytes.
_GROWTH, _ANY_TEXT = 200, 256 << 20  # bytes
_PIECE = 16 << 20


def read_file(path: Path, *, name: str, key: str, errors: str) -> list[PlacedRow]:
    """Reads a whole data file by the reader for its ending.

    Args:
        path: the file.
        name: the file's name, which determines its kind and begins every place.
        key: the config key that led here, for messages.
        errors: "strict", or "replace" to read text that is not Unicode as U+FFFD.

    Raises:
        ConfigError: there is no reader for this ending.
        DataError: the file is missing, a directory, a pipe, or broken; the message names file and
            line.
    """
    if path.is_dir():
        raise DataError(
            f"{path} is a directory; expected one data file, or hf:{path}:SPLIT for a folder that "
            f"the library datasets reads, change {key}"
        )
    packed, ending = check_ending(name, key)
    shown = terminal.clean(name)
    try:
        files.check_regular(path)
        # Lines of a .txt file may contain anything.
        named = ending != ".txt" and mistaken.look(path, text=ending in _TEXTS and not packed)
        if named:
            raise DataError(f"{path}: {named}")
        if path.stat().st_size == 0:
            return []
        if ending in _TABLES:
            return _TABLES[ending](path, shown, errors)
        return _TEXTS[ending](_unpacked(path, packed), shown, errors)
    except FileNotFoundError as error:
        several = "; name each file with a flag of its own, or hf:FOLDER:SPLIT" * ("*" in path.name)
        raise DataError(
            f"{path}: no such file; expected a data file, change {key}{several}"
        ) from error
    except _damages() as error:
        why = files.reason(error) if isinstance(error, OSError) else error
        raise DataError(f"{path}: cannot be read ({why}); replace the file") from error
    except MemoryError as error:
        raise DataError(f"{path}: does not fit into memory; split the file") from error


def check_ending(name: str, key: str) -> tuple[str, str]:
    """`a.jsonl.gz` -> `.gz` and `.jsonl`.

    Raises:
        ConfigError: there is no reader for this ending.
    """
    lower = name.lower()
    packed = next((end for end in _PACKED if lower.endswith(end)), "")
    lower = lower.removesuffix(packed)
    known = _TEXTS if packed else {**_TEXTS, **_TABLES}
    if ending := next((end for end in known if lower.endswith(end)), ""):
        return packed, ending
    raise ConfigError(
        f"{key}: {name}: unknown kind of source; expected a file ending in "
        f"{', '.join([*_TEXTS, *_TABLES])}, or one of text and {', '.join(_PACKED)}, or "
        "hf:NAME:SPLIT, or tfds:NAME:SPLIT"
    )


def _unpacked(path: Path, packed: str) -> bytes:
    """The unpacked bytes of a file; its format's own checks (length, hash) apply at the end."""
    if not packed:
        return path.read_bytes()
    most = max(_ANY_TEXT, _GROWTH * path.stat().st_size)
    found, size = [], 0
    with _PACKED[packed](path) as file:
        while piece := file.read(_PIECE):
            size += len(piece)
            if size > most:
                raise OSError(f"it unpacks to more than {most >> 20:,} MiB, too much for text")
            found.append(piece)
    return b"".join(found)


def _damages() -> tuple[type[Exception], ...]:
    """The errors that readers raise for broken files; those of pyarrow only if it is loaded."""
    arrow = sys.modules.get("pyarrow")
    of_arrow = () if arrow is None else (arrow.ArrowException,)
    return (OSError, EOFError, zlib.error, lzma.LZMAError, *of_arrow)


def _open_zst(path: Path) -> Any:
    import pyarrow as pa

    return pa.CompressedInputStream(pa.OSFile(str(path)), "zstd")


_PACKED: Mapping[str, Callable[[Path], IO[bytes]]] = {
    ".gz": gzip.open,  # type: ignore[dict-item]
    ".xz": lzma.open,
    ".bz2": bz2.open,
    ".zst": _open_zst,
}
_TEXTS: Mapping[str, Callable[[bytes, str, str], list[PlacedRow]]] = {
    ".json": text_files.read_json,
    ".jsonl": text_files.read_json_lines,
    ".ndjson": text_files.read_json_lines,
    ".csv": text_files.read_csv,
    ".tsv": text_files.read_tsv,
    ".txt": text_files.read_lines,
}
_TABLES: Mapping[str, Callable[[Path, str, str], list[PlacedRow]]] = {
    ".xlsx": table_files.read_excel,
    ".parquet": table_files.read_arrow,
    ".arrow": table_files.read_arrow,
    ".feather": table_files.read_arrow,
}
ENDINGS = (*_TEXTS, *_TABLES, *(f"{end}{packed}" for packed in _PACKED for end in _TEXTS))
COLUMN_ENDINGS = tuple(end for end in ENDINGS if not end.startswith(".txt"))
"""Endings of files whose rows may have any columns."""
