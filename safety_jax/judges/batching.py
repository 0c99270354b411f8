"""Runs texts of mixed lengths through one compiled function, in few shapes sharded over the mesh.

A row packs several texts as segments, with hardly any padding. If the model supports it, the common
prefix of all texts, such as the form of a guard, is in the row only once.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int, Shaped

from safety_jax.base import meshes
from safety_jax.base.batch import Tokens
from safety_jax.base.errors import CheckpointError, ConfigError
from safety_jax.data import buckets, packing

# Rows are at least this long, so that short texts fill them; attention makes longer rows costlier.
SHORTEST = 128
# A row of T tokens holds at most T / TOKENS_A_TEXT texts.
TOKENS_A_TEXT = 32
# Shorter common prefixes are not shared; and the tokens of a row after a shared prefix.
LEAST_SHARED = 64
SHARING_TOKENS = 1024
SHARING_STEP = 256


@dataclasses.dataclass(frozen=True)
class TokenRow:
    """One input: token ids, and token types, zeros if a model has none."""

    ids: Sequence[int]
    types: Sequence[int]


@dataclasses.dataclass(frozen=True)
class PackedBatch:
    """Rows of several texts each.

    Attributes:
        ends: cell of the last token of segments 1 ... S; 0 for unused ones.
        indices: of the texts.
        places: the row of each text, and its segment minus 1.
    """

    tokens: Tokens
    ends: Int[Any, "B S"]
    indices: Int[np.ndarray, " n"]
    places: tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]


@dataclasses.dataclass(frozen=True)
class Batcher:
    """How rows become batches.

    Attributes:
        longest: the most tokens of a text.
        tokens_per_batch: padded tokens of a batch, over all devices.
        vocabulary_size: rows of the model's embedding.
        model: its path, for messages.
    """

    mesh: Mesh
    longest: int
    tokens_per_batch: int
    vocabulary_size: int
    model: str

    def __post_init__(self) -> None:
        if self.tokens_per_batch < 1:
            raise ConfigError(
                f"score.tokens_per_batch is {self.tokens_per_batch}; expected at least 1"
            )

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Compiles a function of weights and a batch; every host gets the whole result."""
        return jax.jit(function, out_shardings=meshes.sharding(self.mesh, ()))

    def run(
        self,
        compiled: Callable[..., Any],
        weights: Any,
        rows: Sequence[TokenRow],
        *,
        longest_shared: int = 0,
        gap: int = 0,
    ) -> Shaped[np.ndarray, "n outputs"]:
        """One row of outputs for each text, in order.

        Args:
            compiled: from `compile`; from (weights, tokens, ends) to `[B, S, outputs]`.
            longest_shared: the most tokens of a row with a shared prefix.
            gap: empty cells after each text.

        Raises:
            CheckpointError: a token that the model has no embedding for.
            ValueError: there are no rows, or one is longer than `longest`.
        """
        highest = max(max(row.ids) for row in rows)
        if highest >= self.vocabulary_size:
            raise CheckpointError(
                f"{self.model}: its tokenizer wrote token {highest}; expected ids below the "
                f"{self.vocabulary_size} rows of its embedding, use the tokenizer that belongs to "
                "the model"
            )
        outputs: list[np.ndarray | None] = [None] * len(rows)
        for batch in self.batches(rows, longest_shared, gap):
            values = jax.device_get(compiled(weights, batch.tokens, batch.ends))
            for index, value in zip(batch.indices, values[batch.places], strict=True):
                outputs[index] = value
        return np.stack([output for output in outputs if output is not None])

    def batches(
        self, rows: Sequence[TokenRow], longest_shared: int = 0, gap: int = 0
    ) -> Iterator[PackedBatch]:
        """Batches on their devices, see `packing.pack`."""
        parts, lengths = meshes.row_parts(self.mesh), [len(row.ids) + gap for row in rows]
        common, longest = in_common(rows), self.longest + gap
        # Room for many texts after their common prefix; positions are those of each text.
        behind = max(self.tokens_per_batch // parts - common, SHARING_STEP)
        whole = common + min(SHARING_TOKENS, behind)
        whole = -(-whole // SHARING_STEP) * SHARING_STEP
        if common < LEAST_SHARED or max(whole, longest) > longest_shared:
            common, whole = 0, min(SHORTEST, longest)
        found = packing.pack(
            lengths,
            buckets.ladder(whole, max(whole, longest)),
            self.tokens_per_batch,
            rows_multiple=parts,
            tokens_a_text=TOKENS_A_TEXT,
            common=common,
        )
        for packed in found:
            batch = fill(rows, packed, gap)
            put = functools.partial(meshes.put, self.mesh, ("rows", "tokens"))
            yield dataclasses.replace(
                batch, tokens=jax.tree.map(put, batch.tokens), ends=put(batch.ends)
            )


def in_common(rows: Sequence[TokenRow]) -> int:
    """The length of the common prefix of all rows, which leaves the shortest at least one token."""
    ids = [[*row.ids] for row in rows]
    first, last = min(ids), max(ids)
    most = min(map(len, ids)) - 1
    same = (a == b for a, b in zip(first[:most], last[:most], strict=True))
    return next((place for place, equal in enumerate(same) if not equal), max(most, 0))


def fill(rows: Sequence[TokenRow], packed: packing.PackedRows, gap: int = 0) -> PackedBatch:
    """The texts of a batch on the host, packed in rows after their common prefix:

    ids        7 7 1 2 3 4 0
    positions  0 1 2 3 2 3 0
    segments  -1-1 1 1 2 2 0
    prefixes  -1-1-1-1-1-1 0
    """
    shape, common = (packed.rows, packed.length), packed.common
    ids, positions, segments, types = (np.zeros(shape, np.int32) for _ in range(4))
    ends = np.zeros((packed.rows, packed.segments), np.int32)
    for row, texts in enumerate(packed.texts):
        ids[row, :common], positions[row, :common] = rows[texts[0]].ids[:common], range(common)
        segments[row, :common] = -1
        start = common
        for segment, index in enumerate(texts):
            own = rows[index].ids[common:]
            here = (row, slice(start, start + len(own)))
            ids[here], positions[here] = own, range(common, common + len(own))
            segments[here] = segment + 1
            types[here] = rows[index].types[common:] or 0
            ends[row, segment] = max(start + len(own) - 1, 0)
            start += len(own) + gap
    where = [(row, text) for row, texts in enumerate(packed.texts) for text in range(len(texts))]
    row_of, text_of = np.array(where, np.int64).T
    prefixes = np.where(segments == 0, 0, -1).astype(np.int32) if common else None
    typed = types if types.any() else None
    tokens = Tokens(ids, positions, segments, np.zeros(shape, bool), prefixes, typed)
    return PackedBatch(tokens, ends, np.concatenate(packed.texts), (row_of, text_of))
