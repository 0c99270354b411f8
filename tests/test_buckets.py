"""Every sequence stands in one batch that is long enough; few shapes; little padding."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safety_jax.data.buckets import buckets, ladder


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


def test_little_is_padding():
    lengths = np.random.default_rng(0).lognormal(5, 0.6, 512).clip(8, 512).astype(int).tolist()
    found = buckets(lengths, ladder(64, 512), 4096, 1)
    assert sum(lengths) > 0.85 * sum(bucket.rows * bucket.length for bucket in found)


def test_too_long():
    with pytest.raises(ValueError, match="a sequence of 513 tokens"):
        buckets([1, 513], ladder(64, 512), 4096, 1)
