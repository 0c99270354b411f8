"""Hostile text made harmless: what models write may try to run, to hide, or to run backwards."""

import json
import re
from typing import Any

from markupsafe import Markup

# Characters that are not seen but change what is: controls, zero-width ones, direction marks,
# fillers, tags, noncharacters. Tab, line feed and emoji's variation selectors are harmless. Lone
# surrogates have no UTF-8 at all. The page's script uses the same class, with the flag `u`.
INVISIBLE = (
    r"\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5"
    r"\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ud800-\udfff\ufe00-\ufe0d"
    r"\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff"
)
_TAGS = "\U000e0000-\U000e0fff"
_RUN = re.compile(f"([{INVISIBLE}{_TAGS}])\\1*")


def name(run: str) -> str:
    """`U+202E`, and how often: `U+200B ×40`."""
    times = f" ×{len(run)}" if len(run) > 1 else ""
    return f"U+{ord(run[0]):04X}{times}"


def line(text: str) -> str:
    """One line of plain text without anything invisible: `⟨U+202E⟩` stands for it."""
    return _RUN.sub(lambda run: f"⟨{name(run[0])}⟩", " ".join(text.split()))


def visible(text: str) -> Markup:
    """HTML of a text: escaped, with invisible characters shown as marks."""
    parts, end = [], 0
    for run in _RUN.finditer(text):
        parts += [Markup.escape(text[end : run.start()]), _mark(run[0])]
        end = run.end()
    return Markup("").join([*parts, Markup.escape(text[end:])])


def _mark(run: str) -> Markup:
    return Markup('<span class="invisible">{}</span>').format(name(run))


def json_for_script(value: Any) -> Markup:
    """JSON that can stand between <script> tags: it cannot end the element, nor open a comment.

    Pure ASCII where a character could be lost or misread on its way; a lone surrogate stays what it
    is.

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(_UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


_UNSAFE = re.compile("[<>&\u2028\u2029\ufeff\ufffe\uffff\u007f-\u009f\ud800-\udfff]")
