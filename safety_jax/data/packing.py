"""Sequences of mixed lengths in rows that hold several each, of one shape or two.

A compiled program has one shape, and a small model scores ten thousand tokens in the time that one
more program takes to compile. Long rows can hold every sequence; in shorter rows attention costs
less.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

# The cost of a plan is counted in tokens without attention. In rows of this many tokens attention
# takes as long as everything else (MiniLM on a CPU; larger models and accelerators spend less on
# it) ...
ATTENTION_TOKENS = 256
# ... and compiling a program takes as long as scoring this many batches.
PROGRAM_BATCHES = 8


@dataclasses.dataclass(frozen=True)
class PackedRows:
    """One batch whose rows hold several sequences each.

    Attributes:
        texts: indices of the sequences of each row that has any; at most `segments` in one.
        common: tokens that all sequences begin with, which a row has once.
    """

    texts: list[list[int]]
    rows: int
    length: int
    segments: int
    common: int


def pack(
    lengths: Sequence[int],
    rungs: Sequence[int],
    tokens_per_batch: int,
    rows_multiple: int,
    tokens_a_text: int,
    common: int = 0,
) -> list[PackedRows]:
    """Batches of at most `tokens_per_batch` padded tokens whose rows hold several sequences each.

    All rows are as long as the longest sequence needs; or those behind the first batches are of one
    shorter length, where that saves more work than a second program costs. The longest sequences
    come first.

    Args:
        lengths: tokens of each sequence.
        rungs: the lengths that rows may have.
        rows_multiple: rows are a multiple of this, what the mesh divides them by, even where that
            takes more than `tokens_per_batch`.
        tokens_a_text: rows hold one sequence for each of so many tokens at most, which bounds what
            is read of them.
        common: tokens that all sequences begin with, and a row has once.

    Raises:
        ValueError: a sequence is longer than the last rung.
    """
    if not len(lengths):
        return []
    if max(lengths) > max(rungs):
        raise ValueError(f"a sequence of {max(lengths)} tokens, but the last rung is {max(rungs)}")
    long = min(rung for rung in rungs if rung >= max(lengths))
    own = np.asarray(lengths, np.int64) - common
    order = np.argsort(-own, kind="stable")

    def shape(length: int) -> tuple[int, int, int]:
        rows = max(1, tokens_per_batch // length // rows_multiple) * rows_multiple
        return rows, length, max(1, length // tokens_a_text)

    def plan(short: int) -> list[PackedRows]:
        first = _Rows(own, long - common, shape(long)[2])
        first.add(order[own[order] > short - common], grow=True)
        rest = order[own[order] <= short - common]
        if short < long:
            first.grow_to(-(-len(first.texts) // shape(long)[0]) * shape(long)[0])
        over = first.add(rest, grow=short == long)
        second = _Rows(own, short - common, shape(short)[2])
        second.add(over, grow=True)
        return [
            batch
            for rows, length in ((first, long), (second, short))
            for batch in _batches(rows.texts, *shape(length), rows_multiple, common)
        ]

    def cost(batches: list[PackedRows]) -> float:
        shapes = {(batch.rows, batch.length) for batch in batches}
        tokens = sum(b.rows * b.length * (1 + b.length / ATTENTION_TOKENS) for b in batches)
        return tokens + len(shapes) * PROGRAM_BATCHES * tokens_per_batch

    return min((plan(short) for short in sorted(rungs, reverse=True) if short <= long), key=cost)


class _Rows:
    """Rows of one length while they are filled: a sequence goes where it leaves the least room."""

    def __init__(self, lengths: np.ndarray, length: int, segments: int):
        self.texts: list[list[int]] = []
        self._lengths, self._length, self._segments = lengths, length, segments
        self._room = np.full(len(lengths), length)

    def grow_to(self, rows: int) -> None:
        """Empty rows, up to so many in all."""
        self.texts += [[] for _ in range(rows - len(self.texts))]
        missing = max(0, rows - len(self._room))
        self._room = np.concatenate([self._room, np.full(missing, self._length)])

    def add(self, indices: np.ndarray, *, grow: bool) -> np.ndarray:
        """Places sequences, longest first; gives those that no row takes.

        Args:
            grow: rows are added where there is no room.
        """
        over = []
        for index in indices.tolist():
            own = self._lengths[index]
            room = self._room[: len(self.texts)]
            spare = np.where(room >= own, room, self._length + 1)
            row = int(np.argmin(spare)) if len(spare) else 0
            if not len(spare) or spare[row] > self._length:
                if not grow:
                    over.append(index)
                    continue
                row = len(self.texts)
                self.texts.append([])
            self.texts[row].append(index)
            full = len(self.texts[row]) == self._segments
            self._room[row] = -1 if full else self._room[row] - own
        return np.array(over, np.int64)


def _batches(
    texts: list[list[int]], rows: int, length: int, segments: int, multiple: int, common: int
) -> list[PackedRows]:
    """Filled rows as batches of one shape; a single batch has no more rows than it needs, in halves
    and quarters."""
    filled = [row for row in texts if row]
    halves = [rows // part for part in (4, 2) if rows % (part * multiple) == 0]
    rows = next((fewer for fewer in halves if fewer >= len(filled)), rows)
    count = math.ceil(len(filled) / rows)
    return [
        PackedRows(filled[n * rows : (n + 1) * rows], rows, length, segments, common)
        for n in range(count)
    ]
