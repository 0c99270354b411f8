"""Makes text from files safe to print: a terminal shows it, but executes nothing in it.

Nor does what becomes of a printed line end a run: its results are in its folder.
"""

import contextlib
import errno
import io
import os
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

# Joiners that emoji and many scripts need, and the soft hyphen: invisible and harmless.
_HARMLESS = frozenset("\u200c\u200d\u00ad")
# Control; format (bidirectional overrides, invisible tags); lone surrogates, which cannot be sent
# to a terminal; line and paragraph separators.
_ACTS = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def clean(text: str, keep: str = "") -> str:
    r"""The text with an escape such as `\x1b` for each character on which a terminal would act.

    These are all control characters, so that no ANSI or OSC sequence is left, and all characters
    that are invisible or change the direction of the text around them.

    Args:
        keep: characters that are not escaped, such as line breaks.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        _spelled(character) if _acts(character) and character not in keep else character
        for character in text
    )


def shortened(text: str, most: int) -> str:
    """The text without its middle if it has more than `most` characters."""
    if len(text) <= most:
        return text
    head = most * 2 // 3
    tail = most - head
    return f"{text[:head]} [{len(text) - most:,} characters left out] {text[-tail:]}"


def _acts(character: str) -> bool:
    return unicodedata.category(character) in _ACTS and character not in _HARMLESS


def _spelled(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


# ---------------------------------------------------------------------------- whole streams

GREEN, PLAIN = "\x1b[32m", "\x1b[0m"  # sequences that this program prints itself
_BAR = ("\x1b[A", "\r")  # sequences of progress bars
_KEPT_APART = re.compile("|".join(map(re.escape, (GREEN, PLAIN, *_BAR))))
_STDERR = 2
# A pipe without a reader, such as `| head`; a closed terminal; a log on a full disk.
_GONE = (errno.EPIPE, errno.EIO, errno.ENOSPC, errno.EDQUOT)


def has_colour(stream: Any) -> bool:
    """Whether a stream is a terminal that shows colours, and its user wants them (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class Screen:
    """A stream that cleans the text written to it, and otherwise behaves like the given stream.

    When what is written can reach nobody any more, it is dropped.

    Args:
        stream: for example, `sys.stdout`.
        passes: sequences that are not cleaned, as well as line breaks and tabs.
    """

    def __init__(self, stream: Any, passes: Sequence[str]):
        self._stream, self._passes = stream, passes

    def write(self, text: str) -> int:
        with self._unless_gone():
            self._stream.write(self._cleaned(text))
        return len(text)

    def flush(self) -> None:
        with self._unless_gone():
            self._stream.flush()

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    @contextlib.contextmanager
    def _unless_gone(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in _GONE:
                raise
            # Python flushes what is left when it ends, and libraries write to the same number.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def _cleaned(self, text: str) -> str:
        done, at = "", 0
        for found in _KEPT_APART.finditer(text):
            if found.group() in self._passes:
                done += clean(text[at : found.start()], keep="\n\t") + found.group()
                at = found.end()
        return done + clean(text[at:], keep="\n\t")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def guard() -> None:
    """Cleans everything that this process prints from now on, also by libraries and tracebacks."""
    _open_closed()
    for name, passes in (("stdout", (GREEN, PLAIN)), ("stderr", _BAR)):
        stream = getattr(sys, name)
        if isinstance(stream, Screen):
            continue
        if stream is None:  # it was closed when Python started
            stream = open(os.devnull, "w")
        if isinstance(stream, io.TextIOWrapper):  # letters that its encoding lacks are spelled out
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, Screen(stream, passes))


def _open_closed() -> None:
    """Opens standard streams that are closed: otherwise a file of the run would get the number of
    one, and what libraries in C print."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        pass
    os.close(number)
