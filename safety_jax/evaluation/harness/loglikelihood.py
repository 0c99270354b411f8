"""log p of continuations given their contexts, and whether greedy decoding would write them.

    context           0 1 2 3
    continuation              4 5
    read              0 1 2 3 4         the last token is only predicted
    scored                  ^ ^         the positions that predict 4 and 5

Continuations of the same tokens share one row: the four letters of a multiple-choice question cost
one pass, not four. Rows are read longest first, in few shapes, and logits exist for one chunk of
tokens at a time.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from jaxtyping import Bool, Int

from safety_jax.base import meshes
from safety_jax.base.batch import Tokens
from safety_jax.base.errors import CheckpointError, NotFiniteError
from safety_jax.data import buckets
from safety_jax.maths import logprobs
from safety_jax.models import finite
from safety_jax.models.model import Model

# Rows shorter than this share one shape.
SHORTEST = 64


class ContextPair(NamedTuple):
    """Token ids; a context has at least one, which predicts the continuation's first token."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


class Likelihood(NamedTuple):
    """log p(continuation | context), summed over its tokens; `greedy`: each is the most likely
    one."""

    logprob: float
    greedy: bool


@dataclasses.dataclass(frozen=True)
class RequestLimits:
    """How much is read at a time.

    Attributes:
        longest: the most tokens of a row; longer contexts lose tokens on their left.
        tokens_per_batch: padded tokens of a batch, over all devices.
        chunk_tokens: positions of a row whose logits exist at once.
    """

    longest: int
    tokens_per_batch: int
    chunk_tokens: int


@dataclasses.dataclass(frozen=True)
class _Row:
    """Tokens to read, and the pairs that are scored on them."""

    ids: tuple[int, ...]
    members: list[int]


class _Cells(NamedTuple):
    """A batch; slot s of a row scores `targets[s]` at the position `places[s]`."""

    ids: Int[Any, "B T"]
    real: Bool[Any, "B T"]
    places: Int[Any, "B T"]
    targets: Int[Any, "B T"]
    asked: Bool[Any, "B T"]


class LikelihoodScorer:
    """Scores pairs; compiles one program for each shape."""

    def __init__(self, model: Model, limits: RequestLimits):
        self.model, self.limits = model, limits
        self._parts = meshes.row_parts(model.mesh)
        self._rungs = buckets.ladder(min(SHORTEST, limits.longest), limits.longest)
        self._compiled = jax.jit(self._score, out_shardings=meshes.sharding(model.mesh, ()))

    def score(self, pairs: Sequence[ContextPair], title: str | None) -> list[Likelihood]:
        """One likelihood for each pair, in order.

        Args:
            title: of a progress bar on process 0; None shows none.

        Raises:
            CheckpointError: a token that the model has no embedding for.
            NotFiniteError: the model's log-probabilities are not finite.
            ValueError: an empty context or continuation, or a continuation longer than `longest`.
        """
        self._check_vocabulary(pairs, title)
        found: list[Likelihood | None] = [None] * len(pairs)
        rows = self._rows(pairs)
        lengths = [len(row.ids) for row in rows]
        hidden = title is None or jax.process_index() != 0
        with tqdm.tqdm(total=len(pairs), desc=title, unit=" requests", disable=hidden) as bar:
            for bucket in buckets.buckets(
                lengths, self._rungs, self.limits.tokens_per_batch, self._parts
            ):
                batch = [rows[i] for i in bucket.indices]
                cells = _lay_out(batch, pairs, bucket.rows, bucket.length)
                mesh = self.model.mesh
                placed = _Cells(*(meshes.put(mesh, ("rows", "tokens"), part) for part in cells))
                scores = jax.device_get(self._compiled(self.model, placed))
                for r, row in enumerate(batch):
                    for member, here in _slots(row, pairs):
                        total = float(scores.logprobs[r, here].sum(dtype=np.float64))
                        if not math.isfinite(total):
                            raise self._not_finite(title)
                        found[member] = Likelihood(total, bool(scores.correct[r, here].all()))
                    bar.update(len(row.members))
        return [likelihood for likelihood in found if likelihood is not None]

    def _check_vocabulary(self, pairs: Sequence[ContextPair], title: str | None) -> None:
        highest = max((max(*before, *behind, 0) for before, behind in pairs), default=0)
        if highest >= self.model.config.vocabulary_size:
            raise CheckpointError(
                f"{title or 'tasks'}: the tokenizer wrote token {highest}; expected ids below the "
                f"{self.model.config.vocabulary_size} rows of the model's embedding, use the "
                "tokenizer that belongs to the model"
            )

    def _not_finite(self, title: str | None) -> NotFiniteError:
        dtype = str(self.model.execution.compute_dtype)
        where = finite.origin(self.model.weights, dtype)
        return NotFiniteError(f"{title or 'tasks'}: log-probabilities are not finite: {where}")

    def _rows(self, pairs: Sequence[ContextPair]) -> list[_Row]:
        """Rows of pairs with the same tokens to read, as many in each as it has slots."""
        rows: list[_Row] = []
        latest: dict[tuple[int, ...], tuple[_Row, int]] = {}
        for member, (context, continuation) in enumerate(pairs):
            if not context or not 0 < len(continuation) <= self.limits.longest:
                raise ValueError(
                    f"pair {member} has {len(context)} and {len(continuation)} tokens; expected at "
                    f"least one each, and at most {self.limits.longest} to score"
                )
            ids = (*context, *continuation)[-(self.limits.longest + 1) :][:-1]
            row, free = latest.get(ids, (None, 0))
            if row is None or free < len(continuation):
                row, free = _Row(ids, []), max(len(ids), self._rungs[0])
                rows.append(row)
            row.members.append(member)
            latest[ids] = row, free - len(continuation)
        return rows

    def _score(self, model: Model, cells: _Cells) -> logprobs.TokenLogprobs:
        hidden = model.forward(Tokens.one_a_row(cells.ids, cells.real))
        return logprobs.token_logprobs(
            jnp.take_along_axis(hidden, cells.places[..., None], axis=1),
            model.head(),
            cells.targets,
            cells.asked,
            chunk_tokens=self.limits.chunk_tokens,
        )


def _slots(row: _Row, pairs: Sequence[ContextPair]) -> Iterator[tuple[int, slice]]:
    """The pairs of a row, and the slots of each."""
    start = 0
    for member in row.members:
        here = slice(start, start + len(pairs[member].continuation))
        yield member, here
        start = here.stop


def _lay_out(batch: Sequence[_Row], pairs: Sequence[ContextPair], rows: int, length: int) -> _Cells:
    """Right-padded rows on the host."""
    ids, places, targets = (np.zeros((rows, length), np.int32) for _ in range(3))
    real, asked = (np.zeros((rows, length), bool) for _ in range(2))
    for r, row in enumerate(batch):
        end = len(row.ids)
        ids[r, :end], real[r, :end] = row.ids, True
        for member, here in _slots(row, pairs):
            continuation = pairs[member].continuation
            places[r, here] = np.arange(end - len(continuation), end)
            targets[r, here], asked[r, here] = continuation, True
    return _Cells(ids, real, places, targets, asked)
