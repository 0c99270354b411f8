"""Batches sequences of mixed lengths in few shapes, each with about the same number of tokens.

A compiled program has one shape. A short ladder of lengths, with the number of rows in inverse
proportion, needs few programs and little padding.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int


@dataclasses.dataclass(frozen=True)
class Bucket:
    """One batch: its sequences, and the shape `[rows, length]` that it is padded to.

    Attributes:
        indices: indices of its sequences, longest first; fewer than `rows` only in the last batch.
    """

    indices: Int[np.ndarray, " n"]
    rows: int
    length: int


def ladder(shortest: int, longest: int) -> tuple[int, ...]:
    """Lengths from `shortest` to `longest` in steps of a quarter to a seventh, all multiples of 8.

    ladder(64, 256) is 64, 80, 96, 112, 128, 160, 192, 224, 256.
    """
    rungs = {longest}
    base = shortest
    while base < longest:
        rungs |= {-(-base * quarters // 32) * 8 for quarters in (4, 5, 6, 7)}
        base *= 2
    return tuple(sorted(rung for rung in rungs if rung <= longest))


def buckets(
    lengths: Sequence[int], rungs: Sequence[int], tokens_per_batch: int, rows_multiple: int
) -> list[Bucket]:
    """Batches of at most `tokens_per_batch` padded tokens, longest first.

    The longest remaining sequence decides a batch's length; the next longest fill its rows. So only
    the last batch has empty rows, the first one needs the most memory, and every shape is
    `[rows(length), length]` with `length` a rung.

    Args:
        lengths: tokens of each sequence.
        rungs: the lengths that a batch may have.
        rows_multiple: numbers of rows are multiples of this, which the mesh divides them by, even
            if that takes more than `tokens_per_batch`.

    Raises:
        ValueError: a sequence is longer than the last rung.
    """
    rungs = sorted(rungs)
    if len(lengths) and max(lengths) > rungs[-1]:
        raise ValueError(f"a sequence of {max(lengths)} tokens, but the last rung is {rungs[-1]}")
    order = np.argsort(-np.asarray(lengths, np.int64), kind="stable")
    found: list[Bucket] = []
    start = 0
    while start < len(order):
        length = next(rung for rung in rungs if rung >= lengths[order[start]])
        rows = max(1, tokens_per_batch // length // rows_multiple) * rows_multiple
        found.append(Bucket(order[start : start + rows], rows, length))
        start += rows
    return found
