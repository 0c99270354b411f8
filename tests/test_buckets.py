"""Every sequence stands in one batch that is long enough; few shapes; little padding."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safety_jax.data.buckets import buckets, ladder, packed


def test_ladder():
    assert ladder(64, 256) == (64, 80, 96, 112, 128, 160, 192, 224, 256)
    assert ladder(64, 250) == (64, 80, 96, 112, 128, 160, 192, 224, 250)
    assert ladder(64, 40) == (40,)


@given(
    st.lists(st.integers(0, 512), max_size=80),
    st.sampled_from([64, 1024, 4096]),
    st.sampled_from([1, 4]),
)
def test_every_sequence_once_in_a_batch_that_fits(lengths, tokens, multiple):
    rungs = ladder(64, 512)
    found = buckets(lengths, rungs, tokens, multiple)
    indices = [index for bucket in found for index in bucket.indices]
    assert sorted(indices) == list(range(len(lengths)))
    rows_of = {}
    for bucket in found:
        assert bucket.length in rungs and bucket.rows % multiple == 0
        assert all(lengths[index] <= bucket.length for index in bucket.indices)
        assert bucket.rows == multiple or bucket.rows * bucket.length <= tokens
        assert rows_of.setdefault(bucket.length, bucket.rows) == bucket.rows
    assert all(len(bucket.indices) == bucket.rows for bucket in found[:-1])


@given(
    st.lists(st.integers(0, 512), max_size=80),
    st.sampled_from([64, 1024, 4096]),
    st.sampled_from([1, 4]),
)
def test_every_sequence_once_in_a_row_with_room(lengths, tokens, multiple):
    rungs = ladder(256, 512)
    found = packed(lengths, rungs, tokens, multiple, tokens_a_text=32)
    indices = [index for bucket in found for row in bucket.texts for index in row]
    assert sorted(indices) == list(range(len(lengths)))
    rows_of = {}
    for bucket in found:
        assert bucket.length in rungs and bucket.rows % multiple == 0
        assert len(bucket.texts) <= bucket.rows
        assert all(sum(lengths[i] for i in row) <= bucket.length for row in bucket.texts)
        assert all(1 <= len(row) <= bucket.segments == bucket.length // 32 for row in bucket.texts)
        assert bucket.rows == multiple or bucket.rows * bucket.length <= tokens
    for bucket in found[:-1]:
        assert rows_of.setdefault(bucket.length, bucket.rows) == bucket.rows
    if found and found[-1].length in rows_of:
        assert rows_of[found[-1].length] // found[-1].rows in (1, 2, 4)


def test_packing_by_hand():
    """Rows of 256 in batches of two: the longest first, each where it leaves the least room."""
    found = packed([200, 100, 60, 150, 30, 250, 10], (256,), 512, 1, 32)
    assert [bucket.texts for bucket in found] == [[[5], [0, 4, 6]], [[3, 1], [2]]]
    assert packed([20], (256,), 1024, 1, 32)[0].rows == 1


def test_little_is_padding():
    lengths = np.random.default_rng(0).lognormal(5, 0.6, 512).clip(8, 512).astype(int).tolist()
    found = buckets(lengths, ladder(64, 512), 4096, 1)
    assert sum(lengths) > 0.85 * sum(bucket.rows * bucket.length for bucket in found)
    found = packed(lengths, ladder(256, 512), 4096, 1, 32)
    assert sum(lengths) > 0.93 * sum(bucket.rows * bucket.length for bucket in found)


def test_too_long():
    with pytest.raises(ValueError, match="a sequence of 513 tokens"):
        buckets([1, 513], ladder(64, 512), 4096, 1)
