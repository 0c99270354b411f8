"""Fits a run's rows to its devices: row length, rows in a microbatch, and what the backward pass
recomputes. These choices change time and memory, not results.

Whatever the config leaves to `auto` is chosen by formula. Of the choices that fit into memory, the
fastest on batches of the run's own data wins, or one that is nearly as fast and needs less memory.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Int

from safety_jax.data import loader
from safety_jax.data.prefixes import Shared
from safety_jax.data.shuffling import permutation
from safety_jax.training.footprint import PASSES, FlopParts, TrainedModel
from safety_jax.training.settings import shared_rows

REMATS = ("none", "dots", "full")  # the first keeps most for the backward pass
SAMPLED_STEPS = 24  # so many batches are packed to estimate what steps need
ROW_STEP = 128  # row lengths are multiples of this, or the longest length allowed
LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16)  # row lengths tried, in lengths of the longest example
FINE_ROWS = 32  # above this, numbers of rows are tried in larger strides
NEARLY = 1.05  # a choice is nearly as fast if it takes at most this multiple of the least time
# The fixed cost of a microbatch, in tokens of one device: reading each kernel from memory takes as
# long as the products of so many tokens. It is low on CPUs, which have caches and few units.
OVERHEAD_TOKENS = {"cpu": 64}
OVERHEAD_OF_ACCELERATORS = 512
MARGIN = 1.25  # the formula's temporaries are multiplied by this, to be safe
_WRITTEN = re.compile(r"(\d+) rows of (\d+) tokens, remat (\w+)")


@dataclasses.dataclass(frozen=True)
class Fit:
    """A choice. A run's folder stores it as `str` writes it and `parse` reads it."""

    rows_per_microbatch: int
    row_tokens: int
    remat: str

    def __str__(self) -> str:
        return f"{self.rows_per_microbatch} rows of {self.row_tokens} tokens, remat {self.remat}"

    @classmethod
    def parse(cls, text: str) -> "Fit":
        found = _WRITTEN.fullmatch(text)
        if found is None or found[3] not in REMATS:
            raise ValueError(text)
        return cls(int(found[1]), int(found[2]), found[3])


@dataclasses.dataclass(frozen=True)
class RowSettings:
    """What the config says about rows; `choose` decides fields that are None.

    Attributes:
        most_row_tokens: the longest row that `choose` may take.
    """

    rows_per_microbatch: int | None
    row_tokens: int | None
    remat: str | None
    most_row_tokens: int

    @property
    def open(self) -> bool:
        return self.rows_per_microbatch is None or self.remat is None


@dataclasses.dataclass(frozen=True)
class FitEstimate:
    """A choice and its cost by formula.

    Attributes:
        work: FLOPs of the sampled steps on one device, overheads included.
        memory: bytes on one device.
        empty: share of the computed cells that hold no token.
    """

    fit: Fit
    work: float
    memory: float
    empty: float


def choose(
    wanted: RowSettings,
    needs: "Needs",
    model: TrainedModel,
    parts: FlopParts,
    *,
    memory: float,
    platform: str,
) -> FitEstimate:
    """The best choice; if nothing fits into memory, the one that takes the least.

    Args:
        memory: bytes that may be used on one device.
        platform: jax's name of the devices' platform.
    """
    tried = list(estimates(wanted, needs, model, parts, platform))
    fitting = [one for one in tried if one.memory <= memory]
    if not fitting:
        return min(tried, key=lambda one: one.memory)
    least = min(one.work for one in fitting)
    near = [one for one in fitting if one.work <= NEARLY * least]
    return min(near, key=lambda one: (one.memory, one.work))


def given(wanted: RowSettings) -> Fit:
    """The choice of a config that leaves nothing open; rows have the longest length by default."""
    assert wanted.rows_per_microbatch is not None and wanted.remat is not None
    row_tokens = wanted.row_tokens or wanted.most_row_tokens
    return Fit(wanted.rows_per_microbatch, row_tokens, wanted.remat)


def agreed(wanted: RowSettings, earlier: Fit) -> Fit:
    """What the config says, and an earlier choice for whatever it leaves open."""
    return Fit(
        wanted.rows_per_microbatch or earlier.rows_per_microbatch,
        wanted.row_tokens or earlier.row_tokens,
        wanted.remat or earlier.remat,
    )


# ---------------------------------------------------------------------------- what batches need


@dataclasses.dataclass(frozen=True)
class PackedSteps:
    """What the sampled steps need at one row length.

    Attributes:
        rows: number of rows that each step fills.
        tokens: real tokens of all steps together; tokens that sides share count once.
        row_tokens: length of the filled rows, which is longer if sides share rows.
        rows_per_example: M.
        shared: how sides share rows; None if each has rows of its own.
    """

    rows: Int[np.ndarray, " steps"]
    tokens: int
    row_tokens: int
    rows_per_example: int
    shared: Shared | None


@dataclasses.dataclass(frozen=True)
class Needs:
    """The batches that a run will have.

    Attributes:
        lengths: tokens of all training examples, one column for each side.
        batches: the examples of some sampled steps.
        longest: tokens of the longest side of any example, including held-out ones.
        share: given the length of a row that holds one side, says how sides share rows.
    """

    lengths: Int[np.ndarray, "n sides"]
    batches: Sequence[Int[np.ndarray, "..."]]
    longest: int
    packing: bool
    share: Callable[[int], Shared | None] = lambda row_tokens: None

    def packed(self, row_tokens: int) -> PackedSteps:
        shared = self.share(row_tokens)
        cells, length, once = self.lengths, row_tokens, 0
        if shared is not None:
            cells, length, once = shared.cells(cells), shared.row_tokens, shared.once_a_row
        rows = [
            len(loader.pack(cells[batch], length - once)) if self.packing else len(batch)
            for batch in self.batches
        ]
        tokens = sum(int(cells[batch].sum()) for batch in self.batches) + once * sum(rows)
        return PackedSteps(np.array(rows), tokens, length, cells.shape[1], shared)


def needs(
    lengths: Int[np.ndarray, "n sides"],
    longest: int,
    batch_size: int,
    *,
    packing: bool,
    seed: int,
    share: Callable[[int], Shared | None],
) -> Needs:
    """What the run's steps need, from a sample spread evenly over the first epoch."""
    order = permutation(len(lengths), seed=seed, stream=0)
    whole = max(1, len(lengths) // batch_size)  # without the short last batch of an epoch
    chosen = np.unique(np.linspace(0, whole - 1, SAMPLED_STEPS).astype(int))
    batches = [order[k * batch_size : (k + 1) * batch_size] for k in chosen]
    return Needs(lengths, batches, longest, packing, share)


# ---------------------------------------------------------------------------- candidates


def estimates(
    wanted: RowSettings, needs: Needs, model: TrainedModel, parts: FlopParts, platform: str
) -> Iterator[FitEstimate]:
    """Every possible choice with its cost."""
    remats = _remats(model, platform) if wanted.remat is None else (wanted.remat,)
    sides = needs.lengths.shape[1]
    for row_tokens in _lengths(wanted, needs):
        steps = needs.packed(row_tokens)
        for rows in _row_numbers(wanted, row_tokens, steps, sides, parts):
            for remat in remats:
                fit = Fit(rows, row_tokens, remat)
                yield _estimate(fit, steps, sides, model, parts, platform)


def _remats(model: TrainedModel, platform: str) -> tuple[str, ...]:
    """All kinds of rematerialisation, except "none" for 16-bit activations on a CPU: those would be
    kept as floats, and XLA would widen and narrow the whole stack for each layer
    (`models/products.py`)."""
    return REMATS[1:] if platform == "cpu" and model.number_bytes == 2 else REMATS


def _lengths(wanted: RowSettings, needs: Needs) -> list[int]:
    if wanted.row_tokens is not None:
        return [wanted.row_tokens]
    most = wanted.most_row_tokens
    least = math.ceil(needs.longest / ROW_STEP) * ROW_STEP
    factors = LENGTHS if needs.packing else LENGTHS[:1]
    return sorted({min(factor * least, most) for factor in factors})


def _row_numbers(
    wanted: RowSettings, row_tokens: int, steps: PackedSteps, sides: int, parts: FlopParts
) -> list[int]:
    """Numbers of rows to try: multiples of the devices that rows are divided over, up to what the
    fullest step needs."""
    if wanted.rows_per_microbatch is not None:
        return [wanted.rows_per_microbatch]
    most = int(steps.rows.max())
    if steps.shared is not None:
        most = math.ceil(most * steps.row_tokens / (sides * row_tokens))
    whole = math.ceil(most / parts.rows)
    numbers = set(range(1, min(whole, FINE_ROWS) + 1))
    numbers |= {math.ceil(whole / k) for k in range(1, FINE_ROWS + 1)}
    return [number * parts.rows for number in sorted(numbers)]


def _estimate(
    fit: Fit, steps: PackedSteps, sides: int, model: TrainedModel, parts: FlopParts, platform: str
) -> FitEstimate:
    rows = fit.rows_per_microbatch
    if steps.shared is not None:
        rows = shared_rows(rows, fit.row_tokens, steps.shared, sides, parts.rows)
    microbatches = int(np.ceil(steps.rows / rows).sum())
    cells = microbatches * rows * steps.row_tokens * steps.rows_per_example
    work = cells / parts.rows * model.work(remat=fit.remat, row_tokens=steps.row_tokens)
    moves = 2 * model.trunk.kernels * (PASSES[fit.remat] + 1)
    work += microbatches * moves * OVERHEAD_TOKENS.get(platform, OVERHEAD_OF_ACCELERATORS)
    temporaries = model.temporaries(
        parts, remat=fit.remat, rows=fit.rows_per_microbatch, row_tokens=fit.row_tokens
    )
    memory = model.held(parts) + MARGIN * temporaries
    return FitEstimate(fit, work / parts.tensor, memory, 1 - steps.tokens / cells)
