"""Turns Orbax's errors about files into one line of our own."""

import functools
import logging
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safety_jax.base.errors import CheckpointError

# Orbax and TensorStore raise these for files they cannot read or write. For an unreadable array,
# Orbax raises a bare `Exception`, which `Explain` recognises by its exact type.
FILE_ERRORS = (OSError, ValueError, KeyError)


class Explain:
    """Turns errors about files into one line: what happened, why, what to do."""

    def __init__(self, what: str, advice: str):
        self._what, self._advice = what, advice

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, FILE_ERRORS) or kind is Exception:
            raise CheckpointError(f"{self._what}: {_reason(error)}; {self._advice}") from error


def _reason(error: BaseException | None) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if type(error) is Exception and error.__cause__ is not None:
        return _reason(error.__cause__)
    text = " ".join(str(error).split())
    if "os_error_code" in text:  # ABORTED: Error writing "a": Failed: No space left [os_error_code
        text = text.split(" [")[0].rsplit(": ", 1)[-1]
    return text[:200]


@functools.cache
def raise_only() -> None:
    """Silences what Orbax, and asyncio for it, print about failures, in the whole process.

    Orbax also raises every failure, and its pages of tracebacks would hide the line that explains
    it.
    """

    def is_wanted(record: logging.LogRecord) -> bool:
        return not (record.exc_info and any(map(_is_of_orbax, _files(record))))

    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(is_wanted)
    report = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        # Reads that still run when Orbax gives up on a damaged checkpoint.
        if str(unraisable.exc_value) != "Event loop is closed":
            report(unraisable)

    sys.unraisablehook = hook


def _files(record: logging.LogRecord) -> Iterator[str]:
    """The files of code that a log record comes from, and those in its traceback."""
    yield record.pathname
    _, _, trace = record.exc_info or (None, None, None)
    yield from (frame.filename for frame in traceback.extract_tb(trace))


def _is_of_orbax(file: str) -> bool:
    return "orbax" in Path(file).parts
