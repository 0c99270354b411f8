"""Numbers in words: "twenty-one", "two thirds", "half a million", "three point one four"."""

from collections.abc import Sequence
from fractions import Fraction

SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
LONGEST = 12  # words of a number that are read
_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_NUMERALS = {word: n for n, word in enumerate(_SMALL)}
_NUMERALS |= {word: 10 * n for n, word in enumerate(_TENS, start=2)}
_ONE = {
    "half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7,
    "eighth": 8, "ninth": 9, "tenth": 10, "twelfth": 12, "sixteenth": 16, "hundredth": 100,
    "thousandth": 1000,
}  # fmt: skip
_MANY = {f"{name}s": n for name, n in _ONE.items()} | {"halves": 2}
_ARTICLES = ("a", "an")
BEGINS = {*_NUMERALS, *_ARTICLES, "hundred", "half"}
# "A third of them", but not "a third man"; "it is half", but not "the second half".
_GO_ON = ("of", "is", "are", "was", "and", "or", "because", "since")
_BEFORE_HALF = ("", "is", "are", "was", "by", "about", "exactly", "only", "=", ":", ".", ",")


def read(words: Sequence[str], before: str = "") -> tuple[int, Fraction]:
    """How many of the words, from the first, are one number, and its value; 0 if they begin with
    none.

    Args:
        words: in lower case, without hyphens.
        before: the word or sign before them, "" at the beginning of a text.
    """
    count, value = _fraction(words, before)
    if count:
        return count, value
    count, whole = _whole(words)
    value = Fraction(whole)
    if count:
        more, value = behind_whole(words[count:], value)
        if not more:
            more, value = _decimals(words[count:], value)
        count += more
    return count, value


def behind_whole(words: Sequence[str], whole: Fraction) -> tuple[int, Fraction]:
    """How many of the words go on a whole number, and the sum: "and a half", "and two thirds"."""
    count, part = _fraction(words[1:], "and") if words[:1] == ["and"] else (0, Fraction(0))
    if not count or part >= 1:
        return 0, whole
    value, count = whole + (part if whole >= 0 else -part), count + 1
    scale = SCALES.get(words[count], 0) if count < len(words) else 0
    return (count + 1, value * scale) if scale else (count, value)


def _fraction(words: Sequence[str], before: str) -> tuple[int, Fraction]:
    first, second, third = [*words[:3], "", "", ""][:3]
    if first == "half":
        if second == "a" and third in SCALES:
            return 3, Fraction(SCALES[third], 2)
        alone = before in _BEFORE_HALF and (not second.isalpha() or second in _GO_ON)
        return (1, Fraction(1, 2)) if alone else (0, Fraction(0))
    if first in _ARTICLES:
        alone = before == "and" or not third.isalpha() or third in _GO_ON
        return (2, Fraction(1, _ONE[second])) if second in _ONE and alone else (0, Fraction(0))
    count, above = _below_hundred(words, 0)
    name = words[count] if count < len(words) else ""
    below = (_ONE if above == 1 else _MANY).get(name)
    return (count + 1, Fraction(above, below)) if count and below else (0, Fraction(0))


def _decimals(words: Sequence[str], whole: Fraction) -> tuple[int, Fraction]:
    """What follows "point", digit by digit."""
    digits = ""
    if words[:1] == ["point"]:
        for word in words[1:]:
            if _NUMERALS.get(word, 10) > 9:
                break
            digits += str(_NUMERALS[word])
    if not digits:
        return 0, whole
    return 1 + len(digits), whole + Fraction(int(digits), 10 ** len(digits))


def _whole(words: Sequence[str]) -> tuple[int, int]:
    if words[:1] and words[0] in _ARTICLES:  # "a hundred and five"
        if words[1:2] == ["hundred"] or (len(words) > 1 and words[1] in SCALES):
            return _whole(["one", *words[1:]])
        return 0, 0
    place = total = 0
    for scale in ("trillion", "billion", "million", "thousand"):
        count, value = _below_thousand(words, place)
        if count and words[place + count : place + count + 1] == [scale]:
            total, place = total + value * SCALES[scale], place + count + 1
    joined = place > 0 and words[place : place + 1] == ["and"]  # "two thousand and five"
    count, value = (_below_hundred if joined else _below_thousand)(words, place + joined)
    return place + (joined + count if count else 0), total + value


def _below_thousand(words: Sequence[str], start: int) -> tuple[int, int]:
    count, value = _below_hundred(words, start)
    if words[start + count : start + count + 1] == ["hundred"]:
        joined = words[start + count + 1 : start + count + 2] == ["and"]
        more, rest = _below_hundred(words, start + count + 1 + joined)
        return count + 1 + (joined + more if more else 0), max(value, 1) * 100 + rest
    return count, value


def _below_hundred(words: Sequence[str], start: int) -> tuple[int, int]:
    first, second = [*words[start : start + 2], "", ""][:2]
    if first not in _NUMERALS:
        return 0, 0
    if _NUMERALS[first] >= 20 and 0 < _NUMERALS.get(second, 0) < 10:
        return 2, _NUMERALS[first] + _NUMERALS[second]
    return 1, _NUMERALS[first]
