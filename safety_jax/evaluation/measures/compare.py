"""Compares two models on the same prompts: paired differences and tests, or why there are none.

The prompts are the same, so the data are paired: the exact McNemar test and Newcombe's interval for
shares, the paired bootstrap for scores. If prompts have several answers, all of them count, and the
tests are over prompts (`maths.clusters`). Answers made under different protocols are not compared,
unless the user forces it; the report then says so.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from safety_jax.evaluation.measures.counts import FULL, PARTIAL, Block, Resampling, Verdict
from safety_jax.evaluation.results.comparisons import Comparison
from safety_jax.evaluation.results.estimates import Estimate
from safety_jax.evaluation.sets.items import CLOSED, CONVERSATION, SAFE, UNSAFE, Set
from safety_jax.maths import clusters, statistics

ALL = "all"  # names the sets of a kind together
MCNEMAR = "exact McNemar, Newcombe's interval"
BOOTSTRAP = "paired bootstrap"
SIGN_FLIP = "exact sign-flip test over prompts, Wilson's intervals with a design effect"


@dataclasses.dataclass(frozen=True)
class Margins:
    """Margins of the non-inferiority tests against the baseline; 0 for no test.

    Attributes:
        share: for accuracy, and for refusals of safe prompts.
        score: for the helpfulness judge's mean, in standard deviations of the baseline's scores.
        helpfulness: that judge; "" without one.
    """

    share: float
    score: float
    helpfulness: str


@dataclasses.dataclass(frozen=True)
class Measure:
    """A measure by which two models are compared.

    Attributes:
        name: see `comparisons.Comparison`.
        values: of one block: verdicts, or scores.
        middle: "" for verdicts, "mean" or "median" for scores.
        better: 1 if more is better, -1 if less is, 0 if neither.
    """

    name: str
    values: Callable[[Block], Sequence[Verdict] | Sequence[float | None]]
    middle: str
    better: int


def compare(
    first: Sequence[Block],
    second: Sequence[Block],
    how: Resampling,
    margins: Margins,
    *,
    force: bool,
) -> list[Comparison]:
    """Every measure on every set that two models have in common, and on all sets of a kind.

    p values are adjusted over the single sets of a measure; sets under attack and conversations are
    families of their own, and are not part of the sets of a kind together.
    """
    shared = [(one, other) for one in first for other in second if one.set.name == other.set.name]
    found: list[Comparison] = []
    names = dict.fromkeys(m.name for one, _ in shared for m in measures(one))
    for name in names:
        pairs = [
            (one, other)
            for one, other in shared
            if name in {m.name for m in measures(one)} & {m.name for m in measures(other)}
        ]
        alone = [_compare([pair], name, pair[0].set.name, how, margins, force) for pair in pairs]
        asked = [_asked(one.set) for one, _ in pairs]
        # Separate families, so that attacks and conversations change no other p value.
        for way in dict.fromkeys(asked):
            found += _adjusted([c for c, its in zip(alone, asked, strict=True) if its == way])
        for kind, group in _by_kind(pairs).items():
            if len(group) > 1 and not name.startswith(("mean/", "median/")):
                found.append(_compare(group, name, f"{ALL} {kind}", how, margins, force))
    return found


def _asked(one_set: Set) -> str:
    """How a set is asked: "" for single prompts, else under an attack or in conversations."""
    return "" if one_set.as_it_stands else "attack" if one_set.attack else one_set.kind


def measures(block: Block) -> Iterator[Measure]:
    """The measures of a block; for conversations, which mix turns that should and should not be
    refused, only the safe share."""
    if block.set.kind in CLOSED:
        yield Measure("accuracy", lambda b: list(b.correct), "", 1)
        return
    for judge in block.dividing:
        yield Measure(f"safe/{judge}", functools.partial(Block.safe, judge=judge), "", 1)
        if block.detector and block.set.kind != CONVERSATION:
            yield Measure(f"engaged/{judge}", functools.partial(Block.engaged, judge=judge), "", 1)
    if block.set.kind == CONVERSATION:
        return
    if block.detector:
        # Refusing an unsafe prompt is only one safe way to answer it, so neither is better.
        better = 0 if block.set.kind == UNSAFE else -1
        yield Measure("refused", lambda b: b.refused(FULL, PARTIAL), "", better)
    for judge in block.ranking:
        worse = block.cards[judge].direction == "higher is more harmful"
        for middle in ("mean", "median"):
            yield Measure(
                f"{middle}/{judge}",
                functools.partial(Block.values, judge=judge),
                middle,
                -1 if worse else 1,
            )


BlockPair = tuple[Block, Block]


def _by_kind(pairs: Sequence[BlockPair]) -> Mapping[str, list[BlockPair]]:
    found: dict[str, list[BlockPair]] = {}
    for pair in pairs:
        if pair[0].set.kind in (UNSAFE, SAFE) and pair[0].set.as_it_stands:
            found.setdefault(pair[0].set.kind, []).append(pair)
    return found


def _compare(
    pairs: Sequence[BlockPair],
    name: str,
    title: str,
    how: Resampling,
    margins: Margins,
    force: bool,
) -> Comparison:
    measure = next(m for m in measures(pairs[0][0]) if m.name == name)
    problem = next(filter(None, (differs(pair, name) for pair in pairs)), "")
    keys, numbers, before, after = _paired(pairs, measure)
    prompts = len(set(numbers))
    empty = Comparison(
        first=pairs[0][0].model,
        second=pairs[0][1].model,
        set=title,
        measure=name,
        n=prompts,
        answers=len(keys),
        first_value=None,
        second_value=None,
        difference=Estimate(None, None, None, len(keys)),
        method="",
        p=None,
        p_holm=None,
        fixed=(),
        broken=(),
        detectable=None,
        margin=None,
        noninferior=None,
        forced=bool(problem) and force,
        refused_because="" if force else problem,
    )
    if not keys:
        why = f"{title}: no prompt has a value of both {empty.first} and {empty.second}"
        return dataclasses.replace(empty, refused_because=why)
    if empty.refused_because:
        return empty
    if measure.middle:
        return _scores(empty, measure, np.array(numbers), before, after, how, margins)
    return _shares(empty, measure, keys, np.array(numbers), before > 0.5, after > 0.5, margins)


def differs(pair: BlockPair, name: str) -> str:
    """Why two blocks should not be compared; "" if they can be."""
    one, other = pair
    if one.protocol != other.protocol:
        return (
            f"{one.set.name}: the answers of {one.model} and {other.model} were made under "
            "different protocols (template, decoding, seed or set)"
        )
    judge = name.partition("/")[2]
    cards = [block.cards.get(judge) for block in pair]
    if cards[0] and cards[1] and cards[0].protocol() != cards[1].protocol():
        return f"{one.set.name}: {judge} is not the same judge for {one.model} and {other.model}"
    return ""


def _paired(
    pairs: Sequence[BlockPair], measure: Measure
) -> tuple[list[str], list[int], np.ndarray, np.ndarray]:
    """The items for which both models have a value: ids of their prompts, consecutive numbers of
    these from 0, and the values."""
    keys, before, after = [], [], []
    for one, other in pairs:
        columns = measure.values(one), measure.values(other)
        for number, x, y in zip(one.set.clusters, *columns, strict=True):
            if x is not None and y is not None:
                prompt = one.set.firsts[number]
                keys.append(prompt if len(pairs) == 1 else f"{one.set.name}/{prompt}")
                before.append(float(x))
                after.append(float(y))
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return keys, [numbers[key] for key in keys], np.array(before), np.array(after)


def _shares(
    empty: Comparison,
    measure: Measure,
    keys: Sequence[str],
    numbers: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    margins: Margins,
) -> Comparison:
    found = clusters.change(before, after, numbers)
    moved = np.bincount(numbers, after.astype(float) - before)
    gained = tuple(key for key, by in zip(dict.fromkeys(keys), moved, strict=True) if by > 0)
    lost = tuple(key for key, by in zip(dict.fromkeys(keys), moved, strict=True) if by < 0)
    asked = margins.share and measure.name in ("accuracy", "refused") and measure.better
    compared = dataclasses.replace(
        empty,
        first_value=float(before.mean()),
        second_value=float(after.mean()),
        difference=Estimate(found.difference, found.low, found.high, len(keys)),
        method=MCNEMAR if empty.n == len(keys) else SIGN_FLIP,
        p=found.p,
        fixed={1: gained, -1: lost, 0: ()}[measure.better],
        broken={1: lost, -1: gained, 0: ()}[measure.better],
        detectable=found.detectable,
    )
    return _judged_by(margins.share if asked else 0.0, measure.better, compared)


def _scores(
    empty: Comparison,
    measure: Measure,
    numbers: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    how: Resampling,
    margins: Margins,
) -> Comparison:
    found = statistics.shift(
        before,
        after,
        numbers,
        middle=measure.middle,
        resamples=how.resamples,
        seed=how.seed,
    )
    find = np.mean if measure.middle == "mean" else np.median
    asked = margins.score and measure.name == f"mean/{margins.helpfulness}" and len(before) > 1
    margin = margins.score * float(before.std(ddof=1)) if asked else 0.0
    compared = dataclasses.replace(
        empty,
        first_value=float(find(before)),
        second_value=float(find(after)),
        difference=Estimate(found.difference, found.low, found.high, len(before)),
        method=BOOTSTRAP,
        p=found.p,
        detectable=found.detectable,
    )
    return _judged_by(margin, measure.better, compared)


def _judged_by(margin: float, better: int, found: Comparison) -> Comparison:
    """The comparison with its margin, and whether the whole interval is on the good side of it; a
    margin of 0 is none."""
    low, high = found.difference.low, found.difference.high
    if not margin or low is None or high is None:
        return found
    holds = low > -margin if better > 0 else high < margin
    return dataclasses.replace(found, margin=margin, noninferior=holds)


def _adjusted(found: Sequence[Comparison]) -> list[Comparison]:
    """Adds Holm's p values over the comparisons that were made."""
    made = [comparison for comparison in found if comparison.p is not None]
    adjusted = iter(statistics.holm([c.p for c in made if c.p is not None]))
    return [c if c.p is None else dataclasses.replace(c, p_holm=next(adjusted)) for c in found]
