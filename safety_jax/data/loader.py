"""Lays examples out as batches of one fixed shape; which examples a step sees depends on
(seed, step) alone.

Packing and the number of hosts change the layout only: a step has the same examples packed or not,
on one host or on many.
"""

import bisect
import dataclasses
import functools
from collections.abc import Sequence

import grain
import numpy as np
from jaxtyping import Int

from safety_jax.batch import Tokens
from safety_jax.data.encode import Examples
from safety_jax.data.order import permutation
from safety_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Batch:
    """The examples of one optimizer step.

    Attributes:
        step: number of the step, from 0.
        tokens: `[A, b, T]`, this host's rows of every microbatch. Rows without examples are
            padding from end to end.
        used: microbatches that hold examples, `tokens[:used]`.
        examples: indices of the step's examples, of all hosts.
        trained_tokens, real_tokens: trained tokens and tokens but padding, of all hosts.
    """

    step: int
    tokens: Tokens
    used: int
    examples: Int[np.ndarray, " n"]
    trained_tokens: int
    real_tokens: int


class Loader:
    """Batches by step: `loader.batch(7)`, or in order through `iter(loader)`.

    The iterator is grain's: it reads ahead on a thread, and `get_state()` and `set_state()` give
    and take a position that JSON can hold.
    """

    def __init__(
        self,
        examples: Examples,
        *,
        batch_size: int,
        row_tokens: int,
        rows_per_microbatch: int,
        packing: bool,
        steps: int | None,
        seed: int | None,
        prefetch_steps: int,
        process: int,
        processes: int,
    ):
        """Plans the run: A is the most microbatches that any of its steps needs.

        Args:
            batch_size: examples of an optimizer step; the last step of an epoch has the rest.
            row_tokens: T.
            rows_per_microbatch: b over all hosts.
            packing: several examples a row, as few rows as best-fit decreasing finds; else one.
            steps: length of the run; None for one epoch.
            seed: of the order, a new one each epoch; None for the examples' own order.
            prefetch_steps: batches to hold ready; 0 builds each when asked.
            process, processes: this host and how many; each has an equal slice of b.

        Raises:
            ConfigError: numbers that do not fit together, or an example longer than T.
        """
        _check_positive("train.batch_size", batch_size)
        _check_positive("rows_per_microbatch", rows_per_microbatch)
        longest = int(np.argmax(examples.lengths))
        if examples.lengths[longest] > row_tokens:
            raise ConfigError(
                f"rows have {row_tokens} tokens; expected at least the "
                f"{examples.lengths[longest]} of {examples.where[longest]}, raise the row length "
                "or lower data.max_length"
            )
        if rows_per_microbatch % processes:
            raise ConfigError(
                f"a microbatch has {rows_per_microbatch} rows; expected a multiple of the "
                f"{processes} hosts"
            )
        self.steps_per_epoch = steps_per_epoch(len(examples), batch_size)
        self.steps = self.steps_per_epoch if steps is None else steps
        self._examples = examples
        self._batch_size = batch_size
        self._row_tokens = row_tokens
        self._rows = rows_per_microbatch
        self._packing = packing
        self._seed = seed
        self._prefetch_steps = prefetch_steps
        share = rows_per_microbatch // processes
        self._slots = range(process * share, (process + 1) * share)
        self._epoch_order = functools.lru_cache(maxsize=2)(self._order)
        used = np.array([len(self._microbatches(step)) for step in range(self.steps)])
        self.microbatches = int(used.max(initial=0))
        real = self.tokens_until(self.steps)
        cells = int(used.sum()) * rows_per_microbatch * row_tokens
        self._padding_share = 1 - real / cells if cells else 0.0

    @property
    def padding_share(self) -> float:
        """Share of the run's computed cells that are padding; unused microbatches cost nothing."""
        return self._padding_share

    def tokens_until(self, step: int) -> int:
        """Real tokens of all steps before `step`."""
        return sum(int(self._examples.lengths[self._members(k)].sum()) for k in range(step))

    def batch(self, step: int) -> Batch:
        """The batch of a step: a pure function of the arguments above and `step`."""
        members = self._members(step)
        microbatches = self._microbatches(step)
        shape = (self.microbatches, len(self._slots), self._row_tokens)
        ids, positions, segments = (np.zeros(shape, np.int32) for _ in range(3))
        mask = np.zeros(shape, bool)
        for a, rows in enumerate(microbatches):
            for slot, row in enumerate(rows[self._slots.start : self._slots.stop]):
                start = 0
                for segment, i in enumerate(row, start=1):
                    example_ids, example_mask = self._examples.example(i)
                    here = (a, slot, slice(start, start + len(example_ids)))
                    ids[here] = example_ids
                    positions[here] = np.arange(len(example_ids))
                    segments[here] = segment
                    mask[here] = example_mask
                    start += len(example_ids)
        return Batch(
            step=step,
            tokens=Tokens(ids=ids, positions=positions, segments=segments, mask=mask),
            used=len(microbatches),
            examples=members,
            trained_tokens=int(self._examples.trained_lengths[members].sum()),
            real_tokens=int(self._examples.lengths[members].sum()),
        )

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> grain.DatasetIterator[Batch]:
        # One thread: building a batch is copying, which several do not speed up.
        options = grain.ReadOptions(
            num_threads=min(1, self._prefetch_steps), prefetch_buffer_size=self._prefetch_steps
        )
        steps = grain.MapDataset.range(self.steps).map(self.batch)
        return iter(steps.to_iter_dataset(options))

    def _order(self, epoch: int) -> Int[np.ndarray, " n"]:
        if self._seed is None:
            return np.arange(len(self._examples))
        return permutation(len(self._examples), seed=self._seed, stream=epoch)

    def _members(self, step: int) -> Int[np.ndarray, " n"]:
        epoch, k = divmod(step, self.steps_per_epoch)
        return self._epoch_order(epoch)[k * self._batch_size : (k + 1) * self._batch_size]

    def _microbatches(self, step: int) -> list[list[list[int]]]:
        """Microbatches of rows of example indices."""
        members = self._members(step)
        if self._packing:
            groups = pack(self._examples.lengths[members].tolist(), self._row_tokens)
            rows = [[int(members[k]) for k in group] for group in groups]
        else:
            rows = [[int(i)] for i in members]
        return [rows[r : r + self._rows] for r in range(0, len(rows), self._rows)]


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Steps that see every example once; the last may have fewer than `batch_size`."""
    return -(-examples // batch_size)


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Groups items into as few bins as best-fit decreasing finds; returns indices by bin.

    Each item, longest first, goes where it leaves the least room: `[5, 3, 4, 2]` into bins of 8
    gives `[[0, 1], [2, 3]]`. It needs at most about 11/9 of the fewest bins (Johnson et al., 1974).
    """
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (space left, bin), sorted
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        at = bisect.bisect_left(room, (lengths[i], -1))
        if at == len(room):
            bins.append([])
            left, target = capacity, len(bins) - 1
        else:
            left, target = room.pop(at)
        bins[target].append(i)
        bisect.insort(room, (left - lengths[i], target))
    return bins


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise ConfigError(f"{name} is {value}; expected at least 1")
