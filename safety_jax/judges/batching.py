"""Token rows of mixed lengths through one compiled function: few shapes, sharded over the mesh.

Models that see all of a row get one text a row (`Batcher.run`); causal ones, which keep segments
apart, get several (`Batcher.run_packed`), with hardly any padding, behind one copy of what
all of them begin with: the form of a guard.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Int, Shaped

from safety_jax.base import meshes
from safety_jax.base.batch import Tokens
from safety_jax.base.errors import ConfigError
from safety_jax.data import buckets

# Lengths below this share one shape.
SHORTEST = 64
# Packed rows are at least this long, so that short texts fill them; longer ones cost attention.
SHORTEST_PACKED = 256
# A packed row has at most one text for this many of its tokens.
TOKENS_A_TEXT = 64
# Tokens that texts must begin with alike for one copy to serve all of a row, and the room behind.
LEAST_SHARED = 64
SHARING_TOKENS = 1024


@dataclasses.dataclass(frozen=True)
class TokenRow:
    """One input: token ids, and token types, zeros where a model knows none."""

    ids: Sequence[int]
    types: Sequence[int]


@dataclasses.dataclass(frozen=True)
class TokenBatch:
    """Right-padded rows; see `pad`."""

    ids: Int[Any, "B T"]
    types: Int[Any, "B T"]
    mask: Bool[Any, "B T"]


@dataclasses.dataclass(frozen=True)
class PackedBatch:
    """Rows of several texts each.

    Attributes:
        ends: cell of the last token of segments 1 ... S; 0 where there is none.
        places: of each text, its row and its segment less 1.
    """

    tokens: Tokens
    ends: Int[Any, "B S"]
    indices: Int[np.ndarray, " n"]
    places: tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]


@dataclasses.dataclass(frozen=True)
class Batcher:
    """How rows become batches.

    Attributes:
        longest: tokens that the longest row may have.
        tokens_per_batch: padded tokens of a batch, over all devices.
    """

    mesh: Mesh
    longest: int
    tokens_per_batch: int

    def __post_init__(self) -> None:
        if self.tokens_per_batch < 1:
            raise ConfigError(
                f"score.tokens_per_batch is {self.tokens_per_batch}; expected at least 1"
            )

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """jit of a function of weights and a batch; every host gets the whole result."""
        return jax.jit(function, out_shardings=meshes.sharding(self.mesh, ()))

    def run(
        self, compiled: Callable[..., Any], weights: Any, rows: Sequence[TokenRow]
    ) -> Shaped[np.ndarray, "n outputs"]:
        """One row of outputs a row of tokens, in the order given.

        Args:
            compiled: from `compile`; of a batch, it gives `[B, outputs]`.

        Raises:
            ValueError: there are no rows, or one is longer than `longest`.
        """
        outputs: list[np.ndarray | None] = [None] * len(rows)
        for indices, batch in self.batches(rows):
            values = jax.device_get(compiled(weights, batch.ids, batch.types, batch.mask))
            for place, index in enumerate(indices):
                outputs[index] = values[place]
        return np.stack([output for output in outputs if output is not None])

    def batches(
        self, rows: Sequence[TokenRow]
    ) -> Iterator[tuple[Int[np.ndarray, " n"], TokenBatch]]:
        """Batches on their devices, each with the indices of its rows."""
        parts = meshes.row_parts(self.mesh)
        rungs = buckets.ladder(min(SHORTEST, self.longest), self.longest)
        lengths = [len(row.ids) for row in rows]
        for bucket in buckets.buckets(lengths, rungs, self.tokens_per_batch, parts):
            padded = pad([rows[i] for i in bucket.indices], bucket.rows, bucket.length)
            placed = [
                meshes.put(self.mesh, ("rows", "tokens"), array)
                for array in (padded.ids, padded.types, padded.mask)
            ]
            yield bucket.indices, TokenBatch(*placed)

    def run_packed(
        self,
        compiled: Callable[..., Any],
        weights: Any,
        rows: Sequence[TokenRow],
        *,
        longest_shared: int = 0,
    ) -> Shaped[np.ndarray, "n outputs"]:
        """`run` for a function of (weights, tokens, ends) that gives `[B, S, outputs]`.

        Args:
            longest_shared: rows of at most so many tokens may have what all texts begin with once.
        """
        outputs: list[np.ndarray | None] = [None] * len(rows)
        for batch in self.packed(rows, longest_shared):
            values = jax.device_get(compiled(weights, batch.tokens, batch.ends))
            for index, value in zip(batch.indices, values[batch.places], strict=True):
                outputs[index] = value
        return np.stack([output for output in outputs if output is not None])

    def packed(self, rows: Sequence[TokenRow], longest_shared: int) -> Iterator[PackedBatch]:
        """Batches on their devices, see `buckets.packed`."""
        parts, lengths = meshes.row_parts(self.mesh), [len(row.ids) for row in rows]
        shortest, common = min(SHORTEST_PACKED, self.longest), in_common(rows)
        # Room for many texts behind their beginning; positions are those of each text.
        behind = max(self.tokens_per_batch // parts - common, SHORTEST_PACKED)
        whole = common + min(SHARING_TOKENS, behind)
        whole = -(-whole // SHORTEST_PACKED) * SHORTEST_PACKED
        if common < LEAST_SHARED or max(whole, self.longest) > longest_shared:
            common, whole = 0, shortest
        rungs = buckets.ladder(whole, max(whole, self.longest))
        found = buckets.packed(
            lengths,
            rungs,
            self.tokens_per_batch,
            rows_multiple=parts,
            tokens_a_text=TOKENS_A_TEXT,
            common=common,
        )
        for bucket in found:
            batch = pack(rows, bucket)
            put = functools.partial(meshes.put, self.mesh, ("rows", "tokens"))
            yield dataclasses.replace(
                batch, tokens=jax.tree.map(put, batch.tokens), ends=put(batch.ends)
            )


def in_common(rows: Sequence[TokenRow]) -> int:
    """Tokens that all rows begin with, short of the last of the shortest, which is read."""
    ids = [[*row.ids] for row in rows]
    first, last = min(ids), max(ids)
    most = min(map(len, ids)) - 1
    same = (a == b for a, b in zip(first[:most], last[:most], strict=True))
    return next((place for place, equal in enumerate(same) if not equal), max(most, 0))


def pack(rows: Sequence[TokenRow], bucket: buckets.PackedBucket) -> PackedBatch:
    """The texts of a bucket on the host, end to end in its rows, behind what they have in common:

    ids        7 7 1 2 3 4 0
    positions  0 1 2 3 2 3 0
    segments  -1-1 1 1 2 2 0
    prefixes  -1-1-1-1-1-1 0
    """
    shape, common = (bucket.rows, bucket.length), bucket.common
    ids, positions, segments = (np.zeros(shape, np.int32) for _ in range(3))
    ends = np.zeros((bucket.rows, bucket.segments), np.int32)
    for row, texts in enumerate(bucket.texts):
        ids[row, :common], positions[row, :common] = rows[texts[0]].ids[:common], range(common)
        segments[row, :common] = -1
        start = common
        for segment, index in enumerate(texts):
            own = rows[index].ids[common:]
            here = (row, slice(start, start + len(own)))
            ids[here], positions[here] = own, range(common, common + len(own))
            segments[here] = segment + 1
            start += len(own)
            ends[row, segment] = max(start - 1, 0)
    where = [(row, text) for row, texts in enumerate(bucket.texts) for text in range(len(texts))]
    of_rows, of_texts = np.array(where, np.int64).T
    prefixes = np.where(segments == 0, 0, -1).astype(np.int32) if common else None
    tokens = Tokens(ids, positions, segments, np.zeros(shape, bool), prefixes)
    return PackedBatch(tokens, ends, np.concatenate(bucket.texts), (of_rows, of_texts))


def pad(rows: Sequence[TokenRow], count: int, length: int) -> TokenBatch:
    """`count` rows of `length` tokens on the host; what is missing is zeros and not in the mask."""
    ids = np.zeros((count, length), np.int32)
    types, mask = ids.copy(), np.zeros((count, length), bool)
    for place, row in enumerate(rows):
        here = (place, slice(len(row.ids)))
        ids[here], types[here], mask[here] = row.ids, row.types, True
    return TokenBatch(ids, types, mask)
