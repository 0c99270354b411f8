"""Reward losses against arithmetic by hand, and what their gradients ask for."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safety_jax.maths import losses as objectives


def nls(x: float) -> float:
    """-log σ(x)."""
    return math.log(1 + math.exp(-x))


PAIRS = jnp.array([[1.0, -0.5], [0.25, 2.0], [0.0, 0.0]])
NOTHING = jnp.zeros_like(PAIRS)


@pytest.mark.parametrize(("margin", "centring"), [(0.0, 0.0), (0.7, 0.0), (0.0, 0.01), (0.5, 0.2)])
def test_bradley_terry(margin, centring):
    found = objectives.bradley_terry(PAIRS, NOTHING, margin=margin, centring=centring)
    expected = [
        nls(1.5 - margin) + centring * 0.25,
        nls(-1.75 - margin) + centring * 2.25**2,
        nls(-margin),
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_bradley_terry_is_ln_2_where_nothing_is_known():
    found = objectives.bradley_terry(PAIRS[2:], NOTHING[2:], margin=0.0, centring=0.0)
    np.testing.assert_allclose(found, [math.log(2)], rtol=1e-6)


def test_a_level_is_free_until_it_is_centred():
    """A constant on both rewards costs nothing; centring pulls their sum to zero."""

    def loss(level, centring):
        return objectives.bradley_terry(PAIRS + level, NOTHING, margin=0.3, centring=centring).sum()

    slope = jax.grad(loss)
    np.testing.assert_allclose(slope(0.8, 0.0), 0.0, atol=1e-6)
    assert float(slope(0.8, 0.01)) > 0 > float(slope(-2.0, 0.01))


@pytest.mark.parametrize(
    ("targets", "signs"),
    [((0, 1), (-1, 1)), ((1, 0), (1, -1)), ((0, 0), (-1, -1)), ((1, 1), (1, 1))],
)
def test_cost(targets, signs):
    """Safe RLHF, eq. 6: the order, and the sign of each answer."""
    chosen, rejected = -0.4, 1.1
    found = objectives.cost(
        jnp.array([[chosen, rejected]]), jnp.array([targets], jnp.float32), regularization=0.01
    )
    order = nls(rejected - chosen)
    sides = nls(signs[0] * chosen) + nls(signs[1] * rejected)
    squares = 0.01 * (chosen**2 + rejected**2) / 2
    np.testing.assert_allclose(found, [order + sides + squares], rtol=1e-6)


def test_cost_rises_with_harm():
    """Downhill, the cost of a safe chosen answer falls, that of an unsafe rejected one rises."""
    scores, targets = jnp.zeros((1, 2)), jnp.array([[0.0, 1.0]])
    slope = jax.grad(lambda s: objectives.cost(s, targets, regularization=0.0).sum())(scores)
    np.testing.assert_allclose(slope, [[1.0, -1.0]], atol=1e-6)  # 1/2 of each of two terms


def test_regression():
    scores, ratings = jnp.array([[1.5], [-1.0], [4.0]]), jnp.array([[2.0], [0.0], [4.0]])
    np.testing.assert_allclose(objectives.regression(scores, ratings), [0.25, 1.0, 0.0])


def test_classification():
    scores, unsafe = jnp.array([[2.0], [2.0], [-3.0]]), jnp.array([[1.0], [0.0], [0.0]])
    found = objectives.classification(scores, unsafe)
    np.testing.assert_allclose(found, [nls(2.0), nls(-2.0), nls(3.0)], rtol=1e-6)


def test_sure_and_wrong_stays_finite():
    scores, targets = jnp.array([[-500.0, 500.0]]), jnp.array([[1.0, 0.0]])
    for loss in (
        objectives.bradley_terry(scores, targets, margin=0.0, centring=0.0),
        objectives.cost(scores, targets, regularization=0.0),
        objectives.classification(scores, targets),
    ):
        assert np.isfinite(loss).all() and float(loss[0]) >= 0
