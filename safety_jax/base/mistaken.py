"""Recognises common kinds of wrong files by their first bytes."""

from pathlib import Path

_WEB_PAGE = "is a web page; download the file itself (on the Hub from /resolve/, not /blob/)"
_LONGEST = 64  # bytes that are read
# Beginnings of files that are always a mistake, in lower case, and what to do about such a file.
_NEVER_MEANT = {
    b"version https://git-lfs": "is a pointer of Git LFS; get the file itself with git lfs pull",
    b"<!doctype html": _WEB_PAGE,
    b"<html": _WEB_PAGE,
}
_NO_TEXT = {
    b"\x1f\x8b": "is compressed by gzip; let its name end in .gz",
    b"BZh91AY": "is compressed by bzip2; let its name end in .bz2",
    b"\xfd7zXZ": "is compressed by xz; let its name end in .xz",
    b"\x28\xb5\x2f\xfd": "is compressed by zstd; let its name end in .zst",
    b"PK\x03\x04": "is a ZIP archive, or an Excel workbook whose name should end in .xlsx",
    b"PAR1\x15": "is a Parquet file; let its name end in .parquet",
    b"ARROW1\0": "is an Arrow file; let its name end in .arrow",
}


def look(path: Path, *, text: bool = False) -> str | None:
    """What a wrong file is, and what to do about it; None for all other files.

    Args:
        text: whether the file should be text that is not compressed.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        start = file.read(_LONGEST)
    found = (what for begins, what in _NEVER_MEANT.items() if start.lower().startswith(begins))
    other = (what for begins, what in _NO_TEXT.items() if text and start.startswith(begins))
    return next(found, None) or next(other, None)
