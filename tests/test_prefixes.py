"""Prefixes that pairs share, and all rows: which, when it is worth it, how rows are laid out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import sft as sft_config
from safety_jax.data import prefixes
from safety_jax.data.examples import Counts, Examples
from safety_jax.data.loader import Loader
from safety_jax.models import attention
from safety_jax.stages import learners


def side(*rows: tuple[list[int], int]) -> Examples:
    """Examples of (ids, tokens of the prompt)."""
    ids = [np.array(ids, np.int32) for ids, _ in rows]
    masks = [np.arange(len(row)) >= prompt for row, (_, prompt) in zip(ids, rows, strict=True)]
    offsets = np.cumsum([0, *map(len, ids)])
    where = [f"row {i}" for i in range(len(rows))]
    counts, source = Counts(0, 0, {}), ["a"] * len(rows)
    return Examples(np.concatenate(ids), np.concatenate(masks), offsets, where, source, counts)


@pytest.mark.parametrize(
    ("chosen", "rejected", "common"),
    [
        (([5, 6, 7, 8, 9], 3), ([5, 6, 7, 4], 3), 2),  # 7 predicts 8, and 4
        (([5, 6, 7, 8], 3), ([5, 6, 7, 8, 9], 3), 2),  # answers that begin alike
        (([5, 6, 7, 8], 3), ([5, 7, 8], 2), 1),  # prompts that differ
        (([5, 6, 7, 8], 3), ([6, 7, 8], 2), 0),  # cut on the left
        (([5, 6, 7, 8], 3), ([5, 6, 7, 8], 2), 1),  # one answer begins sooner
        (([5, 8], 1), ([5, 9], 1), 0),  # BOS alone
    ],
)
def test_what_sides_have_in_common(chosen, rejected, common):
    other = ([1, 2, 3, 4], 3)  # a neighbour on either hand
    sides = [side(other, row, other) for row in (chosen, rejected)]
    assert prefixes.common(sides).tolist() == [2, common, 2]


def test_a_judge_keeps_a_token_that_it_reads():
    """The answer and the prompt's last token are not read (0); so the one before is kept, too."""
    sides = [side(([5, 6, 7, 0, 0], 4)), side(([5, 6, 7, 0, 9], 4))]
    assert prefixes.common(sides).tolist() == [3]
    assert prefixes.common(sides, skips=0).tolist() == [2]
    assert prefixes.common([side(([0, 0, 0], 2))] * 2, skips=0).tolist() == [0]


def pairs(prompt: int, answer: int, count: int = 4) -> list[Examples]:
    start = list(range(100, 100 + prompt))
    return [side(*[(start + [k] * answer, prompt)] * count) for k in (1, 2)]


@pytest.mark.parametrize(
    ("prompt", "answer", "changes", "row_tokens"),
    [
        (101, 50, {}, 512),  # a third of 302 tokens
        (2, 50, {}, None),  # 1 % is less than reading attention's rows twice
        (401, 100, {}, 640),  # 602 tokens are more than a row has: whole blocks
        (401, 100, {"longest_row": 640}, 640),
        (401, 100, {"longest_row": 639}, None),
        (401, 100, {"even_tokens": 200.0}, None),  # attention is most of it
    ],
)
def test_shared_where_it_saves(prompt, answer, changes, row_tokens):
    given = {"even_tokens": 50_000.0, "longest_row": None} | changes
    found = prefixes.where_it_saves(pairs(prompt, answer), 512, **given)
    assert (found and found.row_tokens) == row_tokens
    if found is not None:
        assert found.saved == pytest.approx((prompt - 1) / (2 * prompt + 2 * answer))
    assert prefixes.where_it_saves(pairs(prompt, answer)[:1], 512, **given) is None


def test_some_share_rows_as_all_do():
    """One long pair among all decides for the short ones, which keep what they have in common."""
    asked = []

    def share(sides, row_tokens):
        asked.append(row_tokens)
        given = {"even_tokens": 50_000.0, "longest_row": None}
        return prefixes.where_it_saves(sides, row_tokens, **given)

    both = zip(pairs(401, 100, 1), pairs(101, 50, 1), strict=True)
    everybody = [side(*[(list(one.ids), int((~one.mask).sum())) for one in two]) for two in both]
    shared = prefixes.as_all(share, everybody)
    found = shared(pairs(101, 50), 512)
    assert (found.row_tokens, found.tokens.tolist()) == (640, [100] * 4)
    assert found.saved == pytest.approx(100 / 302)
    assert shared(everybody, 512).tokens.tolist() == [400, 100] and asked == [512]
    separate = prefixes.as_all(prefixes.separate, everybody)
    assert separate(pairs(101, 50), 512) is None


def test_a_row_by_hand():
    """The rows of `batch.Tokens`: two pairs, the second one without anything in common."""
    sides = [side(([5, 6, 7, 8, 9], 3), ([3, 1], 1)), side(([5, 6, 7, 4], 3), ([3, 2], 1))]
    made = Loader(
        *sides, batch_size=2, row_tokens=16, rows_per_microbatch=1, packing=True, steps=None,
        seed=None, prefetch_steps=0, rows_here=[0],
        shared=prefixes.Shared(prefixes.common(sides), row_tokens=12, saved=0.0),
    )  # fmt: skip
    batch = made.batch(0)
    rows = batch.tokens
    assert rows.ids.tolist() == [[[[5, 6, 7, 8, 9, 7, 4, 3, 1, 3, 2, 0]]]]
    assert rows.positions.tolist() == [[[[0, 1, 2, 3, 4, 2, 3, 0, 1, 0, 1, 0]]]]
    assert rows.segments.tolist() == [[[[-1, -1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 0]]]]
    assert rows.prefixes.tolist() == [[[[-1, -1, -1, -1, -1, -1, -1, 3, 3, 4, 4, 0]]]]
    assert rows.mask.astype(int).tolist() == [[[[0, 0, 0, 1, 1, 0, 1, 0, 1, 0, 1, 0]]]]
    assert (batch.real_tokens, batch.trained_tokens, made.most_segments) == (11, 5, 2)
    assert made.padding_share == pytest.approx(1 / 12)


@settings(max_examples=30, deadline=None)
@given(
    shape=st.lists(st.tuples(*[st.integers(1, 6)] * 3), min_size=1, max_size=20),
    batch_size=st.integers(1, 7),
    rows=st.sampled_from([1, 3]),
    packing=st.booleans(),
)
def test_every_pair_is_in_its_row_whole(shape, batch_size, rows, packing):
    """Each side, read back as its prefix and its own segment, is the example."""
    random = np.random.default_rng(len(shape))
    draw = lambda n: random.integers(1, 4, n).tolist()  # noqa: E731
    prompts = [draw(p) for p, _, _ in shape]
    sides = [
        side(
            *[(start + draw(row[k]), len(start)) for start, row in zip(prompts, shape, strict=True)]
        )
        for k in (1, 2)
    ]
    shared = prefixes.Shared(prefixes.common(sides), row_tokens=20, saved=0.0)
    made = Loader(
        *sides, batch_size=batch_size, row_tokens=8, rows_per_microbatch=rows, packing=packing,
        steps=None, seed=0, prefetch_steps=0, rows_here=range(rows), shared=shared,
    )  # fmt: skip
    seen = []
    for step in range(made.steps):
        batch = made.batch(step)
        tokens, layout = batch.tokens, batch.layout
        assert batch.real_tokens == (tokens.segments != 0).sum()
        for k, i in enumerate(batch.examples):
            at = layout.microbatch[k], layout.row[k], 0
            for number, examples in enumerate(sides, 1):
                segment = 2 * (layout.segment[k] - 1) + number
                own = tokens.segments[at] == segment
                before = np.unique(tokens.prefixes[at][own])
                cells = own | (tokens.segments[at] == before)
                ids, mask = examples.example(i)
                assert tokens.ids[at][cells].tolist() == ids.tolist()
                assert tokens.mask[at][cells].tolist() == mask.tolist()
                assert tokens.positions[at][cells].tolist() == list(range(len(ids)))
            seen.append(i)
    assert sorted(seen) == list(range(len(shape)))


# ---------------------------------------------------------------------------- openings


@pytest.mark.parametrize(
    ("rows", "tokens"),
    [
        ([([5, 6, 7, 8], 3), ([5, 6, 7, 9, 9], 3)], 2),  # 7 predicts 8, and 9
        ([([5, 6, 7, 8, 1], 4), ([5, 6, 4, 8, 1], 4)], 2),  # requests that differ
        ([([5, 6, 7, 8], 3), ([5, 6], 1)], 0),  # one answer begins at once
        ([([5, 6, 7, 8], 3), ([6, 6, 7, 8], 3)], 0),
        ([([5, 6, 7, 8], 3)], 2),
        ([([5, 6], 1)], 0),
    ],
)
def test_what_all_examples_begin_with(rows, tokens):
    assert prefixes.opening(side(*rows)) == tokens


def test_an_opening_is_shared_where_it_saves():
    begin = list(range(100, 120))
    rows = side(*[([*begin, 50 + k, *[k] * 29], 21) for k in range(8)])  # 8 x 50 tokens
    found = prefixes.opening_where_it_saves([rows], 128, longest_row=None)
    # Of 8 x 30 own tokens 108 fit into a row: three rows have the opening, where 8 had it.
    assert found.saved == pytest.approx(20 * (8 - 3) / 400)
    assert (found.once_a_row, found.row_tokens) == (20, 128)
    assert "the 20 tokens that all rows begin with are read once for several: 25.0%" in str(found)
    assert prefixes.opening_where_it_saves([rows], 128, longest_row=127) is None
    assert prefixes.opening_where_it_saves([rows], 50, longest_row=None) is None  # one in each
    bos = side(*[([1, 50 + k, *[k] * 78], 10) for k in range(8)])
    assert prefixes.opening_where_it_saves([bos], 640, longest_row=None) is None  # 1%

    of_all = prefixes.as_all(
        lambda sides, row: prefixes.opening_where_it_saves(sides, row, longest_row=None), [rows]
    )
    some = of_all([side(([*begin, 9, 9, 9, 1], 23))], 128)  # by itself it would share 22 tokens
    assert (some.once_a_row, some.opening, some.tokens.tolist()) == (20, True, [20])


def test_openings_are_shared_where_rows_and_attention_take_several(config, one_device, monkeypatch):
    run = sft_config.get_config()
    assert learners.share_opening(run, config, one_device) is not prefixes.separate
    for group, key in [(run.data, "packing"), (run.data, "share_prompts")]:
        group[key] = False
        assert learners.share_opening(run, config, one_device) is prefixes.separate
        group[key] = True
    monkeypatch.setitem(attention.DEFAULTS, "cpu", "splash")  # as on TPUs
    assert learners.share_opening(run, config, one_device) is prefixes.separate


def test_a_row_with_an_opening_by_hand():
    rows = side(([5, 6, 7, 8, 9], 3), ([5, 6, 4, 1], 3), ([5, 6, 3, 3, 2, 2], 4))
    made = Loader(
        rows, batch_size=3, row_tokens=8, rows_per_microbatch=2, packing=True, steps=None,
        seed=None, prefetch_steps=0, rows_here=[0, 1],
        shared=prefixes.Shared(np.full(3, 2), row_tokens=8, saved=0.0, opening=True),
    )  # fmt: skip
    batch = made.batch(0)
    found = batch.tokens
    assert found.ids.tolist() == [[[5, 6, 3, 3, 2, 2, 4, 1], [5, 6, 7, 8, 9, 0, 0, 0]]]
    assert found.positions.tolist() == [[[0, 1, 2, 3, 4, 5, 2, 3], [0, 1, 2, 3, 4, 0, 0, 0]]]
    assert found.segments.tolist() == [[[-1, -1, 1, 1, 1, 1, 2, 2], [-1, -1, 1, 1, 1, 0, 0, 0]]]
    assert found.prefixes.tolist() == [[[-1] * 8, [-1] * 5 + [0] * 3]]
    mask = [[[0, 0, 0, 0, 1, 1, 0, 1], [0, 0, 0, 1, 1, 0, 0, 0]]]
    assert found.mask.astype(int).tolist() == mask
    assert (batch.real_tokens, made.tokens_until(1), batch.trained_tokens) == (13, 13, 5)
    assert made.padding_share == pytest.approx(3 / 16)
    assert (made.most_segments, made.microbatches, made.rows_per_example) == (2, 1, 1)


@settings(max_examples=30, deadline=None)
@given(
    shape=st.lists(st.tuples(*[st.integers(1, 6)] * 2), min_size=1, max_size=20),
    begins=st.integers(0, 5),
    batch_size=st.integers(1, 7),
    rows=st.sampled_from([1, 3]),
    packing=st.booleans(),
)
def test_every_example_is_in_its_row_whole(shape, begins, batch_size, rows, packing):
    """Each, read back as its row's opening and its own segment, is the example."""
    random = np.random.default_rng(len(shape))
    draw = lambda n: random.integers(1, 4, n).tolist()  # noqa: E731
    begin = draw(begins)
    examples = side(*[(begin + draw(p) + draw(a), begins + p) for p, a in shape])
    tokens = np.full(len(shape), prefixes.opening(examples))
    made = Loader(
        examples, batch_size=batch_size, row_tokens=20, rows_per_microbatch=rows, packing=packing,
        steps=None, seed=0, prefetch_steps=0, rows_here=range(rows),
        shared=prefixes.Shared(tokens, row_tokens=20, saved=0.0, opening=True),
    )  # fmt: skip
    seen = []
    for step in range(made.steps):
        batch = made.batch(step)
        found, layout = batch.tokens, batch.layout
        assert batch.real_tokens == (found.segments != 0).sum()
        for k, i in enumerate(batch.examples):
            at = layout.microbatch[k], layout.row[k]
            cells = np.isin(found.segments[at], [-1, layout.segment[k]])
            ids, mask = examples.example(i)
            assert found.ids[at][cells].tolist() == ids.tolist()
            assert found.mask[at][cells].tolist() == mask.tolist()
            assert found.positions[at][cells].tolist() == list(range(len(ids)))
            own = found.segments[at] == layout.segment[k]
            follows = -1 if made.shared.once_a_row else layout.segment[k]
            assert (found.prefixes[at][own] == follows).all()
            seen.append(i)
    assert sorted(seen) == list(range(len(shape)))
    assert made.tokens_until(made.steps) == sum(
        b.real_tokens for b in map(made.batch, range(made.steps))
    )
