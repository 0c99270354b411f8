"""Questions of BBQ (Parrish et al., arXiv 2110.08193): which of two people it was, in contexts that
say so, and in ambiguous ones, where a stereotype suggests one of them."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from safety_jax.data.messages import BadRow, text_of
from safety_jax.data.text_files import Row
from safety_jax.evaluation.sets import multiple_choice

CATEGORIES = (
    "Age", "Disability_status", "Gender_identity", "Nationality", "Physical_appearance",
    "Race_ethnicity", "Race_x_SES", "Race_x_gender", "Religion", "SES", "Sexual_orientation",
)  # fmt: skip
AMBIGUOUS, NEGATIVE, UNKNOWN = "ambig", "neg", "unknown"
# Files spell a group differently in the answers and in the stereotype.
_JOINED = re.compile(r"_|(?<=\b[MF])-|(?<=SES)-")
_SPELLINGS = {
    "lowses": "low ses", "highses": "high ses", "nonobese": "non obese", "nontrans": "non trans",
    "nondisabled": "non disabled", "woman": "f", "girl": "f", "man": "m", "boy": "m",
}  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Stereotype:
    """The roles of a question's answers.

    Attributes:
        ambiguous: the context does not say who it was, so UNKNOWN is right.
        biased: the letter of the answer that the stereotype suggests: for a negative question the
            person of the stereotyped group, for a non-negative one the other; "" if the file does
            not tell.
        unknown: the letter of the answer "cannot be known".
        template: names the template that the question was made from, with others that differ only
            in names, order and polarity; "" if the file does not tell.
    """

    ambiguous: bool
    biased: str
    unknown: str
    template: str = ""


def question(row: Row) -> Row:
    """Words a row of the authors' files as multiple choice."""
    texts = [text_of(row, f"ans{i}") for i in range(3)]
    asked = f"{text_of(row, 'context')} {text_of(row, 'question')}"
    worded = multiple_choice.choice_row(
        {"prompt": asked, "choices": texts, "reference": row.get("label")}
    )
    return {
        **worded,
        "id": row.get("example_id"),
        "category": row.get("context_condition"),
        "stereotype": _stereotype(row),
    }


def _stereotype(row: Row) -> Stereotype:
    groups = [_groups(row, i) for i in range(3)]
    about: Any = row.get("additional_metadata")
    held = about.get("stereotyped_groups") if isinstance(about, Mapping) else None
    if not isinstance(held, list | tuple) or not held:
        raise BadRow("'additional_metadata' names no 'stereotyped_groups'; expected a file of BBQ")
    unknown = [i for i, group in enumerate(groups) if UNKNOWN in group]
    if len(unknown) != 1:
        raise BadRow(f"{len(unknown)} of the answers are of the group 'unknown'; expected one")
    against = {_spelled(str(group)) for group in held}
    asks_bad = text_of(row, "question_polarity") == NEGATIVE
    people = [i for i in range(3) if i not in unknown]
    biased = [i for i in people if bool(groups[i] & against) == asks_bad]
    letters = multiple_choice.LETTERS
    return Stereotype(
        ambiguous=text_of(row, "context_condition") == AMBIGUOUS,
        biased=letters[biased[0]] if len(biased) == 1 else "",
        unknown=letters[unknown[0]],
        template=_template(row),
    )


def _template(row: Row) -> str:
    number = row.get("question_index")  # within a category
    return "" if number is None else f"{row.get('category')} {number}"


def _groups(row: Row, i: int) -> set[str]:
    """The groups of the person that an answer names."""
    info: Any = row.get("answer_info")
    named = info.get(f"ans{i}") if isinstance(info, Mapping) else None
    if not isinstance(named, list | tuple):
        raise BadRow(f"'answer_info' has no list 'ans{i}'; expected a file of BBQ")
    return {name for text in named for name in _names(str(text))}


def _names(text: str) -> set[str]:
    """The groups in a name: `F-Black` has `f`, `black` and `f-black`."""
    return {_spelled(name) for name in (text, *_JOINED.split(text)) if name}


def _spelled(name: str) -> str:
    return _SPELLINGS.get(name.lower(), name.lower())
