"""Questions with a short known answer: right is what contains it."""

import dataclasses
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from safety_jax.evaluation.measures.counts import rate

SEPARATOR = "|"  # between answers of which any will do


def right(answer: str, known: str) -> bool:
    """Whether an answer contains a known one, as whole words; case, accents and punctuation apart.

    `A dog has four legs.` contains `four`, and not `our`.
    """
    words = f" {_plain(answer)} "
    return any(f" {_plain(text)} " in words for text in known.split(SEPARATOR) if _plain(text))


def measure(answers: Sequence[str], known: Sequence[str]) -> dict[str, Any]:
    """Accuracy, as JSON values; see `results.Rate`."""
    found = [right(answer, text) for answer, text in zip(answers, known, strict=True)]
    return {"accuracy": dataclasses.asdict(rate(found))}


def _plain(text: str) -> str:
    letters = unicodedata.normalize("NFKD", text.casefold())
    return " ".join(re.findall(r"\w+", "".join(c for c in letters if not unicodedata.combining(c))))
