"""What Orbax says about files that it cannot read or write, in one line of our own."""

import functools
import logging
import sys
from pathlib import Path
from typing import Any

from safety_jax.base.errors import CheckpointError

# What Orbax and TensorStore raise for files they cannot read or write. Orbax also raises bare
# `Exception` for an unreadable array, which `Explain` tells apart by its exact type.
FILE_ERRORS = (OSError, ValueError, KeyError)


class Explain:
    """Turns the errors of files into one line: what, why, what to do."""

    def __init__(self, what: str, advice: str):
        self._what, self._advice = what, advice

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
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
    """Keeps what Orbax prints about a failure off the screen, once per process.

    Every failure is raised as well; pages of tracebacks would hide the one line that explains it.
    """

    def is_wanted(record: logging.LogRecord) -> bool:
        return not (record.exc_info and "orbax" in Path(record.pathname).parts)

    logging.getLogger("absl").addFilter(is_wanted)
    report = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        # Reads still under way when Orbax gives up on a damaged checkpoint.
        if str(unraisable.exc_value) != "Event loop is closed":
            report(unraisable)

    sys.unraisablehook = hook
