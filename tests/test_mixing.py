"""Mixes have the asked counts and shares, repeat only what they are told to, and grow without
changing."""

import dataclasses
from collections import Counter

import pytest

from safety_jax.base.errors import ConfigError
from safety_jax.data.messages import Message
from safety_jax.data.mixing import describe_repeated, evenly, mix, split
from safety_jax.data.records import Pair, Record, read_pairs, read_records
from safety_jax.data.sources import Source


def source(name, size, take=None, weight=None, bad=0):
    rows = [{"prompt": f"{name} {i}", "completion": "x"} for i in range(size)]
    rows += [{"prompt": "", "completion": "x"}] * bad
    where = [f"{name} row {i}" for i in range(len(rows))]
    return Source(f"{name}.json", name, rows, where, take, weight, None, {}, bad > 0)


def counts(*sources, seed=0):
    mixture = mix(sources, read=read_records, seed=seed)
    rows = [record.where for record in mixture.records]
    assert len(set(rows)) == len(rows) == sum(share.used for share in mixture.shares)
    for share in mixture.shares:
        found = sum(record.source == share.source for record in mixture.records)
        assert share.used == found and share.share == found / len(rows)
    return [share.used for share in mixture.shares]


def test_all_rows_or_as_many_as_asked():
    assert counts(source("a", 20), source("b", 10)) == [20, 10]
    assert counts(source("a", 20, take=7), source("b", 10, take=10)) == [7, 10]
    with pytest.raises(ConfigError, match="11 rows asked for; expected at most the 10"):
        counts(source("b", 10, take=11))


def test_weights_alone_are_relative_and_nothing_repeats():
    # b is used up at 30 of 40, so a gives 10.
    assert counts(source("a", 100, weight=1.0), source("b", 30, weight=3.0)) == [10, 30]
    assert counts(source("a", 100, weight=0.9), source("b", 30, weight=0.1)) == [100, 11]
    assert counts(source("a", 100, weight=5.0)) == [100]
    # rows= limits first.
    assert counts(source("a", 100, take=6, weight=1.0), source("b", 30, weight=3.0)) == [6, 18]


def test_weight_beside_whole_sources_is_a_share_of_the_mix():
    assert counts(source("a", 900), source("b", 200, weight=0.1)) == [900, 100]
    assert counts(source("a", 900, take=90), source("b", 200, weight=0.1)) == [90, 10]
    shared = [source("b", 50, weight=0.25), source("c", 50, weight=0.25)]
    assert counts(source("a", 80, take=20), *shared) == [20, 10, 10]
    with pytest.raises(ConfigError, match="weight of 0.5 takes 900 rows; expected at most the 200"):
        counts(source("a", 900), source("b", 200, weight=0.5))
    with pytest.raises(ConfigError, match="weights sum to 1.5"):
        counts(source("a", 900), source("b", 200, weight=1.5))


def test_draws_depend_on_seed_and_name_and_grow():
    def drawn(take, seed=0, others=()):
        mixture = mix([*others, source("b", 50, take=take)], read=read_records, seed=seed)
        return {record.where for record in mixture.records if record.source == "b"}

    assert drawn(5) < drawn(20) < drawn(50)
    assert drawn(20) == drawn(20, others=[source("a", 3)])
    assert drawn(20) != drawn(20, seed=1)
    mixture = mix([source("b", 50, take=20), source("c", 50, take=20)], read=read_records, seed=0)
    places = [record.where.split()[-1] for record in mixture.records]
    assert set(places[:20]) != set(places[20:])


def test_rows_spread_over_kinds_of_harm():
    """Of 6 a, 2 b and 1 c: all kinds first, then what is left; a smaller choice begins a larger."""
    given = source("x", 9)
    kinds = "aaaaaabbc"
    given.rows[:] = [row | {"category": kind} for row, kind in zip(given.rows, kinds, strict=True)]
    rows = read_records(given)
    assert [row.categories for row in rows] == [(kind,) for kind in kinds]
    found = evenly(rows, 9, seed=1)
    for count, expected in ((3, "abc"), (5, "aabbc"), (9, "aaaaaabbc")):
        chosen = evenly(rows, count, seed=1)
        assert chosen == found[:count]
        assert "".join(sorted(row.categories[0] for row in chosen)) == expected
    assert {row.where for row in found} == {row.where for row in rows}
    assert evenly(rows, 9, seed=2) != found
    with pytest.raises(ConfigError, match="10 rows asked for of 9"):
        evenly(rows, 10, seed=1)


def test_unusable_rows_are_counted():
    (share,) = mix([source("a", 5, bad=2)], read=read_records, seed=0).shares
    assert (share.available, share.skipped, share.used) == (5, 2, 5)


def test_two_sources_of_one_name():
    with pytest.raises(ConfigError, match="two sources are named 'a'; add name="):
        counts(source("a", 5), source("a", 5))


def test_negative_seed():
    with pytest.raises(ConfigError, match="seed is -1"):
        counts(source("a", 5), seed=-1)


def test_table_for_people():
    text = str(mix([source("alpaca", 19), source("b", 9, take=1)], read=read_records, seed=0))
    assert text.splitlines() == [
        "alpaca         19 of 19 rows   95.00%",
        "b               1 of 9 rows    5.00%",
        "total          20",
    ]


def test_pairs_mix_too():
    rows = [{"prompt": f"{i}", "chosen": "x", "rejected": "y"} for i in range(4)]
    pairs = Source("p", "p", rows, ["?"] * 4, 3, None, None, {}, False)
    records = mix([pairs], read=read_pairs, seed=0).records
    assert len(records) == 3 and all(isinstance(record, Pair) for record in records)


def record(text, where, context=""):
    return Record((Message("user", text), Message("assistant", where)), context, "a", where)


def test_rows_that_repeat_others_are_told():
    """Another answer, or another question, is another row."""
    said = [Message("user", "Name a bird."), Message("assistant", "A robin.")]
    first = Record(tuple(said), "", "a", "a row 0")
    again = Record((Message("user", " name  a bird."), said[1]), "", "b", "b row 3")
    other = Record((said[0], Message("assistant", "A wren.")), "", "b", "b row 4")
    (line,) = describe_repeated([first, other, again])
    assert (
        line.startswith("warning: 1 of 3 rows repeat prompt") and "b row 3 those of a row" in line
    )
    pair = Pair((said[0],), (said[1],), other.messages[1:], "", "a", "a row 1")
    assert not describe_repeated([first, other]) and not describe_repeated([pair, pair.swapped])
    assert len(describe_repeated([pair, dataclasses.replace(pair)])) == 1


def often(times, name="b", size=10, **options):
    return dataclasses.replace(source(name, size, **options), times=times)


def test_rows_that_count_several_times():
    """Like rows that are there several times, but not told as repeated, and held out once."""
    mixture = mix([source("a", 20), often(3)], read=read_records, seed=0)
    assert [share.used for share in mixture.shares] == [20, 30]
    assert Counter(Counter(row.where for row in mixture.records).values()) == {1: 20, 3: 10}
    assert mixture.shares[1].share == 0.6 and describe_repeated(mixture.records) == []
    assert "30 of 10 rows   60.00%  (each counts 3 times)" in str(mixture)

    # rows= acts first; a weight then draws from three times as many.
    drawn = mix([often(2, take=4)], read=read_records, seed=0).records
    assert sorted(Counter(row.where for row in drawn).values()) == [2, 2, 2, 2]
    parts = [source("a", 15), often(3, weight=0.625)]
    drawn = mix(parts, read=read_records, seed=0).records[15:]
    assert sorted(Counter(row.where for row in drawn).values()) == [2] * 5 + [3] * 5
    with pytest.raises(ConfigError, match="takes 60 rows; expected at most the 30 there are"):
        mix([source("a", 15), often(3, weight=0.8)], read=read_records, seed=0)

    training, held_out = split(mixture.records, rows=8, seed=0)
    assert len({row.where for row in held_out}) == len(held_out) == 8
    repeated = sum(row.source == "b" for row in held_out)
    assert 0 < repeated < 8 and len(training) == 50 - 8 - 2 * repeated
    assert not {row.where for row in training} & {row.where for row in held_out}
    with pytest.raises(ConfigError, match="there are 30 rows in all"):
        split(mixture.records, rows=30, seed=0)


def test_split_keeps_equal_prompts_together():
    # 40 prompts, each four times in different spelling.
    spellings = ("Ask {}", "ask  {}", "ASK {}\n", " ask {}")
    records = [
        record(spelling.format(i), f"{i} {k}")
        for k, spelling in enumerate(spellings)
        for i in range(40)
    ]
    train, validation = split(records, rows=42, seed=0)
    assert len(validation) == 40  # the largest number of whole groups of four
    assert sorted(row.where for row in train + validation) == sorted(r.where for r in records)
    prompts = [{row.where.split()[0] for row in side} for side in (train, validation)]
    assert not prompts[0] & prompts[1]
    assert split(records, rows=42, seed=0) == (train, validation)
    assert split(records, rows=42, seed=1) != (train, validation)


def test_split_tells_contexts_apart_and_is_exact_without_repeats():
    records = [record("Summarise", str(i), context=f"text {i}") for i in range(30)]
    train, validation = split(records, rows=7, seed=3)
    assert (len(train), len(validation)) == (23, 7)
    assert [row for row in records if row in train] == train
    with pytest.raises(ConfigError, match="data.eval_rows is 30, but there are 30 rows in all"):
        split(records, rows=30, seed=0)


def test_split_says_when_it_finds_nothing_to_validate_on():
    records = [record("Ask", str(i)) for i in range(5)] + [record("Tell", str(i)) for i in range(4)]
    with pytest.raises(ConfigError, match="data.eval_rows is 3, .* at least 4"):
        split(records, rows=3, seed=0)
