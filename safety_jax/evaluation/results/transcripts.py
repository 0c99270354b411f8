"""Prompts and answers as they are shown. Every text here is hostile until escaped."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class TranscriptScore:
    """One judgement of one answer: see `judges.judge.Score`; `unsafe` is None where the judge does
    not say."""

    value: float | None
    label: str
    unsafe: bool | None
    reason: str


@dataclasses.dataclass(frozen=True)
class Answer:
    """One answer as it is shown.

    Attributes:
        thought: what a reasoning model wrote before the answer; "" where it wrote none.
        text: the answer itself. Both are hostile until escaped.
        finish: "eos", "stop", "length", "thought" where the model never came to an answer; "" where
            it was read from a file that does not say.
        refusal: "full", "partial", "none"; "" where nobody judged it.
        choice: the letter read out of it; "" where none, or for other kinds.
        human: what people called it: "safe", "unsafe"; or "".
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
        asked: what was asked in place of the prompt, where an attack reworded it or began the
            answer; else "".
        first: the id of the first item that it belongs together with: another answer to its
            prompt, another turn of its conversation, a twin; its own where there is none.
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
