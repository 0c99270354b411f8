"""Prefix sharing: the model reads leading tokens that several texts of a row have in common once
(Wang and Hegde, arXiv 2410.20305).

Two answers to one prompt can stand in one row (`batch.Tokens` shows how):

    prompt without its last token | last token, chosen answer | last token, rejected answer

Everything except attention works token by token and processes the prompt once; attention lets both
answers see the prompt, but not each other. The last token of the prompt stands in front of each
answer, because it predicts the first token of both.

In separate rows, a pair with a prompt of P tokens and answers of C and R takes 2 P + C + R tokens;
sharing saves P - 1 of them.

Likewise, a beginning that all examples of a run have, such as a chat template and its system
prompt, can stand once in front of all examples of a row:

    opening | rest of one example | rest of the next | ...
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int

from safety_jax.data.examples import Examples

WORTH = 0.05  # share of the tokens that an opening must save
ROW_MULTIPLE = 128  # rows longer than requested have a multiple of so many tokens, whole blocks


@dataclasses.dataclass(frozen=True)
class Shared:
    """The tokens that texts of a row share.

    Attributes:
        tokens: for each example, the number of leading tokens that its sides have in common; or,
            with `opening`, that all examples have.
        row_tokens: the length of a row, which holds all sides of an example.
        saved: the share of tokens that sharing saves.
        opening: all examples of a row share their beginning, not the sides of each example.
    """

    tokens: Int[np.ndarray, " n"]
    row_tokens: int
    saved: float
    opening: bool = False

    def __str__(self) -> str:
        once = (
            f"the {self.once_a_row} tokens that all rows begin with are read once for several"
            if self.opening
            else "what both answers of a pair begin with is read once"
        )
        return f"{once}: {self.saved:.1%} of the tokens saved, in rows of {self.row_tokens:,}"

    @property
    def once_a_row(self) -> int:
        """The number of leading tokens that a row has once, whatever examples it holds."""
        return int(self.tokens.max(initial=0)) if self.opening else 0

    def cells(self, lengths: Int[np.ndarray, "n sides"]) -> Int[np.ndarray, "n M"]:
        """The number of cells that each example takes in its rows, in addition to `once_a_row`.

        Args:
            lengths: tokens of each side.
        """
        own = lengths - self.tokens[:, None]
        return own if self.opening else (own.sum(axis=1) + self.tokens)[:, None]


# (sides, length of a row that holds one side) -> the tokens that they share; None for none
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
    """How pairs share rows; None if separate rows cost no more.

    A token costs 1 plus attention, which costs T / `even_tokens` in a row of T tokens, and twice
    that in a shared row, because kernels that only know segments process it twice. Shared rows are
    also longer if a pair does not fit into `row_tokens`.

    Args:
        row_tokens: the length of a row that holds one side.
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


def opening_where_it_saves(
    sides: Sequence[Examples], row_tokens: int, *, longest_row: int | None
) -> Shared | None:
    """The beginning of all examples, shared once a row; None if that saves less than `WORTH`.

    Args:
        longest_row: see `LlamaConfig.longest_shared_row`; longer rows share nothing.
    """
    (side,) = sides
    if longest_row is not None and longest_row < row_tokens:
        return None
    begin, tokens = opening(side), int(side.lengths.sum())
    own = tokens - begin * len(side)
    rows = -(-own // max(row_tokens - begin, 1))  # at least so many
    saved = begin * (len(side) - rows) / max(tokens, 1)
    if saved < WORTH:
        return None
    return Shared(np.full(len(side), begin), row_tokens, saved, opening=True)


def opening(side: Examples) -> int:
    """The number of leading tokens that all examples share; the last before an answer is kept."""
    starts = side.offsets[:-1]
    most = int(_untrained(side).min(initial=len(side.ids))) - 1
    for place in range(most):
        here = side.ids[starts + place]
        if (here != here[0]).any():
            return place
    return max(most, 0)


def as_all(share: Share, of_all: Sequence[Examples]) -> Share:
    """Makes subsets of examples share rows exactly if all examples together would, in rows of the
    same length, so that their batches fit one compiled program.

    Args:
        of_all: the sides of all examples.
    """
    of_length = functools.cache(functools.partial(share, of_all))

    def shared(sides: Sequence[Examples], row_tokens: int) -> Shared | None:
        found = of_length(row_tokens)
        if found is None:
            return None
        if found.opening:
            tokens = np.full(len(sides[0]), found.once_a_row)
            return dataclasses.replace(found, tokens=tokens)
        tokens = common(sides)
        read = sum(int(side.lengths.sum()) for side in sides)
        return Shared(tokens, found.row_tokens, float(tokens.sum() / read))

    return shared


def common(sides: Sequence[Examples], skips: int | None = None) -> Int[np.ndarray, " n"]:
    """The number of leading tokens that all sides of each example share, without the last one
    before an answer, which predicts it.

    Args:
        skips: a token at which the model is not read; each side keeps at least one other token to
            itself, if it has any.
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
    """The number of tokens before each example's first trained one."""
    (trained,) = np.nonzero(side.mask)
    found = np.append(trained, len(side.mask))[np.searchsorted(trained, side.offsets[:-1])]
    return np.minimum(found, side.offsets[1:]) - side.offsets[:-1]


def _last(side: Examples, skips: int | None) -> Int[np.ndarray, " n"]:
    """The place in each example of the last token that is not `skips`; below 0 if there is none."""
    (read,) = np.nonzero(side.ids != (-1 if skips is None else skips))
    found = np.insert(read, 0, -1)[np.searchsorted(read, side.offsets[1:])]
    return found - side.offsets[:-1]
