"""Mixes sources in chosen proportions, and holds out rows for validation."""

import dataclasses
import itertools
import math
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

import numpy as np

from safety_jax.base import terminal
from safety_jax.base.errors import ConfigError
from safety_jax.data.records import Labelled, Pair, Rated, Record
from safety_jax.data.shuffling import permutation
from safety_jax.data.sources import Skipped, Source

R = TypeVar("R", Record, Pair, Rated, Labelled)


@dataclasses.dataclass(frozen=True)
class Share:
    """The part of one source in a mix.

    Attributes:
        source: its name.
        spec: the text it was opened from.
        available: number of usable rows in the source.
        skipped: number of rows left out as unusable, or as not to be learned.
        used: number of rows in the mix, a repeated one counting as often as it is in it.
        share: `used` divided by the rows of the whole mix.
        times: how often each row counts, see `mix`.
        unwanted: number of rows that are not to be learned, by reason.
    """

    source: str
    spec: str
    available: int
    skipped: int
    used: int
    share: float
    times: int = 1
    unwanted: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Mixture(Generic[R]):
    """Mixed rows, source after source, each in the source's order; and the share of each source."""

    records: list[R]
    shares: list[Share]

    def __str__(self) -> str:
        """A line for each source, for people."""
        width = max(len(share.source) for share in self.shares)
        lines: list[str] = [
            f"{share.source:<{width}}  {share.used:>9,} of {share.available:,} rows"
            f"  {share.share:7.2%}"
            + (f"  (each counts {share.times} times)" if share.times > 1 else "")
            + (f"  ({share.skipped} skipped)" if share.skipped else "")
            for share in self.shares
        ]
        lines.append(f"{'total':<{width}}  {len(self.records):>9,}")
        lines += [
            f"{share.source}: {count:,} rows are not learned: {why}"
            for share in self.shares
            for why, count in share.unwanted.items()
        ]
        return terminal.clean("\n".join(lines), keep="\n")


def mix(sources: Sequence[Source], *, read: Callable[[Source], list[R]], seed: int) -> Mixture[R]:
    """Draws rows of every source, without repetition, in the requested proportions.

    `rows=` acts first: it draws that many rows, and the source then counts as that large; with
    `times=N` as N times as large, and its rows may be repeated that often. Then, if
      - no source has a weight: every row is used;
      - all have one: weights count relative to their sum, and the mix is the largest one that
        keeps the proportions and repeats no row more often than `times=` says;
      - some have one: those without give all their rows, and a weight is the share of the whole
        mix, so weights must sum to less than 1. `alpaca?rows=20000` and `safety?weight=0.1` give
        20,000 and 2,222 rows.
    A smaller draw is a subset of a larger one with the same seed and source name, so runs with 100,
    500 and 2,000 safety rows differ only in the added rows.

    Args:
        read: `records.read_records` or another reader of records.

    Raises:
        ConfigError: more rows asked for than there are, or two sources of one name.
        DataError: what `read` raises.
    """
    names = [source.name for source in sources]
    for source in sources:
        if names.count(source.name) > 1:
            raise ConfigError(
                f"two sources are named {source.name!r}; add name=... to {source.spec}"
            )
    before = [len(source.left_out) for source in sources]
    pools = [read(source) for source in sources]
    skipped = [source.left_out[start:] for source, start in zip(sources, before, strict=True)]
    for source, pool in zip(sources, pools, strict=True):
        if source.take is not None and source.take > len(pool):
            raise ConfigError(
                f"{source.spec}: {source.take} rows asked for; expected at most the {len(pool)} "
                "usable ones, lower rows="
            )
    sizes = [
        len(pool) if source.take is None else source.take
        for source, pool in zip(sources, pools, strict=True)
    ]
    repeated = [size * source.times for source, size in zip(sources, sizes, strict=True)]
    counts = _counts(sources, repeated)
    records: list[R] = []
    for source, pool, size, count in zip(sources, pools, sizes, counts, strict=True):
        order = permutation(len(pool), seed=seed, stream=zlib.crc32(source.name.encode()))
        drawn = np.resize(order[:size], count)  # from its start again, where `times=` repeats rows
        records.extend(pool[i] for i in np.sort(drawn))
    shares = [
        Share(
            source.name,
            source.spec,
            available=len(pool),
            skipped=len(left_out),
            used=count,
            share=count / len(records),
            times=source.times,
            unwanted=_reasons(left_out),
        )
        for source, pool, count, left_out in zip(sources, pools, counts, skipped, strict=True)
    ]
    return Mixture(records, shares)


_REASONS = 5  # the most frequent ones are listed, the others summed


def _reasons(left_out: Sequence[Skipped]) -> dict[str, int]:
    counts = Counter(row.why for row in left_out if row.unwanted)
    found = dict(counts.most_common(_REASONS))
    if rest := counts.total() - sum(found.values()):
        found["other reasons"] = rest
    return found


def _counts(sources: Sequence[Source], sizes: Sequence[int]) -> list[int]:
    """How many rows to use of each source, from their sizes and weights."""
    weights = [source.weight for source in sources]
    total_weight = math.fsum(weight for weight in weights if weight is not None)
    if total_weight == 0:
        return list(sizes)
    if None not in weights:
        shares = [(weight or 0.0) / total_weight for weight in weights]
        rows = min(size / share for size, share in zip(sizes, shares, strict=True))
        # `min`, because rounding might raise a count above its source's size.
        return [
            max(1, min(size, round(rows * share)))
            for size, share in zip(sizes, shares, strict=True)
        ]
    if total_weight >= 1:
        raise ConfigError(
            f"weights sum to {total_weight:g} beside a source without a weight; expected less "
            "than 1, since a weight is then a share of the whole mix"
        )
    fixed = sum(size for size, weight in zip(sizes, weights, strict=True) if weight is None)
    rows = fixed / (1 - total_weight)
    counts = [
        size if weight is None else max(1, round(rows * weight))
        for size, weight in zip(sizes, weights, strict=True)
    ]
    for source, size, count in zip(sources, sizes, counts, strict=True):
        if count > size:
            raise ConfigError(
                f"{source.spec}: a weight of {source.weight:g} takes {count} rows; expected at "
                f"most the {size} there are, lower the weight or give the other sources rows="
            )
    return counts


def evenly(rows: Sequence[Record], count: int, *, seed: int) -> list[Record]:
    """Chooses rows evenly over kinds of harm: in rounds, each of which takes the next row of each
    kind. The seed determines the order of kinds and rows; a smaller choice is part of a larger one.

    Four rows of `a a a b b c` are one each of a, b and c, and a second of one kind.

    Raises:
        ConfigError: there are fewer rows than `count`.
    """
    if count > len(rows):
        raise ConfigError(f"{count} rows asked for of {len(rows)}; expected no more than there are")
    kinds: dict[tuple[str, ...], list[Record]] = {}
    for i in permutation(len(rows), seed=seed, stream=_EVENLY_STREAM):
        kinds.setdefault(rows[i].categories, []).append(rows[i])
    rounds = itertools.zip_longest(*kinds.values())
    found = [row for round_ in rounds for row in round_ if row is not None]
    return found[:count]


def split(records: Sequence[R], *, rows: int, seed: int) -> tuple[list[R], list[R]]:
    """Holds out `rows` rows for validation; no prompt is on both sides.

    Rows with the same prompt (regardless of case and spacing) stay together. If such groups do not
    add up to `rows`, validation gets a few rows fewer. A row that `times=` repeats counts once
    there.

    Returns:
        Training rows and validation rows, each in the given order.

    Raises:
        ConfigError: nothing would be left to train on, or to validate on.
    """
    distinct = list({id(record): record for record in records}.values())
    if rows >= len(distinct):
        raise ConfigError(
            f"data.eval_rows is {rows}, but there are {len(distinct)} rows in all; expected "
            "fewer: lower it, or name other rows in data.eval"
        )
    groups: dict[str, list[R]] = {}
    for record in distinct:
        groups.setdefault(prompt_key(record), []).append(record)
    members = list(groups.values())
    validation: set[int] = set()
    for g in permutation(len(members), seed=seed, stream=_SPLIT_STREAM):
        if len(validation) + len(members[g]) <= rows:
            validation.update(map(id, members[g]))
    if rows and not validation:
        raise ConfigError(
            f"data.eval_rows is {rows}, but each prompt has more rows than that, at least "
            f"{min(map(len, members))}, and they stay together; expected as many, or other rows to "
            "validate on in data.eval"
        )
    return (
        [record for record in records if id(record) not in validation],
        [record for record in distinct if id(record) in validation],
    )


# Beyond 32 bits, which the name hashes have that `mix` uses as streams.
_SPLIT_STREAM, _EVENLY_STREAM = 1 << 32, (1 << 32) + 1


def prompt_key(record: Record | Pair | Rated | Labelled) -> str:
    """A row's prompt without its last answer, regardless of case and spacing."""
    messages = record.messages if isinstance(record, Record) else record.prompt
    if messages[-1].role == "assistant":
        messages = messages[:-1]
    text = "\n".join([record.context, *(message.content for message in messages)])
    return " ".join(text.casefold().split())


def describe_repeated(rows: Sequence[R]) -> list[str]:
    """A warning about rows that repeat the prompt and the answer of an earlier row of any source;
    empty if there are none, other than those that `times=` repeats."""
    first: dict[int, R] = {}  # hashes, because the texts would take as much memory as the data
    repeated = []
    for row in rows:
        before = first.setdefault(hash((prompt_key(row), _answers(row))), row)
        if before is not row:
            repeated.append((row.where, before.where))
    if not repeated:
        return []
    where, earlier = repeated[0]
    return [
        f"warning: {len(repeated):,} of {len(rows):,} rows repeat prompt and answer of another "
        f"row: {where} those of {earlier}"
    ]


def _answers(row: Record | Pair | Rated | Labelled) -> tuple[str, ...]:
    if isinstance(row, Record):
        turns = row.messages[-1:]
    else:
        turns = row.chosen + row.rejected if isinstance(row, Pair) else row.answer
    return tuple(message.content for message in turns)
