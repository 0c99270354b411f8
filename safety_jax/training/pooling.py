"""Examples of several runs, each once: what a reference says of an example is computed once for all
runs that have it."""

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
    """The different examples of several runs, in the order in which they are first met.

    Two examples are the same where all sides have the same tokens, and the same of them are
    trained.

    Attributes:
        numbers: the example with this digest.
    """

    sides: tuple[Examples, ...]
    numbers: dict[bytes, int]

    @classmethod
    def of(cls, runs: Sequence[Sided]) -> "ExamplePool":
        """The pool of the examples of some runs, all with one number of sides."""
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
        """Values by token of examples that are in the pool, each side's end to end.

        Args:
            values: of the pool, likewise.
        """
        places = np.array([self.numbers[digest] for digest in _digests(examples)])
        return tuple(
            flat[_cells(side, places)] for side, flat in zip(self.sides, values, strict=True)
        )


def _digests(examples: Sided) -> list[bytes]:
    """A hash of each example: its tokens, and which are trained."""
    found = [hashlib.blake2b(digest_size=16) for _ in range(len(examples))]
    for side in examples.sides:
        for i, digest in enumerate(found):
            for part in side.example(i):
                digest.update(len(part).to_bytes(8, "little"))
                digest.update(part.tobytes())
    return [digest.digest() for digest in found]


def _joined(sides: Sequence[Examples], kept: Sequence[Sequence[int]]) -> Examples:
    """The kept examples of one side of every run."""
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
    """Where the tokens of these examples stand, example after example."""
    lengths = side.lengths[places]
    before = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) + np.repeat(side.offsets[places] - before, lengths)
