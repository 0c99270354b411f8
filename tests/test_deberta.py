"""Distances of DeBERTa: buckets equal transformers', a reshape reads the right table entry."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safety_jax.models.encoders import deberta, heads
from tests.golden import score_cases


@pytest.mark.parametrize("buckets,longest", score_cases.BUCKETS)
def test_buckets_equal_transformers(buckets, longest):
    expected = np.load(score_cases.FOLDER / "golden.npz")[f"buckets/{buckets}_{longest}"]
    distance = np.arange(-score_cases.LONGEST, score_cases.LONGEST + 1)
    np.testing.assert_array_equal(deberta.bucket(distance, buckets, longest), expected)


@pytest.mark.parametrize("T", [1, 2, 5])
def test_skew(T):
    x = jnp.arange(3 * T * (2 * T - 1), dtype=jnp.float32).reshape(3, T, 2 * T - 1)
    i, j = np.arange(T)[:, None], np.arange(T)[None, :]
    np.testing.assert_array_equal(deberta.skew(x), np.asarray(x)[:, i, j - i + T - 1])


def test_table_rows_stay_in_the_table(tmp_path):
    """Distances beyond the table count as its last; zero stands in the middle."""
    for name in ("deberta_v3", "deberta_short_distances", "deberta_long_distances"):
        config = heads.read_scorer(score_cases.write_case(tmp_path, name)).config
        rows = deberta.table_rows(config, 300)
        assert rows.min() == 0 and rows.max() == 2 * config.span - 1
        assert rows[299] == config.span and (np.diff(rows) >= 0).all()


@pytest.mark.parametrize("T", [7, 8])
def test_position_scores(T):
    """And their gradient, as of a gather, element by element; 7 tokens are one block, 8 two."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (3, 2, T, 4))
    table = jax.random.normal(keys[1], (3, 2 * T - 1, 4))
    weight = jax.random.normal(keys[2], (3, 2, T, T))
    offset = np.arange(T)[None, :] - np.arange(T)[:, None] + T - 1

    def gathered(x, table):
        return jnp.einsum("hbte,htse->hbts", x, table[:, offset])

    for scores in (deberta.position_scores, gathered):
        np.testing.assert_allclose(scores(x, table), gathered(x, table), atol=1e-5)
    found, expected = (
        jax.grad(lambda x, table, scores=scores: (scores(x, table) * weight).sum(), (0, 1))(
            x, table
        )
        for scores in (deberta.position_scores, gathered)
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("T", [1, 7, 8])
def test_position_scores_of_the_tokens_that_are_read(T):
    x = jax.random.normal(jax.random.key(0), (3, 2, T, 4))
    table = jax.random.normal(jax.random.key(1), (3, 2 * T - 1, 4))
    read = jnp.array([[0, T - 1], [T // 2, 0]])
    rows = np.arange(2)[:, None]
    both = functools.partial(np.testing.assert_allclose, atol=1e-5)
    every = np.asarray(deberta.content_to_position(x, table, None))
    few = deberta.content_to_position(x[:, rows, read], table, read)
    both(few, every[:, rows, read])
    every = np.asarray(deberta.position_to_content(table, x, None))
    both(every, np.swapaxes(deberta.position_scores(x, table), 2, 3))
    both(deberta.position_to_content(table, x, read), every[:, rows, read])
