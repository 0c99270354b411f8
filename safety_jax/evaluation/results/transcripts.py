"""Prompts and answers for display. Every text here is hostile until escaped."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class TranscriptScore:
    """One judge's score of one answer: see `judges.judge.Score`; `unsafe` is None if the judge has
    no threshold, or no score."""

    value: float | None
    label: str
    unsafe: bool | None
    reason: str


@dataclasses.dataclass(frozen=True)
class Answer:
    """One answer for display.

    Attributes:
        thought: what a reasoning model wrote before the answer; "" if it wrote none.
        text: the answer itself.
        finish: "eos", "stop", "length", "thought" if the model never finished its thought; "" if
            the answer was read from a file that does not tell.
        refusal: "full", "partial", "none"; "" without the detector.
        choice: the choice that it makes in multiple choice, or "".
        human: people's label, "safe" or "unsafe", or "".
    """

    thought: str
    text: str
    finish: str
    refusal: str
    scores: Mapping[str, TranscriptScore]
    choice: str
    human: str


@dataclasses.dataclass(frozen=True)
class Transcript:
    """An item of a set with the answers of all models.

    Attributes:
        asked: what was asked instead of the prompt, if an attack reworded it or began the answer;
            else "".
        first: the id of the first item of its cluster: another answer to its prompt, another turn
            of its conversation, a twin, or itself.
    """

    set: str
    id: str
    kind: str
    category: str
    prompt: str
    reference: str
    answers: Mapping[str, Answer]
    asked: str = ""
    first: str = ""
