"""Escapes untrusted text: markup, invisible characters and direction marks."""

import json
import re
import unicodedata
from typing import Any

from markupsafe import Markup

# Invisible characters: controls, zero-width ones, direction marks, fillers, tags, noncharacters,
# and lone surrogates, which have no UTF-8. Tab, line feed and emoji's variation selectors are
# harmless.
_INVISIBLE = (
    r"\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5"
    r"\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ud800-\udfff\ufe00-\ufe0d"
    r"\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff"
)
_TAGS = r"\U000e0000-\U000e0fff"
# Combining marks; no language stacks six of them on one letter.
_COMBINING = (
    r"\u0300-\u034e\u0350-\u036f\u0483-\u0489\u0591-\u05bd\u0610-\u061a\u064b-\u065f\u0e34-\u0e3a"
    r"\u0e47-\u0e4e\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
)
_PATTERN = rf"([{_INVISIBLE}{_TAGS}])\1*|[{_COMBINING}]{{6,}}"
_RUN = re.compile(_PATTERN)
# The same in JavaScript, with the flag `u`.
SCRIPT_PATTERN = _PATTERN.replace(_TAGS, r"\u{e0000}-\u{e0fff}")


def name(run: str) -> str:
    """`U+202E`, repeated `U+200B ×40`, or the number of combining marks."""
    if run[0] != run[-1] or unicodedata.combining(run[0]):
        return f"{len(run)} combining marks"
    times = f" ×{len(run)}" if len(run) > 1 else ""
    return f"U+{ord(run[0]):04X}{times}"


def line(text: str) -> str:
    """One line of plain text, with invisible characters as `⟨U+202E⟩`."""
    return _RUN.sub(lambda run: f"⟨{name(run[0])}⟩", " ".join(text.split()))


def visible(text: str) -> Markup:
    """HTML of a text: escaped, with invisible characters shown as marks."""
    text = text.replace("\r\n", "\n")
    parts, end = [], 0
    for run in _RUN.finditer(text):
        parts += [Markup.escape(text[end : run.start()]), _mark(run[0])]
        end = run.end()
    return Markup("").join([*parts, Markup.escape(text[end:])])


def _mark(run: str) -> Markup:
    return Markup('<span class="invisible">{}</span>').format(name(run))


def json_for_script(value: Any) -> Markup:
    """JSON for a <script> element, which it cannot end, and in which it cannot open a comment.

    Characters that may be lost or misread are escaped; a lone surrogate is preserved.

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(_UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


_UNSAFE = re.compile("[<>&\u2028\u2029\ufeff\ufffe\uffff\u007f-\u009f\ud800-\udfff]")
