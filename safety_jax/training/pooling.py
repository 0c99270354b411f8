"""Pools the examples of several runs, so that the reference's log-probabilities of an example are
computed once for all runs that have it."""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from safety_jax.data.corpora import Sided
from safety_jax.data.examples import Counts, Examples
from safety_jax.training.placement import TokenValues


@dataclasses.dataclass(frozen=True)
class ExamplePool:
    """The distinct examples of several runs, in the order of their first occurrence.

    Two examples are the same if all sides have the same tokens and train the same of them.

    Attributes:
        numbers: from an example's digest to its index.
    """

    sides: tuple[Examples, ...]
    numbers: dict[bytes, int]

    @classmethod
    def of(cls, runs: Sequence[Sided]) -> "ExamplePool":
        """The pool of the examples of some runs, which all have the same number of sides."""
        numbers: dict[bytes, int] = {}
        kept: list[list[int]] = [[] for _ in runs]
        for examples, new in zip(runs, kept, strict=True):
            for i, digest in enumerate(_digests(examples)):
                if digest not in numbers:
                    numbers[digest] = len(numbers)
                    new.append(i)
        by_side = zip(*(examples.sides for examples in runs), strict=True)
        return cls(tuple(_joined(sides, kept) for sides in by_side), numbers)

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def where(self) -> list[str]:
        return self.sides[0].where

    def values_of(self, examples: Sided, values: TokenValues) -> TokenValues:
        """Picks the values of some examples from those of the pool.

        Args:
            examples: examples that are in the pool.
            values: for each side of the pool, a value for every token.
        """
        places = np.array([self.numbers[digest] for digest in _digests(examples)])
        return tuple(
            flat[_cells(side, places)] for side, flat in zip(self.sides, values, strict=True)
        )


def _digests(examples: Sided) -> list[bytes]:
    """A hash of each example's tokens and of which are trained."""
    found = [hashlib.blake2b(digest_size=16) for _ in range(len(examples))]
    for side in examples.sides:
        for i, digest in enumerate(found):
            for part in side.example(i):
                digest.update(len(part).to_bytes(8, "little"))
                digest.update(part.tobytes())
    return [digest.digest() for digest in found]


def _joined(sides: Sequence[Examples], kept: Sequence[Sequence[int]]) -> Examples:
    """One side of the kept examples of all runs."""
    chosen = [np.array(places, int) for places in kept]
    cells = [_cells(side, places) for side, places in zip(sides, chosen, strict=True)]
    both = list(zip(sides, chosen, strict=True))
    lengths = np.concatenate([side.lengths[places] for side, places in both])
    return Examples(
        ids=np.concatenate([side.ids[here] for side, here in zip(sides, cells, strict=True)]),
        mask=np.concatenate([side.mask[here] for side, here in zip(sides, cells, strict=True)]),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        where=[side.where[i] for side, places in both for i in places],
        source=[side.source[i] for side, places in both for i in places],
        counts=Counts(0, 0, {}),
    )


def _cells(side: Examples, places: Int[np.ndarray, " n"]) -> Int[np.ndarray, " cells"]:
    """The indices of these examples' tokens in `side.ids`, example after example."""
    lengths = side.lengths[places]
    before = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) + np.repeat(side.offsets[places] - before, lengths)
