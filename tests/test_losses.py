"""`token_logprobs` against a plain log-softmax, by value and by gradient; masks; chunks; the losses
of pairs on paper."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safety_jax.base.batch import Tokens
from safety_jax.maths import logprobs, losses
from safety_jax.maths.logprobs import OutputHead

B, T, D, V = 3, 13, 8, 29


@pytest.fixture(scope="module")
def arrays():
    keys = jax.random.split(jax.random.key(0), 5)
    hidden = jax.random.normal(keys[0], (B, T, D))
    head = jax.random.normal(keys[1], (V, D))
    targets = jax.random.randint(keys[2], (B, T), 0, V)
    mask = jax.random.bernoulli(keys[3], 0.5, (B, T)).at[1].set(False)  # a row with nothing
    weights = jax.random.normal(keys[4], (B, T))
    return hidden, head, targets, mask, weights


def plain(hidden, head, targets, mask, scale, softcap):
    logits = scale * jnp.einsum("btd,vd->btv", hidden, head)
    logits = logits if softcap is None else softcap * jnp.tanh(logits / softcap)
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1)[..., 0]
    return chosen * mask, (logits.argmax(-1) == targets) & mask


@pytest.mark.parametrize(
    ("chunk", "scale", "softcap"),
    [(1, 1.0, None), (4, 0.5, None), (4, 1.0, 0.7), (13, 2.0, 1.5), (50, 1.0, None)],
)
def test_values_and_gradients_equal_a_plain_log_softmax(arrays, chunk, scale, softcap):
    hidden, head, targets, mask, weights = arrays

    def ours(hidden, head):
        whole = OutputHead(head, scale, softcap)
        found = logprobs.token_logprobs(hidden, whole, targets, mask, chunk_tokens=chunk)
        return (found.logprobs * weights).sum(), found

    def reference(hidden, head):
        found = plain(hidden, head, targets, mask, scale, softcap)
        return (found[0] * weights).sum(), found

    (_, given), given_gradients = jax.value_and_grad(ours, (0, 1), has_aux=True)(hidden, head)
    (_, known), known_gradients = jax.value_and_grad(reference, (0, 1), has_aux=True)(hidden, head)
    np.testing.assert_allclose(given.logprobs, known[0], atol=1e-5)
    np.testing.assert_array_equal(given.correct, known[1])
    for a, b in zip(given_gradients, known_gradients, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_by_hand():
    """Two tokens, two words: logits (1, 0), so log p = -log(1 + e^-1) and -1 - log(1 + e^-1)."""
    hidden, head = jnp.ones((1, 2, 1)), jnp.array([[1.0], [0.0]])
    found = logprobs.token_logprobs(
        hidden, OutputHead(head), jnp.array([[0, 1]]), jnp.array([[True, True]]), chunk_tokens=1
    )
    np.testing.assert_allclose(found.logprobs, [[-0.3132617, -1.3132617]], rtol=1e-6)
    np.testing.assert_array_equal(found.correct, [[True, False]])
    sums = losses.sft(found)
    np.testing.assert_allclose([sums.loss, sums.correct], [1.6265234, 1.0], rtol=1e-6)


def test_a_frozen_head_costs_no_second_pass(arrays):
    """The backward pass of `hidden` alone holds no vocabulary-sized array."""
    hidden, head, targets, mask, _ = arrays

    def total(hidden, head):
        whole = OutputHead(head)
        found = logprobs.token_logprobs(hidden, whole, targets, mask, chunk_tokens=4)
        return found.logprobs.sum()

    def passes(argnums):
        lowered = jax.jit(jax.grad(total, argnums)).lower(hidden, head).compile().as_text()
        return lowered.count(" while(")

    assert passes(0) < passes((0, 1))


def test_shift_never_crosses_a_boundary():
    tokens = Tokens(
        ids=jnp.array([[5, 6, 7, 8, 9, 0]]),
        positions=jnp.array([[0, 1, 2, 0, 1, 0]]),
        segments=jnp.array([[1, 1, 1, 2, 2, 0]]),
        mask=jnp.array([[False, True, True, False, True, False]]),
    )
    targets, mask = logprobs.shift(tokens)
    np.testing.assert_array_equal(targets, [[6, 7, 8, 9, 0, 0]])
    np.testing.assert_array_equal(mask, [[True, True, False, True, False, False]])
    segments = np.asarray(tokens.segments)
    answers = np.flatnonzero(np.asarray(mask)[0])
    assert (segments[0, answers] == segments[0, answers + 1]).all()


# ---------------------------------------------------------------------------- pairs, on paper


def one_pair(policy_sums, reference_sums, tokens=(2.0, 4.0), unsafe=(0.0, 0.0)):
    arrays = (jnp.array([x], jnp.float32) for x in (policy_sums, reference_sums, tokens, unsafe))
    return losses.PairLogprobs(*arrays)


def sigmoid(x: float) -> float:
    return 1 / (1 + np.exp(-x))


# Δ = (-10 + 12) - (-20 + 16) = 6; averaged (2/2) - (-4/4) = 2; π alone, averaged: -5 + 5 = 0.
PAIR = ((-10.0, -20.0), (-12.0, -16.0))


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (functools.partial(losses.dpo, beta=0.5), -np.log(sigmoid(3))),
        (
            functools.partial(losses.conservative, beta=0.5, smoothing=0.2),
            -0.8 * np.log(sigmoid(3)) - 0.2 * np.log(sigmoid(-3)),
        ),
        (
            functools.partial(losses.robust, beta=0.5, smoothing=0.2),
            (-0.8 * np.log(sigmoid(3)) + 0.2 * np.log(sigmoid(-3))) / 0.6,
        ),
        (functools.partial(losses.hinge, beta=0.1), 0.4),
        (functools.partial(losses.hinge, beta=0.5), 0.0),
        (functools.partial(losses.ipo_sum, beta=0.5), 25.0),
        (functools.partial(losses.ipo_mean, beta=0.5), 1.0),
        (functools.partial(losses.dpo_mean, beta=0.5), -np.log(sigmoid(1))),
        (functools.partial(losses.simpo, beta=2.0, margin=0.5), -np.log(sigmoid(-0.5))),
        (functools.partial(losses.safe_dpo, beta=0.5, margin=7.0), -np.log(sigmoid(3))),
        # 10 for the refusal; the harmful answer fell by 4: -4 log σ(2)
        (functools.partial(losses.door, beta=0.5), 10 - 4 * np.log(sigmoid(2))),
    ],
)
def test_objectives_on_paper(objective, expected):
    np.testing.assert_allclose(objective(one_pair(*PAIR))[0], expected, rtol=1e-6)


def test_safe_dpo_asks_for_more_where_only_the_rejected_answer_is_unsafe():
    """-log σ(βΔ - δ(h_l - h_w)): the margin of 3 must pass δ = 7 first."""
    given = one_pair(*PAIR, unsafe=(0.0, 1.0))
    found = losses.safe_dpo(given, beta=0.5, margin=7.0)
    np.testing.assert_allclose(found[0], -np.log(sigmoid(3 - 7)), rtol=1e-6)


def test_door_starts_at_npo_and_fades_where_dpo_fades_too():
    """At the start: likelihood plus 2 ln 2 / β, whose slope is that of log π(y_l); far away the
    refusal still counts whole and the harmful answer no more."""
    slopes = jax.grad(lambda sums: losses.door(one_pair(*sums), beta=0.5)[0])
    start, far = jnp.array([[-12.0, -16.0], [-12.0, -16.0]]), jnp.array([PAIR[1], PAIR[1]])
    value = losses.door(one_pair(*start), beta=0.5)[0]
    np.testing.assert_allclose(value, 12 + 4 * np.log(2), rtol=1e-6)
    np.testing.assert_allclose(slopes(start)[0], [-1, 1], rtol=1e-6)
    np.testing.assert_allclose(slopes(far.at[0, 1].set(-80.0))[0], [-1, 0], atol=1e-6)


def test_weighted_door_weighs_refusals_and_forgets_token_by_token():
    """r = (2, 0, -2) and τ = 2 weigh e, 1, 1/e; with τ = -2 the other way round. A harmful token
    that fell by 4 costs -4 log σ(2), one at its start 4 ln 2 with the slope of log π."""
    proxy, start = np.array([-1.0, -2.0, -3.0]), np.array([-3.0, -2.0, -1.0])
    weights = losses.token_weights(proxy, start, temperature=2.0)
    np.testing.assert_allclose(weights, [np.e, 1, 1 / np.e], rtol=1e-6)
    np.testing.assert_allclose(losses.token_weights(proxy, start, temperature=-2.0), weights[::-1])
    policy, before = jnp.array([-3.0, -2.0, -5.0]), jnp.asarray(start)
    door = functools.partial(
        losses.weighted_door, reference=before, weights=jnp.asarray(weights), beta=0.5
    )
    refused, forgotten = door(policy)
    np.testing.assert_allclose(refused, [3 * np.e, 2, 5 / np.e], rtol=1e-6)
    np.testing.assert_allclose(forgotten[1:], [4 * np.log(2), -4 * np.log(sigmoid(2))], rtol=1e-6)
    slopes = [jax.grad(lambda x, n=n: door(x)[n].sum())(policy) for n in range(2)]
    np.testing.assert_allclose(slopes[0], -weights, rtol=1e-6)
    np.testing.assert_allclose(slopes[1], [1, 1, 2 * sigmoid(-2)], rtol=1e-6)


# ---------------------------------------------------------------------------- tokens, on paper

BETAS = losses.AnswerBetas(first=0.5, early=2.0, early_tokens=3, rest=0.1)


def test_betas_follow_each_answer():
    mask = jnp.array([[0, 1, 1, 1, 1, 1, 0, 1, 1], [1, 0, 0, 1, 0, 1, 1, 0, 0]], bool)
    expected = [[1, 0.5, 2, 2, 0.1, 0.1, 1, 0.5, 2], [0.5, 1, 1, 0.5, 1, 0.5, 2, 1, 1]]
    np.testing.assert_allclose(BETAS.at(mask), expected, rtol=1e-7)


def test_constrained_on_paper():
    """-(2/β) log σ(β (log π - log π_ref)): at the start 2 ln 2 / β with the slope of likelihood;
    the authors' code has the slope as a weight, 2 (1 - σ(β r)); a small β leaves likelihood."""
    policy, start = jnp.array([-1.0, -3.0, -2.0]), jnp.array([-1.0, -2.0, -4.0])
    beta = jnp.array([0.5, 2.0, 0.1])
    found = losses.constrained(policy, start, beta)
    expected = [4 * np.log(2), -np.log(sigmoid(-2)), -20 * np.log(sigmoid(0.2))]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    slopes = jax.vmap(jax.grad(losses.constrained))
    weights = 2 * (1 - sigmoid(np.asarray(beta * (policy - start))))
    np.testing.assert_allclose(slopes(policy, start, beta), -weights, rtol=1e-6)
    np.testing.assert_allclose(slopes(start, start, beta), [-1, -1, -1], rtol=1e-6)
    np.testing.assert_allclose(slopes(policy, start, beta * 1e-4), [-1, -1, -1], rtol=1e-3)


def test_robust_is_the_clean_loss_on_average():
    """Labels flipped with probability ε: the mean over both labels is the loss of the true one."""
    straight = one_pair(*PAIR)
    flipped = one_pair(*(sides[::-1] for sides in PAIR), tokens=(4.0, 2.0))
    robust = functools.partial(losses.robust, beta=0.5, smoothing=0.2)
    mean = 0.8 * robust(straight) + 0.2 * robust(flipped)
    np.testing.assert_allclose(mean, losses.dpo(straight, beta=0.5), rtol=1e-5)
