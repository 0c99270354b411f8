"""Verdicts on the same prompts, before and after."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from safety_jax.evaluation.measures.counts import Block, Verdict
from safety_jax.evaluation.results.estimates import Estimate, PairedChange
from safety_jax.maths import clusters, statistics

Key = tuple[str, str]  # a set and an item of it, or what else names a verdict
Found = Mapping[Key, Verdict]


def beside_baseline(
    blocks: Mapping[str, Sequence[Block]], baseline: str, *, force: bool
) -> Iterator[tuple[Block, Block | None]]:
    """Every block with the baseline's of the same set; None beside the baseline's own, and where
    protocols differ.

    Args:
        blocks: by model.
        force: give also blocks whose answers were made under another protocol.
    """
    of_set = {block.set.name: block for block in blocks[baseline]}
    for model, own in blocks.items():
        for block in own:
            other = of_set.get(block.set.name) if model != baseline else None
            comparable = other is not None and (force or other.protocol == block.protocol)
            yield block, other if comparable else None


def numbered(names: Sequence[Key]) -> np.ndarray:
    """A number for each name, from 0 without gaps."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names], int)


def change(first: Found, second: Found, of: Mapping[Key, Key]) -> PairedChange | None:
    """Verdicts on what both have one for; None where there is none.

    Args:
        of: what each belongs to, such as its prompt.
    """
    known = {
        key: (bool(x), bool(y))
        for key, y in second.items()
        if y is not None and (x := first.get(key)) is not None
    }
    if not known:
        return None
    before, after = (np.array(side) for side in zip(*known.values(), strict=True))
    numbers = numbered([of[key] for key in known])
    turned = clusters.change(before, after, numbers)
    count = int(numbers.max()) + 1
    return PairedChange(
        n=count,
        difference=Estimate(turned.difference, turned.low, turned.high, count),
        gained=turned.gained,
        lost=turned.lost,
        p=turned.p,
        p_holm=None,
        detectable=turned.detectable,
    )


def adjusted(made: Mapping[str, PairedChange]) -> dict[str, PairedChange]:
    """With Holm's p values over all of them."""
    values = statistics.holm([change.p for change in made.values()])
    return {
        name: dataclasses.replace(change, p_holm=p)
        for (name, change), p in zip(made.items(), values, strict=True)
    }
