"""The file of a run's scores, one line each, written block by block.

A line is keyed by the row's number, its text and the judge's protocol: an edited row is scored
again, and so is every row if the judge's weights change.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safety_jax.base import files
from safety_jax.judges.judge import Conversation, JudgeCard, Score

Key = tuple[int, str, str]


class Ledger:
    """An append-only file of scores.

    Args:
        path: the file, which is read if it exists; a last line cut off by a kill is dropped.
        writes: whether this process writes; exactly one process of a run does.

    Raises:
        DataError: a line before the last is damaged.
    """

    def __init__(self, path: Path, writes: bool):
        remedy = "remove the line to score its row again"
        self._lines = files.Lines(path, writes=writes, remedy=remedy)
        self._scores: dict[Key, Score] = dict(self._lines.read(_parsed))

    def get(self, row: int, conversation: Conversation, card: JudgeCard) -> Score | None:
        """The score of a row under this card, if there is one."""
        return self._scores.get(_key(row, conversation, card))

    def add(
        self,
        rows: Sequence[int],
        conversations: Sequence[Conversation],
        card: JudgeCard,
        scores: Sequence[Score],
    ) -> None:
        """Appends scores; they are on disk when this returns."""
        rows_added = []
        for row, conversation, score in zip(rows, conversations, scores, strict=True):
            key = _key(row, conversation, card)
            self._scores[key] = score
            rows_added.append(_line(key, card.name, score))
        self._lines.append(rows_added)


def _key(row: int, conversation: Conversation, card: JudgeCard) -> Key:
    text = conversation.prompt_sha256()[:16] + conversation.response_sha256()[:16]
    return row, text, card.protocol()


def _parsed(line: dict[str, Any]) -> tuple[Key, Score]:
    score = Score(line["value"], line["label"], line["reason"], line["details"])
    row, text, protocol = line["row"], line["text"], line["protocol"]
    texts = all(isinstance(said, str) for said in (text, protocol, score.label, score.reason))
    if not (texts and isinstance(row, int) and isinstance(score.details, dict)):
        raise TypeError
    return (row, text, protocol), score


def _line(key: Key, judge: str, score: Score) -> dict[str, Any]:
    row, text, protocol = key
    return {"row": row, "text": text, "judge": judge, "protocol": protocol} | as_json(score)


def as_json(score: Score) -> dict[str, Any]:
    return {
        "value": score.value,
        "label": score.label,
        "reason": score.reason,
        "details": dict(score.details),
    }
