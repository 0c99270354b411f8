"""Lays examples out as batches of one fixed shape; the examples of a step depend on (seed, step)
alone.

Packing and the number of hosts only change the layout: a step has the same examples with or without
packing, on one host or on many.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import grain
import jax
import numpy as np
from jaxtyping import Int

from safety_jax.base.batch import Tokens
from safety_jax.base.errors import ConfigError
from safety_jax.data.examples import Examples
from safety_jax.data.prefixes import Shared
from safety_jax.data.shuffling import permutation


class RowLayout(NamedTuple):
    """Where the examples of a step lie, on all hosts; entry k is example k of the step.

    Attributes:
        microbatch, row: the microbatch, and the row among all hosts' rows of it.
        segment: the number of the example in its row, from 1.
        start: the cell of each side's first token; if texts of a row share a beginning, of the
            first token behind it. Tokens that the sides of an example share stand just before its
            first side, tokens that all examples share at the beginning of the row.
    """

    microbatch: Int[np.ndarray, " n"]
    row: Int[np.ndarray, " n"]
    segment: Int[np.ndarray, " n"]
    start: Int[np.ndarray, "n sides"]


@dataclasses.dataclass(frozen=True)
class Batch:
    """The examples of one optimizer step.

    Attributes:
        step: number of the step, from 0.
        tokens: this host's rows of every microbatch: `[A, b, T]`; for pairs `[A, b, 2, T]`, or
            `[A, b, 1, T]` if both answers share a row. Rows without examples are all padding.
        used: the number of microbatches that hold examples, `tokens[:used]`.
        examples: indices of the step's examples, on all hosts.
        layout: where they lie.
        trained_tokens, real_tokens: the number of trained tokens, and of tokens that are not
            padding, over all hosts; shared tokens count once for each row.
    """

    step: int
    tokens: Tokens
    used: int
    examples: Int[np.ndarray, " n"]
    layout: RowLayout
    trained_tokens: int
    real_tokens: int


class Loader:
    """Batches by step: `loader.batch(7)`, or in order through `iter(loader)`.

    An example has one side, or two: the answers of a pair. These lie in the rows `[b, 0]` and
    `[b, 1]` with the same segment number, or in one row if they share a prefix. A beginning that
    all examples share may stand in a row once (`prefixes.py`).

    The iterator is grain's: it reads ahead on a thread; `get_state()` returns its position as JSON,
    and `set_state()` sets it.
    """

    def __init__(
        self,
        *sides: Examples,
        batch_size: int,
        row_tokens: int,
        rows_per_microbatch: int,
        packing: bool,
        steps: int | None,
        seed: int | None,
        prefetch_steps: int,
        rows_here: Sequence[int],
        microbatches: int | None = None,
        segments: int | None = None,
        shared: Shared | None = None,
    ):
        """Plans the run.

        Args:
            sides: the examples; or the preferred and the rejected answers of pairs.
            batch_size: examples of an optimizer step; the last step of an epoch may have fewer.
            row_tokens: T; if sides share rows, that of `shared` counts instead.
            rows_per_microbatch: b over all hosts.
            packing: put several examples into a row, by best-fit decreasing; otherwise one.
            steps: length of the run; None for one epoch.
            seed: determines the order, which differs between epochs; None keeps the examples' own.
            prefetch_steps: batches to hold ready; 0 builds each when asked.
            rows_here: those of b that this host lays out, see `meshes.rows_here`.
            microbatches: A, for runs that must share a compiled step; None for the most that any
                step of this run needs.
            segments: S, the most examples in a row, likewise.
            shared: the tokens that the sides of an example, or the examples of a row, share; None
                if they share none.

        Raises:
            ConfigError: numbers that do not fit together, or an example longer than T.
        """
        _check_positive("train.batch_size", batch_size)
        _check_positive("rows_per_microbatch", rows_per_microbatch)
        self.lengths = np.stack([side.lengths for side in sides], axis=1)
        self.shared = shared
        self._common = np.zeros(len(self.lengths), int) if shared is None else shared.tokens
        # The cells of each example in each of its M rows, without those that a row has once.
        self._cells, self._once = self.lengths, 0
        if shared is not None:
            row_tokens = shared.row_tokens
            self._cells, self._once = shared.cells(self.lengths), shared.once_a_row
        _check_fits(self._cells + self._once, row_tokens, sides[0].where)
        self.batch_size = batch_size
        self.rows_per_microbatch = rows_per_microbatch
        self.steps_per_epoch = steps_per_epoch(len(self.lengths), batch_size)
        self.steps = self.steps_per_epoch if steps is None else steps
        self._sides, self._row_tokens = sides, row_tokens
        self._packing, self._seed = packing, seed
        self._prefetch_steps = prefetch_steps
        self._slots = {row: place for place, row in enumerate(rows_here)}
        self._epoch_order = functools.lru_cache(maxsize=2)(self._order)
        self._plan(microbatches, segments)

    def _plan(self, microbatches: int | None, segments: int | None) -> None:
        """Packs all steps, to find out how many microbatches and segments the fullest one needs."""
        self._filled = np.zeros(self.steps, np.int64)  # rows of each step
        fullest = 0
        for step in range(self.steps):
            rows = self._rows(step)
            self._filled[step] = len(rows)
            fullest = max(fullest, max(map(len, rows), default=0))
        used = -(-self._filled // self.rows_per_microbatch)
        self.microbatches = _at_least(int(used.max(initial=0)), microbatches, "microbatches a step")
        self.most_segments = _at_least(fullest, segments, "examples a row")
        # Unused microbatches cost nothing.
        cells_a_row = self._row_tokens * self.rows_per_example
        self._computed_cells = int(used.sum()) * self.rows_per_microbatch * cells_a_row

    @property
    def rows_per_example(self) -> int:
        """M, the rows of an example: one for each side, or one for all."""
        return self._cells.shape[1]

    @property
    def padding_share(self) -> float:
        """The share of the run's computed cells that are padding."""
        if not self._computed_cells:
            return 0.0
        return 1 - self.tokens_until(self.steps) / self._computed_cells

    def tokens_until(self, step: int) -> int:
        """Real tokens of all steps before `step`."""
        own = sum(int(self._cells[self._members(k)].sum()) for k in range(step))
        return own + self._once * int(self._filled[:step].sum())

    def examples_until(self, step: int) -> int:
        """Examples of all steps before `step`, each as often as it is seen."""
        epochs, steps = divmod(step, self.steps_per_epoch)
        return epochs * len(self.lengths) + steps * self.batch_size

    def batch(self, step: int) -> Batch:
        """The batch of a step: a pure function of the arguments above and `step`."""
        members = self._members(step)
        rows = self._rows(step)
        layout = self._lay_out(rows, members)
        tokens = self._tokens(members, layout)
        if len(self._sides) == 1:
            tokens = jax.tree.map(lambda x: x[:, :, 0], tokens)
        trained = sum(int(side.trained_lengths[members].sum()) for side in self._sides)
        return Batch(
            step=step,
            tokens=tokens,
            used=-(-len(rows) // self.rows_per_microbatch),
            examples=members,
            layout=layout,
            trained_tokens=trained,
            real_tokens=int(self._cells[members].sum()) + self._once * len(rows),
        )

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> grain.DatasetIterator[Batch]:
        # One thread, because building a batch is copying, which more threads do not speed up.
        options = grain.ReadOptions(
            num_threads=min(1, self._prefetch_steps), prefetch_buffer_size=self._prefetch_steps
        )
        steps = grain.MapDataset.range(self.steps).map(self.batch)
        return iter(steps.to_iter_dataset(options))

    def here(self, layout: RowLayout) -> Iterator[tuple[int, int, int]]:
        """This host's examples of a step: (k, microbatch, row of this host)."""
        for k, (microbatch, row) in enumerate(zip(layout.microbatch, layout.row, strict=True)):
            if row in self._slots:
                yield k, int(microbatch), self._slots[row]

    def per_token(
        self, values: Sequence[np.ndarray], examples: Int[np.ndarray, " n"], layout: RowLayout
    ) -> np.ndarray:
        """Lays out values of each side by token, in the order of `Examples.ids`, as `[A, b, M, T]`
        like the batch; values of shared tokens are taken from the first side."""
        laid = self._empty(values[0].dtype)
        for k, microbatch, row in self.here(layout):
            for side, flat in enumerate(values):
                here, cells = self.own(k, side, examples, layout)
                laid[microbatch, row, self._row(side), cells] = flat[here]
            common, first = self._common[examples[k]], self._sides[0].offsets[examples[k]]
            before = self._before(k, examples, layout)
            laid[microbatch, row, 0, before] = values[0][first : first + common]
        return laid

    def own(
        self, k: int, side: int, examples: Int[np.ndarray, " n"], layout: RowLayout
    ) -> tuple[slice, slice]:
        """The tokens that a side of the batch's example k does not share: their slice of the values
        by token, and their cells in the row."""
        offsets, common = self._sides[side].offsets, self._common[examples[k]]
        here = slice(int(offsets[examples[k]] + common), int(offsets[examples[k] + 1]))
        start = int(layout.start[k, side])
        return here, slice(start, start + here.stop - here.start)

    def _before(self, k: int, examples: Int[np.ndarray, " n"], layout: RowLayout) -> slice:
        """The cells of the tokens that the batch's example k shares."""
        stop = self._once or int(layout.start[k, 0])
        return slice(stop - int(self._common[examples[k]]), stop)

    def _row(self, side: int) -> int:
        """Which of an example's M rows holds a side."""
        return min(side, self.rows_per_example - 1)

    def _empty(self, dtype: np.dtype | type) -> np.ndarray:
        rows = self.rows_per_example
        return np.zeros((self.microbatches, len(self._slots), rows, self._row_tokens), dtype)

    def _tokens(self, members: Int[np.ndarray, " n"], layout: RowLayout) -> Tokens:
        positions, segments = self._empty(np.int32), self._empty(np.int32)
        prefixes = self._empty(np.int32)
        together = len(self._sides) // self.rows_per_example
        for k, microbatch, row in self.here(layout):
            common, number = self._common[members[k]], layout.segment[k]
            begins = -1 if self._once else -number
            before = (microbatch, row, 0, self._before(k, members, layout))
            positions[before], segments[before] = np.arange(common), begins
            prefixes[before] = begins
            for side in range(len(self._sides)):
                _, own = self.own(k, side, members, layout)
                cells = (microbatch, row, self._row(side), own)
                positions[cells] = np.arange(common, common + own.stop - own.start)
                segments[cells] = together * (number - 1) + side % together + 1
                prefixes[cells] = begins if common else segments[cells]
        return Tokens(
            ids=self.per_token([side.ids for side in self._sides], members, layout),
            positions=positions,
            segments=segments,
            mask=self.per_token([side.mask for side in self._sides], members, layout),
            prefixes=None if self.shared is None else prefixes,
        )

    def _lay_out(self, rows: list[list[int]], members: Int[np.ndarray, " n"]) -> RowLayout:
        lengths, common, cells = self.lengths[members], self._common[members], self._cells[members]
        zeros = functools.partial(np.zeros, len(members), np.int32)
        layout = RowLayout(zeros(), zeros(), zeros(), np.zeros_like(lengths, np.int32))
        # Each side in a shared row begins where the one before it ends.
        offset = np.zeros_like(lengths)
        if self.shared is not None and not self.shared.opening:
            own = lengths - common[:, None]
            offset = common[:, None] + np.cumsum(own, axis=1) - own
        for r, row in enumerate(rows):
            start = np.full(cells.shape[1], self._once, np.int32)
            for segment, k in enumerate(row, start=1):
                layout.microbatch[k], layout.row[k] = divmod(r, self.rows_per_microbatch)
                layout.segment[k], layout.start[k] = segment, start + offset[k]
                start = start + cells[k]
        return layout

    def _order(self, epoch: int) -> Int[np.ndarray, " n"]:
        if self._seed is None:
            return np.arange(len(self.lengths))
        return permutation(len(self.lengths), seed=self._seed, stream=epoch)

    def _members(self, step: int) -> Int[np.ndarray, " n"]:
        epoch, k = divmod(step, self.steps_per_epoch)
        return self._epoch_order(epoch)[k * self.batch_size : (k + 1) * self.batch_size]

    def _rows(self, step: int) -> list[list[int]]:
        """The rows of a step, as lists of examples by their number in the step."""
        lengths = self._cells[self._members(step)]
        if self._packing:
            return pack(lengths, self._row_tokens - self._once)
        return [[k] for k in range(len(lengths))]


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """The steps that see every example once; the last may have fewer than `batch_size`."""
    return -(-examples // batch_size)


def pack(lengths: Int[np.ndarray, "n rows"], capacity: int) -> list[list[int]]:
    """Groups items into few bins by best-fit decreasing; returns indices by bin.

    Each item, longest first, goes where it leaves the least room: `[[5], [3], [4], [2]]` into bins
    of 8 gives `[[0, 1], [2, 3]]`. This needs at most about 11/9 of the fewest possible bins
    (Johnson et al., 1974). Items of two rows go into bins of two rows, and must fit into both.
    """
    bins: list[list[int]] = []
    room = np.full(lengths.shape, capacity)
    for i in np.lexsort((-lengths.sum(axis=1), -lengths.max(axis=1))):
        left = room[: len(bins)] - lengths[i]
        open_bins = np.flatnonzero((left >= 0).all(axis=1))
        if len(open_bins):
            target = int(open_bins[np.argmin(left[open_bins].sum(axis=1))])
        else:
            target = len(bins)
            bins.append([])
        bins[target].append(int(i))
        room[target] -= lengths[i]
    return bins


def _check_fits(cells: Int[np.ndarray, "n M"], row_tokens: int, where: Sequence[str]) -> None:
    longest = int(np.argmax(cells.max(axis=1)))
    if cells[longest].max() > row_tokens:
        raise ConfigError(
            f"rows have {row_tokens} tokens; expected at least the {cells[longest].max()} of "
            f"{where[longest]}, raise data.row_tokens or lower data.max_length"
        )


def _at_least(needed: int, given: int | None, what: str) -> int:
    """The given number of a compiled step, or, if None, the number that this run needs."""
    if given is not None and given < needed:
        raise ConfigError(f"{given} {what}: expected at least {needed}")
    return needed if given is None else given


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise ConfigError(f"{name} is {value}; expected at least 1")
