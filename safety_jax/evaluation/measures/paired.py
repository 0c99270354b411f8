"""Verdicts on the same prompts, before and after."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from safety_jax.evaluation.measures.counts import Block, Verdict
from safety_jax.evaluation.results.estimates import Estimate, PairedChange
from safety_jax.evaluation.sets.items import Item, Set
from safety_jax.maths import clusters, statistics

Key = tuple[str, str]  # a set and an item of it, or another name of a verdict
Found = Mapping[Key, Verdict]


def beside_baseline(
    blocks: Mapping[str, Sequence[Block]], baseline: str, *, force: bool
) -> Iterator[tuple[Block, Block | None]]:
    """Every block with the baseline's block of the same set; None for the baseline itself, and if
    protocols differ.

    Args:
        blocks: by model.
        force: pair blocks of different protocols, too.
    """
    by_set = {block.set.name: block for block in blocks[baseline]}
    for model, own in blocks.items():
        for block in own:
            other = by_set.get(block.set.name) if model != baseline else None
            comparable = other is not None and (force or other.protocol == block.protocol)
            yield block, other if comparable else None


def numbered(names: Sequence[Key]) -> np.ndarray:
    """Consecutive numbers of names, from 0."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names], int)


def requests(blocks: Sequence[Block]) -> dict[str, list[Key]]:
    """By set, the cluster of each item over all sets of the blocks: a request asked plainly, under
    attacks and in conversations is one cluster, because judges read the same request each time."""
    sets = {block.set.name: block.set for block in blocks}
    own = {
        name: [(name, one_set.firsts[number]) for number in one_set.clusters.tolist()]
        for name, one_set in sets.items()
    }
    plain = {
        (name, item.id): key
        for name, keys in own.items()
        for item, key in zip(sets[name].items, keys, strict=True)
    }

    def asked(one_set: Set, item: Item, key: Key) -> Key:
        request = item.talk.talk if item.talk else item.id
        return plain.get((one_set.plain, request), key)

    return {
        name: [asked(sets[name], *both) for both in zip(sets[name].items, keys, strict=True)]
        for name, keys in own.items()
    }


def change(first: Found, second: Found, clusters_of: Mapping[Key, Key]) -> PairedChange | None:
    """The change from `first` to `second`, over keys with a verdict in both; None if there are
    none.

    Args:
        clusters_of: the cluster of each key, such as its prompt.
    """
    known = {
        key: (bool(x), bool(y))
        for key, y in second.items()
        if y is not None and (x := first.get(key)) is not None
    }
    if not known:
        return None
    before, after = (np.array(side) for side in zip(*known.values(), strict=True))
    numbers = numbered([clusters_of[key] for key in known])
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
    """Adds Holm's p values over all of them."""
    values = statistics.holm([change.p for change in made.values()])
    return {
        name: dataclasses.replace(change, p_holm=p)
        for (name, change), p in zip(made.items(), values, strict=True)
    }
