"""Splits a text into numbers and words, so that 3,000 equals 3000, and 1.5 is not 1."""

import dataclasses
import math
import re
from fractions import Fraction

from safety_jax.evaluation.measures import number_words

# Digits with separators; `_value` tells what they mean.
_LITERAL = re.compile(r"\d+(?:[.,'_]\d+)*(?: \d{3}(?![\d.,]\d|\d))*")
_GROUPED = re.compile(r"\d{1,3}(?:([,'_ ])\d{3})(?:\1\d{3})*(?:\.\d+)?\Z")
_GROUPED_IN_INDIA = re.compile(r"\d{1,2}(?:,\d\d)+,\d{3}(?:\.\d+)?\Z")
_LIST = re.compile(r"\d{1,3}(?:,\d{1,3}){2,}\Z")
_DIGITS = re.compile(r"\d+")
_GROUPED_BY_POINTS = re.compile(r"\d{1,3}(?:\.\d{3})+,\d+\Z|\d{1,3}(?:\.\d{3}){2,}\Z")
_POWER = re.compile(r"\^\(?([+-]?\d{1,3})\)?|[eE]([+-]?\d{1,3})(?![\w.])")
_TIMES_TEN = re.compile(r"\s?[x×*·]\s?10\^\(?([+-]?\d{1,3})\)?")
_MIXED = re.compile(r" (\d{1,3})/(\d{1,3})(?![\d/])")
_OVER = re.compile(r"/(\d{1,300})(?![\d/])")
_MINUS = re.compile(r"(?:(?<![\w)%])-\s?[$€£¥]?|\b(?:minus|negative)\s+)\Z", re.IGNORECASE)
_BELOW_ZERO = re.compile(r"\s*(?:°\s?[CF]?|degrees?)?\s*(?:celsius |fahrenheit )?below zero", re.I)
# A number that is part of something else: "3-5", "between 3 and 5", "2 + 3 =", "5:30".
_RANGE_BEFORE = re.compile(r"\d[%°\w]{0,3}\s?(?:-|to|through)\s?[$€£¥]?\Z")
_RANGE_AFTER = re.compile(r"[%°]?\s?(?:-|to|through)\s?[$€£¥]?\d")
_BETWEEN = re.compile(r"\bbetween [$€£]?[\d.,]+[%°\w]{0,3} and [$€£]?\Z", re.IGNORECASE)
_FROM_BETWEEN = re.compile(r"\bbetween [$€£]?\Z", re.IGNORECASE)
_AND_NUMBER = re.compile(r"[%°\w]{0,3}\s?and [$€£]?\d")
_SUM = re.compile(r"\s?[+*/×x]\s?\(?\d|\s-\s\(?\d|\s?=")
_SUMMED = re.compile(r"[\d)]\s?[+*/×x]\s?\(?\Z|\d\s-\s\(?\Z")
_OUT_OF = re.compile(r"\bout of (?:the |every )?\Z", re.IGNORECASE)
_TIME_BEFORE, _TIME_AFTER = re.compile(r"\d[:/]\Z"), re.compile(r"[:/]\d")
_PART_OF = (_RANGE_BEFORE, _BETWEEN, _SUMMED, _TIME_BEFORE, _OUT_OF)
_DECADE, _ITS_S = re.compile(r"\d{3}0\Z"), re.compile(r"'?s\b")
# The x of "5x faster"; that of "5x" alone is a variable.
_TIMES = re.compile(r"x\s(?!(?:and|or)\b)[a-z]{2}", re.IGNORECASE)
_MULTIPLIERS = {
    **number_words.SCALES, "hundred": 100, "k": 10**3, "bn": 10**9, "万": 10**4, "萬": 10**4,
    "億": 10**8, "亿": 10**8, "만": 10**4, "억": 10**8, "千": 10**3, "百": 100,
}  # fmt: skip
_MULTIPLIER = re.compile(
    r"\s?(hundred|thousand|million|billion|trillion|[万萬億亿만억千百])(?:s?\b|(?=\D))|(k|bn)\b",
    re.IGNORECASE,
)
_UNITS = {
    "percent": "% pct percent percentage", "km": "km kilometer kilometre", "m": "m meter metre",
    "cm": "cm centimeter centimetre", "mm": "mm millimeter millimetre", "mile": "mi mile",
    "foot": "ft foot feet", "inch": "inch inche", "kg": "kg kilogram kilo", "g": "g gram",
    "mg": "mg milligram", "ton": "t ton tonne", "lb": "lb pound", "l": "l liter litre",
    "ml": "ml milliliter millilitre", "second": "s sec second", "minute": "min minute",
    "hour": "h hr hour", "day": "day", "week": "week", "month": "month", "year": "yr year",
    "degree": "° degree", "celsius": "c celsius", "fahrenheit": "f fahrenheit",
    "gigabyte": "gb gigabyte", "megabyte": "mb megabyte", "terabyte": "tb terabyte",
    "kwh": "kwh", "hertz": "hz hertz", "mhz": "mhz", "ghz": "ghz", "mph": "mph", "ms": "ms",
    "am": "am", "pm": "pm",
    "dollar": "$ dollar usd", "euro": "€ euro eur", "sterling": "£ gbp", "yen": "¥ yen jpy",
}  # fmt: skip
UNITS = {name: unit for unit, names in _UNITS.items() for name in names.split()}
_MOST_DIGITS = 1000  # of a number with a value; a model may write digits without end

# C++, C#, .NET and AT&T are words; so is H2O, which holds no number.
_WORD = re.compile(
    r"(?i:(?:°|\bdeg(?:rees?)?\b)\s?(?P<warmth>c|f|celsius|centigrade|fahrenheit)(?![a-z]))|"
    r"\.?[^\W\d_][\w]*(?:\+\+|#)?(?:&\w+)*|[%°$€£¥]|[.,;:!?()\[\]{}\"…。、！？]|\S"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Token:
    """A word, number or sign.

    Attributes:
        text: in lower case, units by one name; for a number its digits.
        value: of a number that stands alone; None for words, and for numbers that are part of a
            range, a sum, a time, a version or a name.
        start, end: its span in the text.
        joined: whether a hyphen joins it to the token before.
    """

    text: str
    value: Fraction | None
    start: int
    end: int
    joined: bool = False


def read(text: str) -> list[Token]:
    """The tokens of a text normalised by `committed.plain`."""
    found: list[Token] = []
    place = 0
    for literal in _literals(text):
        found += _words(text, place, literal.start)
        found.append(literal)
        place = literal.end
    found += _words(text, place, len(text))
    return _spelt_out(_currencies(found))


def _words(text: str, start: int, end: int) -> list[Token]:
    found: list[Token] = []
    for match in _WORD.finditer(text, start, end):
        name = match[0].casefold()
        previous = text[match.start() - 1] if match.start() else " "
        joined = previous == "-" and match.start() > 1 and text[match.start() - 2].isalnum()
        after_number = found == [] and start > 0 and text[start : match.start()].strip() == ""
        single = name.rstrip("s") or name
        if match["warmth"]:
            name = "fahrenheit" if match["warmth"].casefold().startswith("f") else "celsius"
        elif name in UNITS or single in UNITS:
            short = len(single) < 3 and single.isascii() and single.isalpha()
            if not short or after_number:
                name = UNITS.get(name) or UNITS[single]
        if name != "-":
            found.append(Token(name, None, match.start(), match.end(), joined))
    return found


# ---------------------------------------------------------------------------- numbers in digits


def _literals(text: str) -> list[Token]:
    found: list[Token] = []
    for match in _LITERAL.finditer(text):
        start, end = match.span()
        if found and start < found[-1].end:
            continue  # the exponent or the divisor of the number before
        before = text[max(0, start - 2) : start]
        # H2O, v3, Apollo-11, the 5 of 1-800-5.
        if re.search(r"[A-Za-z._]\Z|[^\W\d_]-\Z", before):
            continue
        value = _value(match[0])
        if value is None and _LIST.match(match[0]):
            for one in _DIGITS.finditer(text, start, end):
                found.append(_in_place(text, *one.span(), Fraction(one[0])))
        elif value is None:
            found.append(Token(match[0], None, start, end))
        else:
            found.append(_in_place(text, start, end, value))
    return found


def _value(literal: str) -> Fraction | None:
    if len(literal) > _MOST_DIGITS:
        return None
    if _GROUPED.match(literal) or _GROUPED_IN_INDIA.match(literal):
        return Fraction(re.sub(r"[,'_ ]", "", literal))
    if _GROUPED_BY_POINTS.match(literal):
        return Fraction(literal.replace(".", "").replace(",", "."))
    if re.fullmatch(r"\d+(?:[.,]\d+)?", literal):
        return Fraction(literal.replace(",", "."))
    return None  # 1.2.3


def _in_place(text: str, start: int, end: int, value: Fraction) -> Token:
    """The number with its sign, power, fraction and multiplier; without a value if it is part of
    something else."""
    digits, size, after = text[start:end], value, end
    before = text[max(0, start - 40) : start]
    sign = _MINUS.search(before)
    if sign:
        size, start, before = -size, start - len(sign[0]), before[: sign.start()]
    if power := _POWER.match(text, end):
        exponent, end = int(power[1] or power[2]), power.end()
        if power[1] and _digits(size) * abs(exponent) > _MOST_DIGITS:
            return Token(digits, None, start, end)
        if size or exponent >= 0:
            size = size**exponent if power[1] else size * Fraction(10) ** exponent
    elif ten := _TIMES_TEN.match(text, end):
        size, end = size * Fraction(10) ** int(ten[1]), ten.end()
    elif (mixed := _MIXED.match(text, end)) and int(mixed[2]):
        size, end = size + Fraction(int(mixed[1]), int(mixed[2])), mixed.end()
    elif (over := _OVER.match(text, end)) and int(over[1]):
        size, end = size / int(over[1]), over.end()
    elif times := _MULTIPLIER.match(text, end):
        size, end = size * _MULTIPLIERS[(times[1] or times[2]).lower()], times.end()
    if _BELOW_ZERO.match(text, end):
        size = -abs(size)
    behind = text[end : end + 16]
    if _DECADE.match(digits) and (decade := _ITS_S.match(behind)):  # the 1990s, the 1990's
        return Token(f"{digits}s", None, start, end + decade.end())
    part = (
        any(known.search(before) for known in _PART_OF)
        or any(known.match(behind) for known in (_RANGE_AFTER, _TIME_AFTER))
        or (_FROM_BETWEEN.search(before) and _AND_NUMBER.match(behind))
        or (end == after and _SUM.match(behind))
        or not _measured(behind)
    )
    return Token(digits, None if part else size, start, end)


def _digits(size: Fraction) -> float:
    """The approximate number of digits."""
    return max(size.numerator.bit_length(), size.denominator.bit_length()) * math.log10(2)


def _measured(behind: str) -> bool:
    """Whether letters right after a number are a unit, an ordinal suffix or CJK."""
    letters = re.match(r"[A-Za-z]+", behind)
    if letters is None:
        return True
    name = letters[0].casefold()
    if len(name) == 1 and (letters[0].isupper() or name in "cf"):
        return False
    if name == "x":
        return bool(_TIMES.match(behind))
    return name in UNITS or name.rstrip("s") in UNITS or name in ("st", "nd", "rd", "th")


def _currencies(tokens: list[Token]) -> list[Token]:
    """$5 as 5 dollars."""
    found: list[Token] = []
    for token in tokens:
        swapped = (
            token.text[:1].isdigit() and found and found[-1].end == token.start
            and found[-1].text in ("dollar", "euro", "sterling", "yen")
        )  # fmt: skip
        if swapped:
            found[-1:] = [token, dataclasses.replace(found[-1])]
        else:
            found.append(token)
    return found


# ---------------------------------------------------------------------------- numbers in words


def _spelt_out(tokens: list[Token]) -> list[Token]:
    """The tokens with number words replaced by their values: "twenty-one", "2 and a half"."""
    found: list[Token] = []
    i = 0
    while i < len(tokens):
        words = [token.text for token in tokens[i : i + number_words.LONGEST]]
        value, count, size = tokens[i].value, 0, Fraction(0)
        if words[0] in number_words.BEGINS:
            count, size = number_words.read(words, found[-1].text if found else "")
        elif value is not None and value.denominator == 1 and words[1:2] == ["and"]:
            count, size = number_words.behind_whole(words[1:], value)
            count += count > 0
        if count:
            joined = tokens[i : i + count]
            text, start = " ".join(token.text for token in joined), joined[0].start
            if found and found[-1].text in ("minus", "negative"):
                start, size = found.pop().start, -size
            found.append(Token(text, size, start, joined[-1].end, joined[0].joined))
            i += count
        else:
            found.append(tokens[i])
            i += 1
    return found
