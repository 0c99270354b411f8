"""SFT that treats the first tokens of answers differently. Held to its start: there, SFT's gradient
and the value on paper, the reference known or live; elsewhere, each token by the formula. With
weights: the weighted mean on paper, whatever the microbatches."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safety_jax.base.batch import Answers
from safety_jax.maths import logprobs, losses
from safety_jax.training import constrained, likelihood, policy, task
from safety_jax.training.preference import Frozen
from tests.samples import execute_on, on_device, packed_rows

BETAS = losses.AnswerBetas(first=0.5, early=2.0, early_tokens=5, rest=0.1)
TOKENS = packed_rows([[9, 14], [22]], 24, 96)  # answers of 6, 11 and 19 tokens


@pytest.fixture(scope="module")
def trained(config, one_device):
    return policy.Policy(config, execute_on(one_device), Path("none"), None, chunk_tokens=8)


def answers(reference) -> Answers:
    """The rows as answers of one side."""
    tokens = jax.tree.map(lambda x: x[:, None], on_device(TOKENS))
    slots = jnp.array([[0, 1], [2, -1]])
    nothing = jnp.zeros((2, 2, 1))
    return Answers(tokens, slots, nothing.astype(jnp.int32), nothing, reference[:, None])


def test_it_starts_as_sft_and_holds_each_token_by_its_place(trained, weights):
    tokens = on_device(TOKENS)
    start = trained.reference_logprobs(weights, {}, tokens)
    known = jnp.pad(start[:, :-1], [(0, 0), (1, 0)])  # at the tokens that they are of
    batch, totals = answers(known), likelihood.count(tokens)

    @functools.partial(jax.jit, static_argnames="live")
    def held(moving, frozen, live):
        learning = constrained.learning(
            trained, BETAS, frozen, trained.execution.mesh, live=live, reference=lambda _: None
        )

        def total(tree):
            parts = learning.loss(tree, frozen, batch, learning.count(batch), None)
            return parts["loss"], parts

        return jax.value_and_grad(total, has_aux=True)(moving)

    plain = likelihood.make_loss(trained)
    expected = jax.jit(jax.grad(lambda tree: plain(tree, {}, tokens, totals, None)["loss"]))(
        weights
    )
    # Of 36 tokens: 3 first ones, 4 more of each answer, the rest.
    value = 2 * np.log(2) * (3 / 0.5 + 12 / 2.0 + 21 / 0.1) / 36
    for frozen, live in ((Frozen({}, None), False), (Frozen({}, weights), True)):
        (_, parts), gradient = held(weights, frozen, live)
        np.testing.assert_allclose(parts["loss"], value, rtol=1e-5)
        np.testing.assert_allclose(parts["nll_loss"], -start.sum() / 36, rtol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), gradient, expected)

    # Elsewhere: each token by the formula, from log-probabilities of the moved weights.
    moved = jax.tree.map(lambda x: x + 0.05 * jnp.sin(jnp.arange(x.size).reshape(x.shape)), weights)
    (found, _), _ = held(moved, Frozen({}, None), False)
    there = np.asarray(trained.reference_logprobs(moved, {}, tokens))
    mask = np.asarray(logprobs.shift(tokens)[1])
    beta, ratio = np.asarray(BETAS.at(jnp.asarray(mask))), there - np.asarray(start)
    by_hand = np.where(mask, 2 / beta * np.log1p(np.exp(-beta * ratio)), 0).sum() / 36
    np.testing.assert_allclose(found, by_hand, rtol=1e-5)
    assert np.abs(ratio).max() > 0.1


def test_early_tokens_weigh_as_much_as_they_should(trained, weights):
    tokens, early = on_device(TOKENS), losses.EarlyWeight(8.0, 5)
    learning = likelihood.learning(trained, {}, trained.execution.mesh, early)
    totals = learning.count(tokens)
    assert {name: float(total) for name, total in totals.items()} == {
        "tokens": 36, "weights": 3 * 5 * 8 + 21,
    }  # fmt: skip

    @jax.jit
    def found(rows):
        return learning.loss(weights, {}, rows, totals, None)

    logprob = np.asarray(trained.reference_logprobs(weights, {}, tokens))
    shifted = np.asarray(logprobs.shift(tokens)[1])
    by_hand = plain = 0.0
    for row, mask in zip(logprob, shifted, strict=True):
        place = 0
        for value, used in zip(row, mask, strict=True):
            place = place + 1 if used else 0
            by_hand -= value * used * (8 if place <= 5 else 1)
            plain -= value * used
    parts = found(tokens)
    np.testing.assert_allclose(parts["loss"], by_hand / 141, rtol=1e-5)
    np.testing.assert_allclose(parts["nll_loss"], plain / 36, rtol=1e-5)
    assert abs(by_hand / 141 - plain / 36) > 1e-3
    halves = [found(jax.tree.map(lambda x, k=k: x[k : k + 1], tokens)) for k in range(2)]
    for name, value in parts.items():
        np.testing.assert_allclose(sum(half[name] for half in halves), value, rtol=1e-5)
    # All microbatches at once are counted alike.
    stacked = jax.tree.map(lambda x: x[:, None], tokens)
    assert learning.count(stacked) == totals
    means = {"loss": 9.0, "nll_loss": 2.0}
    measured = likelihood.evaluation(task.Measured(means, np.zeros((0, 0)), np.zeros(0, int)), None)
    np.testing.assert_allclose(measured["perplexity"], np.exp(2.0))
