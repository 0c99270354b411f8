"""What a sweep will cost, printed before weights are read."""

import dataclasses
import heapq
from collections.abc import Sequence

from safety_jax.base.memory import GIB
from safety_jax.training.footprint import FlopParts, TrainedModel

SHOWN = 12  # runs that are listed; the others are counted


@dataclasses.dataclass(frozen=True)
class RunCost:
    """The cost of one run.

    Attributes:
        tokens: of all its steps, without padding.
        flops: model FLOPs, see `metrics`.
        microbatches: of its fullest step.
        segments: examples in its fullest row, including held-out ones.
    """

    name: str
    examples: int
    steps: int
    tokens: int
    flops: float
    microbatches: int
    segments: int
    model: TrainedModel


def program_steps(steps: Sequence[int], lanes: int) -> int:
    """Steps of the program for runs of these lengths, started in this order, each in the first free
    lane: (4, 3, 2) in two lanes take 5."""
    ends = [0] * lanes
    for taken in steps:
        heapq.heapreplace(ends, ends[0] + taken)
    return max(ends)


def describe(
    costs: Sequence[RunCost], lanes: int, parts: FlopParts, *, remat: str, rows: int, tokens: int
) -> str:
    """The table of the runs, and their total cost.

    Args:
        costs: in the order in which the runs start.
        rows, tokens: of a microbatch of one run, and of a row.
    """
    width = max(len("run"), *(len(one.name) for one in costs[:SHOWN]))
    lines = [f"{'run':{width}}  {'examples':>9}  {'steps':>7}  {'tokens':>13}  {'FLOPs':>8}"]
    lines += [
        f"{one.name:{width}}  {one.examples:9,}  {one.steps:7,}  {one.tokens:13,}  {one.flops:8.1e}"
        for one in costs[:SHOWN]
    ]
    if len(costs) > SHOWN:
        lines.append(f"and {len(costs) - SHOWN} more")
    return "\n".join([*lines, *_together(costs, lanes, parts, remat, rows, tokens)])


def _together(
    costs: Sequence[RunCost], lanes: int, parts: FlopParts, remat: str, rows: int, tokens: int
) -> list[str]:
    alone = sum(one.steps for one in costs)
    together = program_steps([one.steps for one in costs], lanes)
    largest = max((one.model for one in costs), key=lambda model: model.adapter_weights)
    base = largest.weights * largest.base_bytes / parts.stored
    held = dataclasses.replace(largest, adapter_weights=lanes * largest.adapter_weights)
    at_work = dataclasses.replace(held, sides=lanes * largest.sides)
    working = at_work.temporaries(parts, remat=remat, rows=rows, row_tokens=tokens)
    return [
        f"{len(costs)} runs, {lanes} at a time: {alone:,} steps in {together:,} of the program, "
        f"{sum(one.tokens for one in costs):,} tokens, {sum(one.flops for one in costs):.1e} FLOPs",
        f"memory of a device by formula: the base {base / GIB:.2f} GiB, held once; adapters with "
        f"their moments {(held.held(parts) - base) / GIB:.2f} GiB; temporaries "
        f"{working / GIB:.2f} GiB",
        f"each microbatch of a step reads the base {together:,} times instead of {alone:,}",
    ]
