"""Questions with a short known answer: an answer is right if it commits itself to the known one.

Containing the known answer is not enough: -5 contains 5, C++ contains C, and so does "It is not C".
Texts are split into words and numbers (`quantities.py`); the known answer must be among them, or
the same number in another spelling, and the text must not deny it or offer an alternative
(`committed.py`).

Chinese, Japanese, Korean and Thai do not separate all words by spaces: there the known answer may
occur anywhere.
"""

import dataclasses
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

from safety_jax.evaluation.measures import committed, formulas, quantities
from safety_jax.evaluation.measures.counts import rate
from safety_jax.evaluation.measures.quantities import UNITS, Token

SEPARATOR = "|"  # between alternative known answers
_AFTER_WORKING = "####"

_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]"
)
_HAN = re.compile("[\u3400-\u9fff\uf900-\ufaff]")
# U.S.A., J. K.
_DOTTED = re.compile(r"\b[A-Z]\.(?: ?[A-Z]\.)+|\b(?:[A-Za-z]\.){2,}")
_ARTICLES = ("the", "a", "an")
_PUNCTUATION = set(".,;:!?()[]{}\"'…。、！？*_`-")
_UNIT_NAMES = set(UNITS.values())


def right(answer: str, known: str) -> bool:
    """Whether an answer gives the known one, or one of several, ignoring case, accents and
    punctuation: `A dog has four legs.` gives `four` and `4`, but not `our`. Of a known answer with
    its working, as GSM8K has them, the answer behind `####` counts.
    """
    text, _ = committed.conclusion(_plain(answer))
    tokens = quantities.read(text)
    known = known.rpartition(_AFTER_WORKING)[2]
    return any(_gives(text, tokens, _plain(one)) for one in known.split(SEPARATOR))


def measure(
    answers: Sequence[str], known: Sequence[str], prompts: Sequence[int] | np.ndarray | None = None
) -> dict[str, Any]:
    """Accuracy, as JSON values; see `estimates.Rate`.

    Args:
        prompts: the prompt of each answer; None if each has its own.
    """
    found = [right(answer, text) for answer, text in zip(answers, known, strict=True)]
    return {"accuracy": dataclasses.asdict(rate(found, prompts))}


def _plain(text: str) -> str:
    return _DOTTED.sub(lambda found: re.sub(r"[. ]", "", found[0]), committed.plain(text))


def _gives(text: str, tokens: Sequence[Token], known: str) -> bool:
    wanted = _wanted(known)
    if not wanted:
        return False
    if _UNSPACED.search(known):
        return _gives_unspaced(text, known)
    said = [i for i, token in enumerate(tokens) if token.text not in _PUNCTUATION]
    if len(wanted) == 1 and _lists_numbers([tokens[i] for i in said]):
        return False
    # The sign of a symbol has no token of its own, as that of a number has none.
    symbol = wanted[0].text in formulas.SYMBOLS
    negative = symbol and known[: wanted[0].start].endswith("-")
    for i in range(len(said)):
        count = _standing(tokens, said, i, wanted, text)
        if not count or _one_of_several(tokens, said, i, count):
            continue
        start, end = tokens[said[i]].start, tokens[said[i + count - 1]].end
        if negative and text[start - 1 : start] != "-":
            continue
        formula = formulas.continues(text, start - negative, end)
        if not formula and not committed.denied(text, start, end):
            return True
    return False


def _lists_numbers(words: Sequence[Token]) -> bool:
    """Whether a text consists of different numbers, of which no one is the answer: "5, 6"."""
    numbers = {word.value for word in words if word.text not in ("and", "or")}
    return len(numbers) > 1 and None not in numbers


def _wanted(known: str) -> list[Token]:
    tokens = [t for t in quantities.read(known) if t.text not in _PUNCTUATION]
    if len(tokens) > 1 and _word(tokens[0]) in _ARTICLES:
        tokens = tokens[1:]
    return tokens


def _standing(
    tokens: Sequence[Token], said: Sequence[int], i: int, wanted: Sequence[Token], text: str
) -> int:
    """How many words of the answer, from its i-th on, are the wanted tokens; 0 if they are not."""
    units = len(wanted) == 2 and wanted[0].value is not None and wanted[1].text in _UNIT_NAMES
    if units and _same(tokens[said[i]], wanted[0], len(said)):
        # "5" answers "5 km", but "5 miles" does not.
        behind = tokens[said[i + 1]].text if i + 1 < len(said) else ""
        unit = wanted[1].text
        if behind == unit or behind == "degree" and unit in ("celsius", "fahrenheit"):
            return 2
        return int(behind not in _UNIT_NAMES)
    if i + len(wanted) > len(said):
        return 0
    here = [tokens[number] for number in said[i : i + len(wanted)]]
    if not all(_same(one, other, len(said)) for one, other in zip(here, wanted, strict=True)):
        return 0
    if len(wanted) > 1 or len(wanted[0].text) > 1 or not wanted[0].text.isalpha():
        return len(wanted) if wanted[0].text != "no" or _begins(tokens, said[i]) else 0
    return int(_letter(text, here[0]))


def _same(one: Token, wanted: Token, words: int) -> bool:
    if wanted.value is not None and one.value is not None:
        pronoun = one.text == "one" and wanted.text != "one" and words > 1
        return one.value == wanted.value and not pronoun
    if wanted.value is not None or one.value is not None:
        return False
    return _word(one) == _word(wanted)


def _word(token: Token) -> str:
    """A word without accents."""
    letters = unicodedata.normalize("NFD", token.text)
    bare = "".join(c for c in letters if not "\u0300" <= c <= "\u036f")
    return unicodedata.normalize("NFC", bare)


def _letter(text: str, token: Token) -> bool:
    """Whether a single letter is a word of its own: "C", but not in "Objective-C" or "a cat"."""
    if token.text in formulas.SYMBOLS:
        return True
    around = text[max(0, token.start - 1) : token.start], text[token.end : token.end + 1]
    if "-" in around or "'" in around:
        return False
    article = re.match(r"\s+[a-z]", text[token.end :]) and token.text in ("a", "i")
    alone = not text[: token.start].strip(" \"'*(") and not text[token.end :].strip(" .\"'*)!")
    return alone or (text[token.start].isupper() and not article)


def _begins(tokens: Sequence[Token], place: int) -> bool:
    """Whether a word is a clause of its own: "No, it is not", but not "no reason"."""
    first = place == 0 or tokens[place - 1].text in _PUNCTUATION
    behind = tokens[place + 1].text if place + 1 < len(tokens) else "."
    return first and (behind in _PUNCTUATION or behind in _NEW_CLAUSE)


def _one_of_several(tokens: Sequence[Token], said: Sequence[int], i: int, count: int) -> bool:
    """Whether the answer offers an alternative to `count` words: "Paris or London", but not "5 or
    so"."""
    before = [tokens[number].text for number in said[max(0, i - 2) : i]]
    after = [tokens[number].text for number in said[i + count : i + count + 2]]
    if tokens[said[i]].text == "yes" and after == ["and", "no"]:
        return True
    return (
        "or" in before[-1:]
        or (before[-2:-1] == ["or"] and before[-1] in _HEDGES)
        or (after[:1] == ["or"] and after[1:] != ["so"])
    )


_NEW_CLAUSE = ("it", "he", "she", "they", "you", "we", "i", "this", "that", "there", "because")
_HEDGES = ("maybe", "perhaps", "possibly", "even", "the", "a", "an", "in")


def _gives_unspaced(text: str, known: str) -> bool:
    text, known = text.casefold(), known.casefold().strip()
    for found in re.finditer(re.escape(known), text):
        start, end = found.span()
        around = text[start - 1 : start] + text[end : end + 1]
        if (
            len(known) == 1
            and _HAN.search(around)
            and not re.search(r"[是为為:]\s*\Z", text[:start])
        ):
            continue  # a part of another word
        several = re.match(r"\s?(?:或|还是|還是|か(?!ら)|または|또는|이나)", text[end:])
        if not several and not committed.denied(text, start, end):
            return True
    return False
