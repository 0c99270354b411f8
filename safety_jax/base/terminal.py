"""Text that came from a file, made fit for a terminal: it is seen, and does nothing."""

import unicodedata

# Joiners that emoji and many scripts need; they show nothing and move nothing.
_HARMLESS = frozenset("\u200c\u200d\u00ad")
# Control; format (bidirectional overrides, invisible tags); half a surrogate pair, which no
# terminal can be sent; line and paragraph separators.
_ACTS = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def clean(text: str, keep: str = "") -> str:
    r"""The text with each character that a terminal would act upon spelled out, as in `\x1b`.

    That is every control character, so that no ANSI or OSC sequence is left, and everything that
    is invisible or changes the direction of the text around it.

    Args:
        keep: characters to leave, say line breaks.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        _spelled(character) if _acts(character) and character not in keep else character
        for character in text
    )


def shortened(text: str, most: int) -> str:
    """The text without its middle where it has more than `most` characters."""
    if len(text) <= most:
        return text
    head = most * 2 // 3
    tail = most - head
    return f"{text[:head]} [{len(text) - most:,} characters left out] {text[-tail:]}"


def _acts(character: str) -> bool:
    return unicodedata.category(character) in _ACTS and character not in _HARMLESS


def _spelled(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
