"""Scores as they come, one line each, so that a killed run loses at most the batch in hand.

A line is keyed by the row's place, its text and the judge's protocol: a row that was edited, or a
judge whose weights changed, is scored anew.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safety_jax.base.errors import DataError
from safety_jax.judges.judge import Conversation, JudgeCard, Score

Key = tuple[int, str, str]


class Ledger:
    """An append-only file of scores.

    Args:
        path: the file; what an earlier start left there is read. A last line that was cut off by
            a kill is dropped.
        writes: whether this process writes; exactly one process of a run does.

    Raises:
        DataError: the file is damaged before its last line.
    """

    def __init__(self, path: Path, writes: bool):
        self._path, self._writes = path, writes
        self._scores: dict[Key, Score] = {}
        if path.exists():
            self._read()

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
        lines = []
        for row, conversation, score in zip(rows, conversations, scores, strict=True):
            key = _key(row, conversation, card)
            self._scores[key] = score
            lines.append(json.dumps(_line(key, card.name, score), ensure_ascii=False) + "\n")
        if self._writes:
            with open(self._path, "a", encoding="utf-8") as file:
                file.writelines(lines)
                file.flush()
                os.fsync(file.fileno())

    def _read(self) -> None:
        content = self._path.read_bytes()
        whole, _, torn = content.rpartition(b"\n")
        if torn and self._writes:
            os.truncate(self._path, len(content) - len(torn))
        for number, line in enumerate(whole.split(b"\n"), start=1):
            if not line:
                continue
            try:
                found = json.loads(line)
                key = (found["row"], found["text"], found["protocol"])
                self._scores[key] = Score(
                    found["value"], found["label"], found["reason"], found["details"]
                )
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"{self._path} line {number} is damaged ({type(error).__name__}); remove the "
                    "line, and its row is scored anew"
                ) from error


def _key(row: int, conversation: Conversation, card: JudgeCard) -> Key:
    text = conversation.prompt_sha256()[:16] + conversation.response_sha256()[:16]
    return row, text, card.protocol()


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
