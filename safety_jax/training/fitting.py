"""How the rows of a run fit its devices: their length, how many a microbatch has, and what the
backward pass computes again. Results do not depend on it; time and memory do.

What the config leaves to `auto` is chosen by formula: of all that fits the memory at hand, what
takes the least time on batches as the run's own data fill them, and of what is nearly as fast, what
takes the least memory.
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

REMATS = ("none", "dots", "full")  # in the order of what they keep
SAMPLED_STEPS = 24  # whose batches are packed to see what they need
ROW_STEP = 128  # rows that are not of the longest length allowed have a multiple of it
LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16)  # of rows, in the length of the longest example
FINE_ROWS = 32  # numbers of rows beyond are tried in larger strides
NEARLY = 1.05  # of the least time
# What a microbatch costs beside its tokens, in tokens of a device: kernels come from memory once,
# and hide behind the products of so many. CPUs have caches and few units to feed.
OVERHEAD_TOKENS = {"cpu": 64}
OVERHEAD_OF_ACCELERATORS = 512
MARGIN = 1.25  # on temporaries by formula
_WRITTEN = re.compile(r"(\d+) rows of (\d+) tokens, remat (\w+)")


@dataclasses.dataclass(frozen=True)
class Fit:
    """A choice; `str` and `parse` are how a run's folder remembers it."""

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
    """What the config says; None is left to choose.

    Attributes:
        most_row_tokens: rows whose length is left to choose have at most so many.
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
    """A choice by formula.

    Attributes:
        work: FLOPs of the sampled steps on one device, overheads among them.
        memory: bytes of one device.
        empty: share of computed cells without a token.
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
    """The best choice; where nothing fits, the one that takes the least memory.

    Args:
        memory: bytes of a device that may be used.
        platform: jax's name of it.
    """
    tried = list(estimates(wanted, needs, model, parts, platform))
    fitting = [one for one in tried if one.memory <= memory]
    if not fitting:
        return min(tried, key=lambda one: one.memory)
    least = min(one.work for one in fitting)
    near = [one for one in fitting if one.work <= NEARLY * least]
    return min(near, key=lambda one: (one.memory, one.work))


def given(wanted: RowSettings) -> Fit:
    """What a config says that leaves nothing open; rows are then as long as it allows."""
    assert wanted.rows_per_microbatch is not None and wanted.remat is not None
    row_tokens = wanted.row_tokens or wanted.most_row_tokens
    return Fit(wanted.rows_per_microbatch, row_tokens, wanted.remat)


def agreed(wanted: RowSettings, earlier: Fit) -> Fit:
    """An earlier choice, where the config still leaves it open."""
    return Fit(
        wanted.rows_per_microbatch or earlier.rows_per_microbatch,
        wanted.row_tokens or earlier.row_tokens,
        wanted.remat or earlier.remat,
    )


# ---------------------------------------------------------------------------- what batches need


@dataclasses.dataclass(frozen=True)
class PackedSteps:
    """What steps need at one length of rows.

    Attributes:
        rows: that each of them fills.
        tokens: of all, without padding; what sides share is one.
        row_tokens: of the rows that are filled, longer where sides share them.
        rows_per_example: M.
        shared: how sides share rows; None where each has its own.
    """

    rows: Int[np.ndarray, " steps"]
    tokens: int
    row_tokens: int
    rows_per_example: int
    shared: Shared | None


@dataclasses.dataclass(frozen=True)
class Needs:
    """Batches as a run will meet them.

    Attributes:
        lengths: of all examples to learn from, side by side.
        batches: the examples of some steps.
        longest: tokens of the longest side of any example, those held out among them.
        share: how sides share rows, by the tokens of a row that holds one side.
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
    """Steps of the first epoch, some of them, evenly from all of it."""
    order = permutation(len(lengths), seed=seed, stream=0)
    whole = max(1, len(lengths) // batch_size)  # the last one of an epoch may be short
    chosen = np.unique(np.linspace(0, whole - 1, SAMPLED_STEPS).astype(int))
    batches = [order[k * batch_size : (k + 1) * batch_size] for k in chosen]
    return Needs(lengths, batches, longest, packing, share)


# ---------------------------------------------------------------------------- candidates


def estimates(
    wanted: RowSettings, needs: Needs, model: TrainedModel, parts: FlopParts, platform: str
) -> Iterator[FitEstimate]:
    """Everything that may be chosen, with what it costs."""
    remats = _remats(model, platform) if wanted.remat is None else (wanted.remat,)
    sides = needs.lengths.shape[1]
    for row_tokens in _lengths(wanted, needs):
        steps = needs.packed(row_tokens)
        for rows in _row_numbers(wanted, row_tokens, steps, sides, parts):
            for remat in remats:
                fit = Fit(rows, row_tokens, remat)
                yield _estimate(fit, steps, sides, model, parts, platform)


def _remats(model: TrainedModel, platform: str) -> tuple[str, ...]:
    """Without rematerialisation everything is kept as it is, and a CPU makes the whole stack of
    what is kept in 16 bits wider and narrow again for each layer (`models/products.py`)."""
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
    """Multiples of the devices that share out rows, up to what the fullest step needs."""
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
