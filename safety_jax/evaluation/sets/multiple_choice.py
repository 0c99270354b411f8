"""Multiple choice, worded as in Safe to Serve (arXiv 2412.00074).

Scores of small models depend on every character, so the wording keeps the paper's spelling. Rows
also keep the question alone, for sets that are answered by likelihood (`unlettered`).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from safety_jax.data.labels import flag_of
from safety_jax.data.messages import BadRow, text_of
from safety_jax.data.text_files import Row

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LETTERED = re.compile(r"\s*([A-Z])[).:]\s+(.*)", re.DOTALL)


def choice_row(row: Row) -> Row:
    """Words a row with a question in `prompt`, its `choices` and the right one as `reference`.

    `choices` is a list of texts, an object of `text` and `label` lists, or lines `A) text`.
    `reference` is a letter, or the number of the right one from 0; if the choices have labels, it
    is one of these: ARC labels some questions 1 to 4, and its 3 is the third.
    """
    texts = _texts(row.get("choices"))
    letters = LETTERS[: len(texts)]
    right = _right(row.get("reference"), letters, _labels(row.get("choices"), len(texts)))
    return {**row, **_asked(text_of(row, "prompt"), texts), "reference": right}


def unlettered(row: Row) -> Row:
    """A worded row for answers by likelihood: the question without the choices, which are compared
    as texts. A row without a separate question keeps its prompt."""
    return {
        **row,
        "prompt": row.get("stem", row["prompt"]),
        "texts": row.get("texts", row["choices"]),
    }


def openbookqa(row: Row) -> Row:
    """A row of Hugging Face, of TFDS or of the paper's result files."""
    question: Any = row.get("question")
    if isinstance(question, Mapping):  # TFDS
        texts = [text_of(question, f"choice_{letter}") for letter in "ABCD"]
        stem, labels = text_of(question, "stem"), []
    else:
        texts, stem = _texts(row.get("choices")), text_of(row, "question_stem")
        labels = _labels(row.get("choices"), len(texts))
    letters = LETTERS[: len(texts)]
    return {
        "id": row.get("id"),
        "reference": _right(row.get("answerKey"), letters, labels),
        **_asked(stem, texts),
    }


def piqa(row: Row) -> Row:
    texts = [text_of(row, "sol1"), text_of(row, "sol2")]
    return {
        "id": row.get("id"),
        "reference": _right(row.get("label"), "AB"),
        **_asked(text_of(row, "goal"), texts),
    }


def boolq(row: Row) -> Row:
    """A row of BoolQ, answered with True or False instead of a letter."""
    prompt = (
        "### Instruction: Answer the following question (True/False) based on the passage.\n\n"
        f"### Passage:\n{text_of(row, 'passage')}\n\n"
        f"### Question: {text_of(row, 'question')}\n\n### Answer: "
    )
    right = "True" if flag_of(row, "answer") else "False"
    return {"prompt": prompt, "choices": ("True", "False"), "reference": right}


def _asked(question: str, texts: Sequence[str]) -> dict[str, Any]:
    letters = LETTERS[: len(texts)]
    listed = "\n".join(f"{letter}) {text}" for letter, text in zip(letters, texts, strict=True))
    prompt = (
        "### Instruction: Answer the following mulitple-choice question "  # sic
        f"({'/'.join(letters)}).\n\n### Question:\n{question}\n\n"
        f"### Choices: \n{listed}\n\n### Answer: "
    )
    return {
        "prompt": prompt,
        "choices": tuple(letters),
        "stem": question,
        "texts": tuple(texts),
    }


def _texts(value: Any) -> list[str]:
    if isinstance(value, Mapping):  # Hugging Face: parallel lists
        value = value.get("text")
    if isinstance(value, str):
        found = [_LETTERED.match(line) for line in value.strip().split("\n")]
        if not all(match and match[1] == LETTERS[i] for i, match in enumerate(found)):
            raise BadRow(f"'choices' is {value!r:.60}; expected lines A) ..., B) ...")
        value = [match[2] for match in found if match]
    texts = value if isinstance(value, list | tuple) else []
    if not 2 <= len(texts) <= len(LETTERS) or not all(isinstance(text, str) for text in texts):
        count = f"{len(texts)} choices; " if isinstance(value, list | tuple) else ""
        raise BadRow(f"'choices' is {value!r:.60}: {count}expected 2 to {len(LETTERS)} texts")
    if not all(text.strip() for text in texts):
        raise BadRow(f"'choices' is {value!r:.60}, one of them empty; expected text in each")
    return list(texts)


def _labels(value: Any, count: int) -> list[str]:
    """The labels in Hugging Face's parallel lists; none in other forms."""
    labels = value.get("label") if isinstance(value, Mapping) else None
    if labels is None:
        return []
    listed = labels if isinstance(labels, list | tuple) else []
    named = [str(label).strip().upper() for label in listed]
    if len(named) != count or len(set(named)) != count:
        raise BadRow(f"'choices' has the labels {labels!r:.60}; expected {count} that differ")
    return named


def _right(value: Any, letters: str, labels: Sequence[str] = ()) -> str:
    if isinstance(value, float) and value.is_integer():  # integers of a column with gaps
        value = int(value)
    text = str(value).strip().upper()
    if labels:
        if text not in labels:
            raise BadRow(f"the right choice is {value!r:.60}; expected one of {', '.join(labels)}")
        return letters[labels.index(text)]
    if len(text) == 1 and text in letters:
        return text
    if text.isdecimal() and int(text) < len(letters):
        return letters[int(text)]
    raise BadRow(
        f"the right choice is {value!r:.60}; expected one of {', '.join(letters)}, or its number "
        "from 0"
    )
