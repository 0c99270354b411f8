"""Every sequence stands in one row with room for it; one shape or two; little padding."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safety_jax.data.buckets import ladder
from safety_jax.data.packing import pack


def shapes(found) -> set[tuple[int, int]]:
    return {(batch.rows, batch.length) for batch in found}


@given(
    st.lists(st.integers(0, 512), max_size=80),
    st.sampled_from([64, 1024, 4096]),
    st.sampled_from([1, 4]),
)
def test_every_sequence_once_in_a_row_with_room(lengths, tokens, multiple):
    rungs = ladder(128, 512)
    found = pack(lengths, rungs, tokens, multiple, tokens_a_text=32)
    indices = [index for batch in found for row in batch.texts for index in row]
    assert sorted(indices) == list(range(len(lengths)))
    for batch in found:
        assert batch.length in rungs and batch.rows % multiple == 0
        assert 1 <= len(batch.texts) <= batch.rows
        assert all(sum(lengths[i] for i in row) <= batch.length for row in batch.texts)
        assert all(1 <= len(row) <= batch.segments == batch.length // 32 for row in batch.texts)
        assert batch.rows == multiple or batch.rows * batch.length <= tokens
    assert len(shapes(found)) <= 2
    assert [batch.length for batch in found] == sorted((b.length for b in found), reverse=True)


def test_by_hand():
    """Rows of 256 in batches of two: the longest first, each where it leaves the least room."""
    found = pack([200, 100, 60, 150, 30, 250, 10], (256,), 512, 1, 32)
    assert [batch.texts for batch in found] == [[[5], [0, 4, 6]], [[3, 1], [2]]]
    assert [batch.rows for batch in pack([20], (256,), 1024, 1, 32)] == [1]


def test_behind_what_all_begin_with():
    """Of 100 tokens each begins with 80, which the row of 128 has once: room for two ends of 20."""
    (found,) = pack([100, 100, 90], (128,), 256, 1, 32, common=80)
    assert (found.texts, found.common) == ([[0, 1], [2]], 80)


def test_a_second_length_where_it_pays():
    """A hundred short texts have rows of their own, ten go into the row of the long one."""
    many = pack([500, *[60] * 400], ladder(128, 512), 2048, 1, 32)
    assert shapes(many) == {(4, 512), (16, 128)}
    assert shapes(pack([500, *[60] * 10], ladder(128, 512), 2048, 1, 32)) == {(4, 512)}


def test_little_is_padding():
    lengths = np.random.default_rng(0).lognormal(5, 0.6, 512).clip(8, 512).astype(int).tolist()
    found = pack(lengths, ladder(128, 512), 4096, 1, 32)
    assert sum(lengths) > 0.93 * sum(batch.rows * batch.length for batch in found)


def test_too_long():
    with pytest.raises(ValueError, match="a sequence of 513 tokens"):
        pack([1, 513], ladder(128, 512), 4096, 1, 32)
