"""What the answers of a pair have in common, read once (prefix sharing; Wang and Hegde, arXiv
2410.20305).

Two answers behind one prompt can stand in one row (see `batch.Tokens` for how it looks):

    prompt without its last token | last token, chosen answer | last token, rejected answer

Everything but attention works token by token, and the prompt goes through it once; attention lets
both answers see the prompt and keeps them apart. The last token of the prompt is read with either
answer, because it predicts the first token of both.

A pair with a prompt of P tokens and answers of C and R would otherwise take 2 P + C + R tokens;
P - 1 of them are saved.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int

from safety_jax.data.examples import Examples

ROW_MULTIPLE = 128  # rows that must be longer than asked for are a multiple of this: whole blocks


@dataclasses.dataclass(frozen=True)
class Shared:
    """How the sides of examples share rows.

    Attributes:
        tokens: of each example, the leading tokens that its sides have in common.
        row_tokens: of a row, which holds all sides of an example.
        saved: share of the tokens that need not be read again.
    """

    tokens: Int[np.ndarray, " n"]
    row_tokens: int
    saved: float


# (sides, tokens of a row that holds one side) -> how they share rows; None: each has its own
Share = Callable[[Sequence[Examples], int], Shared | None]


def separate(sides: Sequence[Examples], row_tokens: int) -> None:
    """Every side has rows of its own."""
    del sides, row_tokens


def where_it_saves(
    sides: Sequence[Examples],
    row_tokens: int,
    *,
    even_tokens: float,
    longest_row: int | None,
    skips: int | None = None,
) -> Shared | None:
    """How pairs share rows; None where that costs as much as rows of their own, or more.

    A token costs 1 + attention, and attention of a row of T tokens costs T / `even_tokens`. In
    shared rows it counts twice: kernels that know segments only take such a row twice. The rows
    are longer, too, where a pair does not fit into `row_tokens`.

    Args:
        row_tokens: of a row that holds one side.
        even_tokens: length of a row in which attention costs as much as everything else, see
            `flops.even_tokens`.
        longest_row: see `LlamaConfig.longest_shared_row`; longer rows are not shared.
        skips: see `common`.
    """
    if len(sides) != 2:
        return None
    shared = common(sides, skips)
    tokens = np.sum([side.lengths for side in sides], axis=0)
    longest = int((tokens - shared).max())
    length = row_tokens
    if longest > row_tokens:
        length = -(-longest // ROW_MULTIPLE) * ROW_MULTIPLE
    saved = float(shared.sum() / tokens.sum())
    cost = (1 - saved) * (1 + 2 * length / even_tokens)
    if cost >= 1 + row_tokens / even_tokens or (longest_row is not None and longest_row < length):
        return None
    return Shared(shared, length, saved)


def as_all(share: Share, of_all: Sequence[Examples]) -> Share:
    """Examples share rows as all do of which they are some, in rows of one length: what batches
    need that meet in one program.

    Args:
        of_all: the sides of all.
    """
    of_length = functools.cache(functools.partial(share, of_all))

    def shared(sides: Sequence[Examples], row_tokens: int) -> Shared | None:
        found = of_length(row_tokens)
        if found is None:
            return None
        tokens = common(sides)
        read = sum(int(side.lengths.sum()) for side in sides)
        return Shared(tokens, found.row_tokens, float(tokens.sum() / read))

    return shared


def common(sides: Sequence[Examples], skips: int | None = None) -> Int[np.ndarray, " n"]:
    """Leading tokens that all sides of each example have in common, short of the last one before
    an answer, which predicts it.

    Args:
        skips: a token at which no side is read; what a side keeps for itself holds another one, if
            any does.
    """
    most = np.min([np.minimum(_untrained(side) - 1, _last(side, skips)) for side in sides], axis=0)
    most = np.maximum(most, 0)
    example = np.repeat(np.arange(len(most)), most)
    place = np.arange(len(example)) - np.repeat(np.cumsum(most) - most, most)
    first, *others = (side.ids[side.offsets[example] + place] for side in sides)
    differ = np.any([first != ids for ids in others], axis=0)
    np.minimum.at(most, example[differ], place[differ])
    return most


def _untrained(side: Examples) -> Int[np.ndarray, " n"]:
    """Tokens before the first trained one."""
    (trained,) = np.nonzero(side.mask)
    found = np.append(trained, len(side.mask))[np.searchsorted(trained, side.offsets[:-1])]
    return np.minimum(found, side.offsets[1:]) - side.offsets[:-1]


def _last(side: Examples, skips: int | None) -> Int[np.ndarray, " n"]:
    """Place of the last token that is not `skips`; below 0 where there is none."""
    (read,) = np.nonzero(side.ids != (-1 if skips is None else skips))
    found = np.insert(read, 0, -1)[np.searchsorted(read, side.offsets[1:])]
    return found - side.offsets[:-1]
