"""Rows with a request once, followed by many suffixes.

The candidates of a step differ only in their suffix, so a row reads what precedes it once, and each
candidate continues from it as a separate segment (see `batch.Tokens`):

    [ pad, before ][ suffix 1, after, target, pad ][ suffix 2, after, target, pad ] ...

Regions have the size of the largest goal, so that one compiled program serves all of them. The
first region is right-aligned, because attention windows count cells.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from safety_jax.base.batch import Tokens
from safety_jax.evaluation.search.goals import Goal


class RowPlan(NamedTuple):
    """The regions of a row, in cells.

    Attributes:
        before: for what precedes the suffix.
        slots: S, tokens of the suffix.
        behind: for template and target after it.
        tails: n, the number of suffixes in a row.
    """

    before: int
    slots: int
    behind: int
    tails: int

    @property
    def tail(self) -> int:
        return self.slots + self.behind

    @property
    def tokens(self) -> int:
        """T, of a row."""
        return self.before + self.tails * self.tail

    @property
    def cells(self) -> np.ndarray:
        """The cells of the suffixes, [n S]."""
        starts = self.before + self.tail * np.arange(self.tails)
        return (starts[:, None] + np.arange(self.slots)).reshape(-1)


def plan(
    goals: Sequence[Goal],
    slots: int,
    *,
    row_tokens: int,
    longest_shared: int | None,
    most_tails: int,
) -> RowPlan:
    """Regions that hold any of the goals.

    Args:
        row_tokens: the most tokens of a row with several suffixes.
        longest_shared: see `LlamaConfig.longest_shared_row`.
        most_tails: the most segments that attention allows after one prefix.
    """
    before = max(len(goal.before) for goal in goals)
    behind = max(len(goal.after) + len(goal.target) for goal in goals)
    room = row_tokens if longest_shared is None else min(row_tokens, longest_shared)
    tails = max(1, min((room - before) // (slots + behind), most_tails))
    return RowPlan(before, slots, behind, tails)


def lay_out(goal: Goal, rows: RowPlan) -> Tokens:
    """One row [T] on the host, with zeros in the cells of suffixes."""
    ids, positions, segments = (np.zeros(rows.tokens, np.int32) for _ in range(3))
    mask = np.zeros(rows.tokens, bool)
    count, shares = len(goal.before), rows.tails > 1
    front = slice(rows.before - count, rows.before)
    ids[front], positions[front] = goal.before, np.arange(count)
    segments[front] = -1 if shares else 1
    tail = [*[0] * rows.slots, *goal.after, *goal.target]
    for number in range(rows.tails):
        start = rows.before + number * rows.tail
        here = slice(start, start + len(tail))
        ids[here], positions[here] = tail, count + np.arange(len(tail))
        segments[here] = number + 1
        mask[here.stop - len(goal.target) : here.stop] = True
    prefixes = np.where(segments == 0, 0, -1).astype(np.int32) if shares else None
    return Tokens(ids, positions, segments, mask, prefixes)
