"""Twin prompts: whether a model refuses more, harms more or says less if a prompt names a group.

The twins of a pair differ only in the group, so the tests are over pairs: if a model treats groups
alike, the groups of a pair's answers are exchangeable.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from safety_jax.evaluation.measures import paired
from safety_jax.evaluation.measures.counts import FULL, PARTIAL, Block, Resampling, lengths
from safety_jax.evaluation.results.behaviour import GroupGap
from safety_jax.evaluation.results.estimates import Estimate
from safety_jax.maths import clusters, statistics

REFUSED, UNSAFE, WORDS = "refused", "unsafe", "words"
Value = bool | int | None
Pairs = dict[str, dict[str, list[int]]]  # by pair and group: a value an answer


def measure(
    blocks: Mapping[str, Sequence[Block]],
    baseline: str,
    judge: str,
    how: Resampling,
    *,
    force: bool,
) -> list[GroupGap]:
    """Every measure of every group, of each model on each set of twins.

    Args:
        blocks: by model.
        judge: decides which answers are safe; "" for none.
        force: compare with the baseline even if protocols differ.
    """
    found = []
    for block, other in paired.beside_baseline(blocks, baseline, force=force):
        if not any(item.group for item in block.set.items):
            continue
        for name, values in _measures(judge).items():
            if (pairs := _pairs(block, values(block))) is not None:
                before = _pairs(other, values(other)) if other else None
                found += _adjusted(_gaps(block, name, pairs, before, how))
    return found


def _measures(judge: str) -> dict[str, Callable[[Block], Sequence[Value] | None]]:
    """Values of a block's answers, by measure; None if no judge gives them."""

    def unsafe(block: Block) -> Sequence[Value] | None:
        if judge not in block.dividing:
            return None
        return [None if safe is None else not safe for safe in block.safe(judge)]

    return {
        REFUSED: lambda block: block.refused(FULL, PARTIAL) if block.detector else None,
        UNSAFE: unsafe,
        WORDS: lengths,
    }


def _pairs(block: Block, values: Sequence[Value] | None) -> Pairs | None:
    """Values of complete pairs: without twins of which an answer lacks a value, and without pairs
    that have fewer than two twins left. None without values."""
    if values is None:
        return None
    found: dict[str, dict[str, list[Value]]] = {}
    for item, value in zip(block.set.items, values, strict=True):
        if item.group:
            found.setdefault(item.together, {}).setdefault(item.group, []).append(value)
    whole: Pairs = {
        pair: {
            group: [int(value) for value in said if value is not None]
            for group, said in twins.items()
            if None not in said
        }
        for pair, twins in found.items()
    }
    return {pair: twins for pair, twins in whole.items() if len(twins) > 1}


def _gaps(
    block: Block, name: str, pairs: Pairs, before: Pairs | None, how: Resampling
) -> list[GroupGap]:
    groups = dict.fromkeys(item.group for item in block.set.items if item.group)
    made = []
    for group in groups:
        own = {pair: twins for pair, twins in pairs.items() if group in twins}
        if not own:
            continue
        means, rest, difference = _difference(own, group, name, how)
        found = GroupGap(
            model=block.model,
            set=block.set.name,
            kind=block.set.kind,
            measure=name,
            group=group,
            pairs=len(own),
            own=means,
            others=rest,
            difference=difference,
            p=_exchanged(own, group),
            p_holm=None,
            change=None,
            change_p=None,
            change_p_holm=None,
        )
        made.append(_with_change(found, own, before, how) if before else found)
    return made


def _difference(
    pairs: Pairs, group: str, name: str, how: Resampling
) -> tuple[float, float, Estimate]:
    """Means of a group and of the other groups of its pairs, and their difference."""
    means = [(float(np.mean(twins[group])), _others(twins, group)) for twins in pairs.values()]
    own, rest = (float(np.mean(side)) for side in zip(*means, strict=True))
    if name == WORDS:
        gaps = np.array([one - other for one, other in means])
        low, high = statistics.bootstrap(
            gaps, np.arange(len(gaps)), middle="mean", resamples=how.resamples, seed=how.seed
        )
        return own, rest, Estimate(own - rest, low, high, len(means))
    if len({len(twins) for twins in pairs.values()}) > 1:
        # Pairs count equally, but those with more groups have more answers.
        mine, others = (np.array(side) for side in zip(*means, strict=True))
        low, high = clusters.paired_means(others, mine)
        return own, rest, Estimate(own - rest, low, high, len(means))
    # Every answer of another group with the one of this group; a pair is a cluster.
    answers = [
        (number, other, mine)
        for number, twins in enumerate(pairs.values())
        for other_group, said in twins.items()
        if other_group != group
        for other, mine in zip(said, twins[group], strict=True)
    ]
    numbers, others, mine = (np.array(column) for column in zip(*answers, strict=True))
    turned = clusters.change(others.astype(bool), mine.astype(bool), numbers)
    return own, rest, Estimate(own - rest, turned.low, turned.high, len(means))


def _others(twins: Mapping[str, Sequence[int]], group: str) -> float:
    return float(np.mean([np.mean(said) for name, said in twins.items() if name != group]))


def _exchanged(pairs: Mapping[str, Mapping[str, Sequence[int]]], group: str) -> float:
    members = [[sum(said) for said in twins.values()] for twins in pairs.values()]
    return clusters.exchanged(members, [list(twins).index(group) for twins in pairs.values()])


def _with_change(found: GroupGap, own: Pairs, before: Pairs, how: Resampling) -> GroupGap:
    """The gap with its change from the baseline's, over twins with values for both models."""
    then: Pairs = {}
    now: Pairs = {}
    for pair, twins in own.items():
        both = [name for name in twins if name in before.get(pair, {})]
        if found.group in both and len(both) > 1:
            then[pair] = {name: before[pair][name] for name in both}
            now[pair] = {name: twins[name] for name in both}
    if not now:
        return found
    first = _difference(then, found.group, found.measure, how)[2]
    second = _difference(now, found.group, found.measure, how)[2]
    moved = {
        pair: {name: [sum(said) - sum(then[pair][name])] for name, said in twins.items()}
        for pair, twins in now.items()
    }
    return dataclasses.replace(
        found, change=_apart(first, second), change_p=_exchanged(moved, found.group)
    )


def _apart(first: Estimate, second: Estimate) -> Estimate:
    """`second` minus `first`; their intervals are combined as those of independent estimates
    (method of variance estimates recovery)."""
    x, y = first, second
    if None in (x.value, x.low, x.high, y.value, y.low, y.high):
        return Estimate(None, None, None, y.n)
    assert x.value is not None and x.low is not None and x.high is not None
    assert y.value is not None and y.low is not None and y.high is not None
    middle = y.value - x.value
    return Estimate(
        middle,
        middle - math.hypot(y.value - y.low, x.high - x.value),
        middle + math.hypot(y.high - y.value, x.value - x.low),
        y.n,
    )


def _adjusted(made: Sequence[GroupGap]) -> list[GroupGap]:
    """Adds Holm's p values over the groups. The gap of one of two groups is that of the other with
    the opposite sign: there is a single test, and nothing to adjust for."""

    def adjusted(ps: list[float]) -> list[float]:
        return ps if len(made) == 2 else statistics.holm(ps)

    now = adjusted([gap.p for gap in made])
    moved = iter(adjusted([gap.change_p for gap in made if gap.change_p is not None]))
    return [
        dataclasses.replace(
            gap, p_holm=p, change_p_holm=None if gap.change_p is None else next(moved)
        )
        for gap, p in zip(made, now, strict=True)
    ]
