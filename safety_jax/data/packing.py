"""Packs sequences of mixed lengths into rows that hold several each, in one shape or two.

A compiled program has one shape, and a small model scores ten thousand tokens in the time that
another program takes to compile. Long rows can hold every sequence, but attention costs less in
shorter rows.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

# The unit of a plan's cost is a token without attention. In rows of this many tokens, attention
# takes as long as everything else (MiniLM on a CPU; larger models and accelerators spend less on
# it) ...
ATTENTION_TOKENS = 256
# ... and compiling a program takes as long as scoring this many batches.
PROGRAM_BATCHES = 8


@dataclasses.dataclass(frozen=True)
class PackedRows:
    """One batch whose rows hold several sequences each.

    Attributes:
        texts: for each row that is not empty, the indices of its sequences, at most `segments`.
        common: number of tokens that all sequences begin with, which a row has once.
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

    All rows are as long as the longest sequence needs; or the later batches have one shorter
    length, if that saves more work than a second program costs. The longest sequences come first.

    Args:
        lengths: tokens of each sequence.
        rungs: the lengths that rows may have.
        rows_multiple: numbers of rows are multiples of this, which the mesh divides them by, even
            if that takes more than `tokens_per_batch`.
        tokens_a_text: a row holds at most one sequence for each so many of its cells, which limits
            the number of outputs.
        common: number of tokens that all sequences begin with, which a row has once.

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
    """Rows of one length to fill: a sequence goes where it leaves the least room."""

    def __init__(self, lengths: np.ndarray, length: int, segments: int):
        self.texts: list[list[int]] = []
        self._lengths, self._length, self._segments = lengths, length, segments
        self._room = np.full(len(lengths), length)

    def grow_to(self, rows: int) -> None:
        """Adds empty rows until there are so many."""
        self.texts += [[] for _ in range(rows - len(self.texts))]
        missing = max(0, rows - len(self._room))
        self._room = np.concatenate([self._room, np.full(missing, self._length)])

    def add(self, indices: np.ndarray, *, grow: bool) -> np.ndarray:
        """Places sequences, given longest first; returns those that fit into no row.

        Args:
            grow: add a row if there is no room.
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
    """Filled rows as batches of one shape. If half or a quarter of the rows of a batch is enough
    for all, the only batch has so many."""
    filled = [row for row in texts if row]
    halves = [rows // part for part in (4, 2) if rows % (part * multiple) == 0]
    rows = next((fewer for fewer in halves if fewer >= len(filled)), rows)
    count = math.ceil(len(filled) / rows)
    return [
        PackedRows(filled[n * rows : (n + 1) * rows], rows, length, segments, common)
        for n in range(count)
    ]
