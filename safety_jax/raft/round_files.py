"""The files of a round: those from which a killed run resumes, and those that people read.

    rounds/01/
      samples.jsonl      every prompt's candidates as tokens, in blocks; appended
      judgements.jsonl   every score, as judges give it; appended
      candidates.jsonl   prompt, responses, scores of every judge, choice and its reason
      selected.jsonl     prompts with the chosen response; a source that stage `sft` reads
      for_people.csv     with people as judges: the answers to choose from
      metrics.jsonl, checkpoints/   of the training in this round
      weights/           the weights at the end of the round
      evaluation.jsonl   answers to the prompts of `data.eval`, with their scores
      summary.json       the round's figures; exists once the round is finished

All files but the two appended ones are written atomically.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safety_jax.base import files
from safety_jax.base.errors import DataError
from safety_jax.data import thoughts


@dataclasses.dataclass(frozen=True, slots=True)
class Candidate:
    """One answer to a prompt.

    Attributes:
        text: as the model wrote it, with the thought before the answer.
        ids: its tokens; empty for a reference answer, which was not sampled.
        logprob: log-probability of `ids` under the model that wrote it.
        finish: "eos", "stop", "length"; "reference" for the answer of the prompt's row.
    """

    text: str
    ids: tuple[int, ...]
    logprob: float
    finish: str

    @classmethod
    def of_reference(cls, answer: str) -> "Candidate":
        """The answer of a prompt's row."""
        return cls(answer, (), 0.0, "reference")

    @property
    def finished(self) -> bool:
        return self.finish != "length" and not self.turn.unfinished

    @property
    def empty(self) -> bool:
        """Whether there is no answer, only an end or a thought."""
        return not self.turn.answer.strip()

    @property
    def turn(self) -> thoughts.Turn:
        """Thought and answer."""
        return thoughts.split(self.text)


class Samples:
    """The candidates of a round, written in blocks; an incomplete block is dropped when read.

    Raises:
        DataError: a damaged line before the last block.
    """

    def __init__(self, path: Path, numbers: Sequence[int], block: int, writes: bool):
        """Args: numbers: of the round's prompts, in order; block: prompts written at a time."""
        self.path, self._numbers, self._block = path, list(numbers), block
        remedy = "remove the file to sample the round again"
        self._lines = files.Lines(path, writes=writes, remedy=remedy)
        self.candidates = self._known(self._lines.read(_parsed))

    @property
    def done(self) -> int:
        """Prompts answered: a multiple of the block, or all."""
        return len(self.candidates)

    def add(self, candidates: Sequence[Sequence[Candidate]]) -> None:
        """Appends the next block; it is on disk when this returns."""
        self._lines.append(
            {"prompt": number, "candidates": [dataclasses.astuple(c) for c in row]}
            for number, row in zip(self._numbers[self.done :], candidates, strict=False)
        )
        self.candidates += [list(row) for row in candidates]

    def _known(self, found: Sequence[tuple[int, list[Candidate]]]) -> list[list[Candidate]]:
        """The candidates of whole blocks."""
        count = len(found)
        if count > len(self._numbers):
            raise DataError(
                f"{self.path} has {count} prompts, this round {len(self._numbers)}; remove the file"
            )
        if count < len(self._numbers):
            count -= count % self._block
        for place, (number, _) in enumerate(found[:count]):
            if number != self._numbers[place]:
                raise DataError(
                    f"{self.path} line {place + 1} answers prompt {number}; expected prompt "
                    f"{self._numbers[place]}: the data have changed; use another --workdir"
                )
        self._lines.keep(count)
        return [row for _, row in found[:count]]


def _parsed(line: dict[str, Any]) -> tuple[int, list[Candidate]]:
    return line["prompt"], [Candidate(c[0], tuple(c[1]), c[2], c[3]) for c in line["candidates"]]


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes JSON lines, atomically."""
    files.write(path, b"".join(files.line(row) for row in rows))


def read_summary(path: Path) -> dict[str, Any] | None:
    """The figures of a finished round; None if it is not finished.

    Raises:
        DataError: the file is damaged.
    """
    file, advice = path / "summary.json", "put the file back, or use another --workdir"
    try:
        found = files.read_object(file, DataError, advice)
    except FileNotFoundError:
        return None
    if not all(isinstance(found.get(key), int) for key in ("round", "optimizer_steps")):
        raise DataError(f"{file}: expected the figures of a round; {advice}")
    return found
