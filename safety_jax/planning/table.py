"""Plans for people: a table for the terminal, the same in Markdown, and notes below it."""

from collections.abc import Mapping, Sequence
from typing import Any

from safety_jax.base.memory import GIB
from safety_jax.planning.chips import CHIPS, Slice

PlanRecord = Mapping[str, Any]
FORMULA = "by formula"  # the kind of an exchange that was not read from a program
HEAD = (
    "run", "model", "slice", "data x fsdp x tensor", "rows", "GiB a device", "of", "fits",
    "largest rows", "step, s", "tokens/s", "MFU", "bound by", "GB exchanged",
)  # fmt: skip
PRICED = ("a million tokens",)


def lines(plans: Sequence[PlanRecord], priced: bool) -> list[tuple[str, ...]]:
    """The head, and one line per plan."""
    return [(*HEAD, *PRICED) if priced else HEAD, *(_line(plan, priced) for plan in plans)]


def _line(plan: PlanRecord, priced: bool) -> tuple[str, ...]:
    cells = [plan["run"], plan["model"], plan["slice"]]
    width = len(HEAD) + priced
    if plan["needed"] is None:  # there was no mesh
        return (*cells, *["-"] * (width - len(cells) - 1), plan["problem"])
    cells += [
        " x ".join(str(size) for size in plan["mesh"]),
        str(plan["rows"]),
        f"{plan['needed'] / GIB:.1f}",
        f"{plan['available'] / GIB:.1f}",
        ("yes" if plan["fits"] else "no") + (" (formula)" if plan["formula"] else ""),
        largest(plan),
    ]
    if not plan["fits"]:
        return (*cells, *["-"] * (width - len(cells)))
    times = plan["times"]
    received = sum(one["received"] for one in plan["exchanges"])
    estimated = any(one["kind"] == FORMULA for one in plan["exchanges"])
    cells += [
        between(times["best"], times["worst"], ".3g"),
        between(times["tokens"] / times["worst"], times["tokens"] / times["best"], ",.0f"),
        between(100 * times["mfu_worst"], 100 * times["mfu_best"], ".0f") + "%",
        times["bound"],
        ("≈" if estimated else "") + f"{received / 1e9:.3g}",
    ]
    if priced:
        low, high = plan["price"] or (0.0, 0.0)
        cells.append(between(low, high, ".3g") if high else "-")
    return tuple(cells)


def largest(plan: PlanRecord) -> str:
    """The most rows that fit, if they were searched."""
    found = plan["largest"]
    if found is None:
        return "-"
    least = "" if found["exact"] else "at least "
    return f"{least}{found['rows']:,}" + (" (all)" if found["all"] else "")


def between(low: float, high: float, form: str) -> str:
    first, second = format(low, form), format(high, form)
    return first if first == second else f"{first}–{second}"


def terminal(plans: Sequence[PlanRecord], priced: bool) -> str:
    table = lines(plans, priced)
    width = max(len(line) for line in table)
    table = [(*line, *[""] * (width - len(line))) for line in table]
    widths = [max(len(line[i]) for line in table) for i in range(width)]
    rows = [table[0], tuple("-" * size for size in widths), *table[1:]]
    return "\n".join(
        "  ".join(cell.ljust(size) for cell, size in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def markdown(plans: Sequence[PlanRecord], priced: bool) -> str:
    table = lines(plans, priced)
    rows = [table[0], tuple("---" for _ in table[0]), *table[1:]]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def details(plan: PlanRecord) -> str:
    """One plan in full: the parts of memory, exchanges, times."""
    text = f"{plan['program']} on {plan['slice']}, {plan['chips']} chips"
    memory = plan["memory"]
    if memory:
        parts = {**memory["parts"], "temporaries": memory["temporaries"]}
        parts["program"] = memory["program"]
        listed = ", ".join(f"{name} {size / GIB:.2f}" for name, size in parts.items() if size)
        text += f"\n  GiB a device: {listed}; {memory['total'] / GIB:.2f} in all"
    for one in plan["exchanges"]:
        text += (
            f"\n  {one['times']:,} x {one['kind']} among {one['group']} ({one['place']}): "
            f"{one['received'] / 1e9:.3g} GB received"
        )
    if plan["fits"]:
        times = plan["times"]
        text += (
            f"\n  seconds: compute {times['compute']:.3g}, memory {times['memory']:.3g}, network "
            f"{times['network']:.3g}; {times['best']:.3g} if all overlap, {times['worst']:.3g} if "
            "nothing does"
        )
    return text


def published(slices: Sequence[Slice]) -> list[str]:
    """The figures of each kind of chip, with their source."""
    kinds = dict.fromkeys(where.name.partition(":")[0] for where in slices)
    return [
        f"{kind}, a chip: {chip.flops / 1e12:,.0f} TFLOP/s (bfloat16, dense), "
        f"{chip.memory / GIB:.2f} GiB usable, {chip.bandwidth / 1e9:,.0f} GB/s of memory, "
        f"{chip.network / 1e9:,.0f} GB/s of network each way ({chip.source})"
        for kind, chip in ((kind, CHIPS[kind]) for kind in kinds)
    ]


ASSUMPTIONS = (
    "memory and exchanges come from the compiler (libtpu) for TPUs, and from formulas for GPUs and "
    "for exchanges marked ≈; the allocator's losses are not included",
    "FLOPs come from formulas: every row is full, every token is trained or read, and attention is "
    "causal over the whole row; MFU counts model FLOPs, without recomputation",
    "step: the first figure is the longest of compute, memory traffic and network at published "
    "speeds (everything overlaps), the second is their sum (nothing overlaps); no kernel reaches "
    "the peak, so real steps are slower than the first figure; input, logging and saving are not "
    "included",
    "network: every link of the axes that a group spans carries its share; axes that are not rings "
    "run at half the speed; latency is not counted",
    "rows: of a microbatch (training; double rows for pairs), of a batch (judging), or lanes "
    "(writing: a step writes one token in each, with full caches)",
)
