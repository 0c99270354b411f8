"""Questions with a short known answer: right is what gives it as its answer.

To contain the known answer is not enough: -5 contains 5, C++ contains C, and so does "It is not C".
Texts are read as words and numbers (`quantities.py`); the known answer must be among them, as it
stands or as the same number in another spelling, and the text must neither deny it nor leave the
choice between it and something else (`committed.py`).

Chinese, Japanese, Korean and Thai write no spaces between words, or none between a word and its
particle: there the known answer may stand anywhere.
"""

import dataclasses
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

from safety_jax.evaluation.measures import committed, quantities
from safety_jax.evaluation.measures.counts import rate
from safety_jax.evaluation.measures.quantities import UNITS, Token

SEPARATOR = "|"  # between answers of which any will do

_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]"
)
_HAN = re.compile("[\u3400-\u9fff\uf900-\ufaff]")
_DOTTED = re.compile(r"\b(?:[A-Za-z]\.){2,}")  # U.S.A.
_ARTICLES = ("the", "a", "an")
_PUNCTUATION = set(".,;:!?()[]{}\"'…。、！？*_`-")
_UNIT_NAMES = set(UNITS.values())


def right(answer: str, known: str) -> bool:
    """Whether an answer gives a known one, or one of several; case, accents and punctuation apart.

    `A dog has four legs.` gives `four` and `4`, and not `our`.
    """
    text, _ = committed.conclusion(_plain(answer))
    tokens = quantities.read(text)
    return any(_gives(text, tokens, _plain(one)) for one in known.split(SEPARATOR))


def measure(
    answers: Sequence[str], known: Sequence[str], of: Sequence[int] | np.ndarray | None = None
) -> dict[str, Any]:
    """Accuracy, as JSON values; see `estimates.Rate`.

    Args:
        of: the prompt of each answer; None where each has its own.
    """
    found = [right(answer, text) for answer, text in zip(answers, known, strict=True)]
    return {"accuracy": dataclasses.asdict(rate(found, of))}


def _plain(text: str) -> str:
    return _DOTTED.sub(lambda found: found[0].replace(".", ""), committed.plain(text))


def _gives(text: str, tokens: Sequence[Token], known: str) -> bool:
    wanted = _wanted(known)
    if not wanted:
        return False
    if _UNSPACED.search(known):
        return _gives_unspaced(text, known)
    said = [i for i, token in enumerate(tokens) if token.text not in _PUNCTUATION]
    places = (i for i in range(len(said)) if _stands(tokens, said, i, wanted, text))
    return any(
        not committed.denied(text, tokens[said[i]].start, tokens[said[_last(said, i, wanted)]].end)
        and not _one_of_several(tokens, said, i, wanted)
        for i in places
    )


def _last(said: Sequence[int], i: int, wanted: Sequence[Token]) -> int:
    return min(i + len(wanted), len(said)) - 1


def _wanted(known: str) -> list[Token]:
    tokens = [t for t in quantities.read(known) if t.text not in _PUNCTUATION]
    if len(tokens) > 1 and _word(tokens[0]) in _ARTICLES:
        tokens = tokens[1:]
    return tokens


def _stands(
    tokens: Sequence[Token], said: Sequence[int], i: int, wanted: Sequence[Token], text: str
) -> bool:
    """Whether the wanted tokens stand in the answer from its i-th word on."""
    units = len(wanted) == 2 and wanted[0].value is not None and wanted[1].text in _UNIT_NAMES
    if units and _same(tokens[said[i]], wanted[0], len(said)):
        # "5" answers "5 km", and "5 miles" does not.
        behind = tokens[said[i + 1]].text if i + 1 < len(said) else ""
        return behind == wanted[1].text or behind not in _UNIT_NAMES
    if i + len(wanted) > len(said):
        return False
    here = [tokens[number] for number in said[i : i + len(wanted)]]
    if not all(_same(one, other, len(said)) for one, other in zip(here, wanted, strict=True)):
        return False
    if len(wanted) > 1 or len(wanted[0].text) > 1 or not wanted[0].text.isalpha():
        return wanted[0].text != "no" or _begins(tokens, said[i])
    return _letter(text, here[0])


def _same(one: Token, wanted: Token, words: int) -> bool:
    if wanted.value is not None and one.value is not None:
        pronoun = one.text == "one" and wanted.text != "one" and words > 1
        return one.value == wanted.value and not pronoun
    if wanted.value is not None or one.value is not None:
        return False
    return _word(one) == _word(wanted)


def _word(token: Token) -> str:
    """Without accents, dots of an abbreviation and the 's of a possessor."""
    letters = unicodedata.normalize("NFD", token.text)
    bare = "".join(c for c in letters if not "\u0300" <= c <= "\u036f")
    return unicodedata.normalize("NFC", bare)


def _letter(text: str, token: Token) -> bool:
    """Whether a single letter is meant as one: "C", and not that of "Objective-C" or "a cat"."""
    around = text[max(0, token.start - 1) : token.start], text[token.end : token.end + 1]
    if "-" in around or "'" in around:
        return False
    article = re.match(r"\s+[a-z]", text[token.end :]) and token.text in ("a", "i")
    alone = not text[: token.start].strip(" \"'*(") and not text[token.end :].strip(" .\"'*)!")
    return alone or (text[token.start].isupper() and not article)


def _begins(tokens: Sequence[Token], place: int) -> bool:
    """Whether a word stands at the beginning of a clause: "No, it is not", and not "no reason"."""
    first = place == 0 or tokens[place - 1].text in _PUNCTUATION
    return first and (place + 1 == len(tokens) or tokens[place + 1].text in _PUNCTUATION)


def _one_of_several(
    tokens: Sequence[Token], said: Sequence[int], i: int, wanted: Sequence[Token]
) -> bool:
    """Whether the answer leaves the choice: "Paris or London"."""
    before = [tokens[number].text for number in said[max(0, i - 2) : i]]
    after = [tokens[n].text for n in said[i + len(wanted) : i + len(wanted) + 1]]
    return (
        "or" in before[-1:] or before[-2:-1] == ["or"] and before[-1] in _HEDGES or after == ["or"]
    )


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
