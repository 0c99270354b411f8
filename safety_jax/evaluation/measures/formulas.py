r"""Whether a piece of a text is only a part of a formula, as \pi is of \frac{\pi}{2}."""

import re

SYMBOLS = ("\\", "π")  # begin a factor that is no number
_READ = 200  # characters before a piece that are examined
_FUNCTION = (
    r"(?:π|\\(?:theta|alpha|beta|phi|infty|sqrt|[dt]?frac|[dt]?binom|sin|cos|tan|log|ln|exp|pm|mp)"
    r"(?![A-Za-z]))"
)
_FACTOR_BEHIND = re.compile(rf"\s?{_FUNCTION}")
# Of a number: 5x, 5(x + 1), 5 * x, but not "5x faster".
_VARIABLE_BEHIND = re.compile(
    r"\s?[×*]?\s?[xyz](?![A-Za-z]|\s(?!(?:and|or)\b)[a-z]{2})|"
    r"(?:\s[×*]\s|[×*])[b-hj-z](?![A-Za-z])|"
    r"\s?[×*]?\s?\((?=-?\d*[a-z](?![A-Za-z]))[^()]*[+*/^×-]"
)
# Greater or less than a number, which is none itself: x > 5, but not ">> 5" or "<b>5".
_COMPARED_BEHIND = re.compile(
    r"\s?(?:[<>≤≥]|\\(?:leq?|geq?|lt|gt)(?![A-Za-z]))\s?[a-z](?![A-Za-z>])"
)
_COMPARED_BEFORE = re.compile(
    r"(?:(?<![A-Za-z</])[a-z]\s?[<>≤≥≠]|[≤≥≠]|\\(?:leq?|geq?|neq?|lt|gt)(?![A-Za-z]))\s?\Z"
)
_FACTOR_BEFORE = re.compile(rf"{_FUNCTION}\s?\Z")
_POWER_OR_QUOTIENT = re.compile(r"\^|\s?/\s?(?:[\d(π]|[a-z](?![A-Za-z]))")
_SUM = re.compile(r"\s?\+\s?(?:[A-Za-z](?![A-Za-z])|\d|\\[A-Za-z])|\s?-\s?[xyz](?![A-Za-z])")
_SUM_BEFORE = re.compile(r"(?:(?<![A-Za-z])[a-z]|[)}])\s?\+\s?\Z")
# One of a pair, (3, 4): the text before and behind the first, and before and behind the second.
_PAIRS = (
    (re.compile(r"[(\[]\s?\Z"), re.compile(r"\s?,\s?-?\d[\d.]*\s?[)\]]")),
    (re.compile(r"[(\[]\s?-?\d[\d.]*\s?,\s?\Z"), re.compile(r"\s?[)\]]")),
)
_BEHIND_SIGN = re.compile(r"[\^_/]\s?\Z")  # of a power, an index or a quotient
_COEFFICIENT = re.compile(r"\d\s?\Z|(?:\A|[^\w)}%-])-\Z")
# What the argument of a command, a power or an index follows, perhaps behind another argument;
# some commands only say how their argument looks.
_OWNER = re.compile(
    r"(?:\\(?!(?:boxed|fbox|mbox|text[a-z]*|math[a-z]+)(?![A-Za-z]))[A-Za-z]+|[\^_])\s?"
    r"(?:\{(?:[^{}]|\{[^{}]*\})*\}|\[[^\[\]]*\])?\s?\Z"
)


def continues(text: str, start: int, end: int) -> bool:
    """Whether a formula of a text normalised by `committed.plain` has more than text[start:end]:
    a factor, a power, a bound, a command around it, or the other number of a pair."""
    piece = text[start:end]
    for _ in range(piece.count("{") - piece.count("}")):
        end += text[end : end + 1] == "}"
    before, behind = text[max(0, start - _READ) : start], text[end : end + 24]
    if _FACTOR_BEHIND.match(behind):
        return True
    command = piece.lstrip("-").startswith(SYMBOLS)
    if command and _COEFFICIENT.search(before):
        return True
    if piece[-1:].isdigit() and (
        _VARIABLE_BEHIND.match(behind)
        or _COMPARED_BEHIND.match(behind)
        or _COMPARED_BEFORE.search(before)
    ):
        return True
    symbol = command or len(piece) == 1 or piece[-1:].isdigit()
    if symbol and any(
        found
        for found in (
            *(known.match(behind) for known in (_POWER_OR_QUOTIENT, _SUM)),
            *(known.search(before) for known in (_FACTOR_BEFORE, _SUM_BEFORE, _BEHIND_SIGN)),
        )
    ):
        return True
    if any(first.search(before) and second.match(behind) for first, second in _PAIRS):
        return True
    return _in_argument(before)


def _in_argument(before: str) -> bool:
    """Whether a place is between the braces of a command, a power or an index."""
    depth = 0
    for place in range(len(before) - 1, -1, -1):
        if before[place] == "}":
            depth += 1
        elif before[place] == "{" and depth:
            depth -= 1
        elif before[place] == "{" and _OWNER.search(before, 0, place):
            return True
    return False
