"""From logits to tokens: cuts against a sort, the drawn distribution, penalties, settings."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safety_jax.base.errors import ConfigError
from safety_jax.models.decoding import sampling

SETTINGS = sampling.SamplingParams(
    temperature=1.0, top_k=0, top_p=1.0, frequency_penalty=0.0, beams=1, length_penalty=1.0,
    candidates=1, max_new_tokens=8,
)  # fmt: skip
invert = jax.jit(sampling.invert)
draw = jax.jit(sampling.draw, static_argnames="settings")
MASSES = np.random.default_rng(0).exponential(size=(5, 600)).astype(np.float32)


def change(**values) -> sampling.SamplingParams:
    return dataclasses.replace(SETTINGS, **values)


def by_sorting(masses: np.ndarray, top_k: int, top_p: float) -> np.ndarray:
    """Which tokens stay: the k largest, then the fewest of them that hold top_p of the mass."""
    order = np.argsort(-masses)
    kept = order[: top_k or len(order)]
    cumulative = np.cumsum(masses[kept].astype(np.float64))
    count = int(np.searchsorted(cumulative, top_p * cumulative[-1])) + 1
    stays = np.zeros(len(masses), bool)
    stays[kept[:count]] = True
    return stays


@pytest.mark.parametrize(("top_k", "top_p"), [(1, 1.0), (17, 1.0), (0, 0.5), (40, 0.9), (0, 1e-6)])
def test_cuts_equal_a_sort(top_k, top_p):
    found = sampling.truncate(jnp.asarray(MASSES), change(top_k=top_k, top_p=top_p))
    for row, kept in zip(MASSES, np.asarray(found), strict=True):
        stays = by_sorting(row, top_k, top_p)
        np.testing.assert_array_equal(kept, np.where(stays, row, 0))


def test_a_cut_that_asks_for_all_keeps_all():
    for settings in (SETTINGS, change(top_k=600), change(top_k=10_000)):
        np.testing.assert_array_equal(sampling.truncate(jnp.asarray(MASSES), settings), MASSES)


def test_inversion_equals_a_search_in_the_cumulative_distribution():
    masses = np.where(MASSES > 0.7, MASSES, 0).astype(np.float32)
    order = sorted(range(masses.shape[1]), key=lambda token: (token % sampling.FOLD, token))
    ends = np.cumsum(masses[:, order].astype(np.float64), axis=1)
    for point in (0.0, 0.123, 0.5, 0.98):
        uniform = jnp.full(len(masses), point, jnp.float32)
        expected = [order[int(np.searchsorted(row, point * row[-1], side="right"))] for row in ends]
        np.testing.assert_array_equal(invert(jnp.asarray(masses), uniform), expected)


def test_the_largest_uniform_number_never_leaves_the_tokens_with_mass():
    masses = np.zeros((3, 600), np.float32)
    masses[0, 3], masses[1, 599], masses[2, [5, 300]] = 1, 1e-20, [1, 1e-9]
    last = jnp.full(3, 1 - 2.0**-24, jnp.float32)
    found = np.asarray(invert(jnp.asarray(masses), last))
    assert (masses[np.arange(3), found] > 0).all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_drawn_as_often_as_the_softmax_says(temperature):
    """20,000 draws of 5 tokens: each share within 4 standard errors."""
    logits, count = np.array([1.0, 0.0, -1.0, 2.0, 0.5], np.float32), 20_000
    keys = jnp.array(np.stack([np.arange(count), np.zeros(count)], axis=1), jnp.uint32)
    rows = jnp.array(np.broadcast_to(logits, (count, 5)))
    settings = change(temperature=temperature)
    drawn = draw(rows, keys, jnp.zeros(count, jnp.int32), settings=settings)
    shares = np.bincount(drawn, minlength=5) / count
    expected = np.asarray(jax.nn.softmax(logits / temperature))
    error = np.sqrt(expected * (1 - expected) / count)
    assert (np.abs(shares - expected) < 4 * error).all()


def test_a_draw_depends_on_key_and_position_alone():
    logits = jnp.asarray(np.log(MASSES[[0, 1, 0, 0]]))
    keys = jnp.array([[1, 2], [1, 2], [1, 2], [3, 4]], jnp.uint32)
    drawn = [
        np.asarray(draw(logits, keys, jnp.full(4, position, jnp.int32), settings=SETTINGS))
        for position in range(8)
    ]
    assert all(tokens[0] == tokens[2] for tokens in drawn)
    assert len({int(tokens[0]) for tokens in drawn}) > 4
    assert any(tokens[0] != tokens[3] for tokens in drawn)


def test_greedy_takes_the_first_of_the_largest():
    logits = jnp.array([[0.0, 3.0, 3.0], [5.0, 1.0, -1.0]])
    keys = jnp.zeros((2, 2), jnp.uint32)
    found = draw(logits, keys, jnp.zeros(2, jnp.int32), settings=change(temperature=0.0))
    np.testing.assert_array_equal(found, [1, 0])


def test_penalty_by_hand():
    """Token 2 was generated twice, token 0 once; token 1 stands in the prompt only."""
    logits = jnp.array([[1.0, 1.0, 1.0, 1.0]])
    history, generated = jnp.array([[2, 1, 0, 2]]), jnp.array([[True, False, True, True]])
    found = sampling.penalise(logits, history, generated, 0.25)
    np.testing.assert_allclose(found, [[0.75, 1.0, 0.5, 1.0]])


def test_logprob_is_of_the_logits_as_given():
    logits = jnp.array(np.log([[0.2, 0.8], [0.5, 0.5]]) + 3.0, jnp.float32)
    found = jax.jit(sampling.logprob)(logits, jnp.array([1, 0]))
    np.testing.assert_allclose(found, np.log([0.8, 0.5]), rtol=1e-5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -1.0}, "temperature -1.0: expected 0"),
        ({"top_p": 0.0}, "top_p 0.0: expected above 0"),
        ({"top_k": -1}, "top_k -1"),
        ({"candidates": 0}, "candidates 0"),
        ({"max_new_tokens": 0}, "max_new_tokens 0"),
        ({"beams": 4}, "beam search takes none"),
        ({"beams": 4, "temperature": 0.0, "candidates": 5}, "has 4 answer"),
        ({"temperature": 0.0, "candidates": 2}, "set temperature above 0"),
    ],
)
def test_refused_settings(values, message):
    with pytest.raises(ConfigError, match=message):
        change(**values).check()
