"""Likelihoods of continuations: those of whole logits, in any batch, on any mesh."""

import dataclasses

import numpy as np
import pytest

from safety_jax.base.errors import CheckpointError
from safety_jax.evaluation.harness.loglikelihood import ContextPair, LikelihoodScorer
from safety_jax.models.model import Model
from tests import tiny_tokenizers
from tests.asked import LIMITS, WINDOW, by_hand, logprobs, tiny_model
from tests.samples import moved, random_adapters


@pytest.fixture(scope="module")
def model(config, execution) -> Model:
    return tiny_model(config, execution, tiny_tokenizers.llama())


def random_pairs(vocabulary: int) -> list[ContextPair]:
    """Of many lengths; three share their context, and two are the same."""
    random = np.random.default_rng(0)
    sizes = [(1, 1), (5, 3), (40, 9), (60, 20), (3, 40), (2, WINDOW), (17, 1), (30, 30)]
    pairs = [
        ContextPair(tuple(random.integers(3, vocabulary, a).tolist()),
             tuple(random.integers(3, vocabulary, b).tolist()))
        for a, b in sizes
    ]  # fmt: skip
    first = pairs[1]
    pairs += [
        ContextPair(first.context, (7,)),
        ContextPair(first.context, (8,)),
        ContextPair(first.context, (9,)),
    ]
    return [
        *pairs,
        pairs[0],
        ContextPair((*first.context, 7), (5,)),
        ContextPair(first.context, (7, 6)),
    ]


@pytest.mark.parametrize("spread", [False, True], ids=["one device", "adapted, eight devices"])
def test_likelihoods_are_those_of_whole_logits(model, eight_devices, spread):
    other = model
    if spread:
        model = dataclasses.replace(model, adapters=random_adapters(model.config, model.mesh))
        adapters = random_adapters(model.config, eight_devices)
        other = dataclasses.replace(moved(model, eight_devices), adapters=adapters)
    pairs = random_pairs(model.config.vocabulary_size)
    found = LikelihoodScorer(other, LIMITS).score(pairs, None)
    for pair, one in zip(pairs, found, strict=True):
        expected, greedy = by_hand(model, list(pair.context), list(pair.continuation))
        assert one.logprob == pytest.approx(expected, abs=1e-4 * len(pair.continuation))
        assert one.greedy == greedy


def test_a_greedy_continuation_is_told(model):
    context = [1, 40, 50]
    ids = list(context)
    for _ in range(5):
        ids.append(int(logprobs(model, ids)[-1].argmax()))
    written = tuple(ids[3:])
    pairs = [
        ContextPair(tuple(context), written),
        ContextPair(tuple(context), (*written[:-1], written[-1] ^ 1)),
    ]
    assert [one.greedy for one in LikelihoodScorer(model, LIMITS).score(pairs, None)] == [
        True,
        False,
    ]


def test_equal_contexts_are_read_once(model):
    scorer = LikelihoodScorer(model, LIMITS)
    pairs = [ContextPair((5, 6, 7), (letter,)) for letter in range(10, 20)]
    assert [row.members for row in scorer._rows(pairs)] == [list(range(10))]
    # A row has as many slots as tokens, at least those of the shortest shape.
    many = [ContextPair((5, 6, 7), (letter,)) for letter in range(10, 10 + WINDOW + 1)]
    assert [len(row.members) for row in scorer._rows(many)] == [WINDOW, 1]


def test_a_token_without_an_embedding_is_refused(model):
    outside = model.config.vocabulary_size
    for pair in (((1,), (outside,)), ((outside, 1), (1,))):
        with pytest.raises(CheckpointError, match="quiz: the tokenizer wrote token .*; expected"):
            LikelihoodScorer(model, LIMITS).score([ContextPair(*pair)], "quiz")


@pytest.mark.parametrize("pair", [((), (1,)), ((1,), ()), ((1,), (2,) * (WINDOW + 1))])
def test_a_pair_that_cannot_be_scored_is_refused(model, pair):
    with pytest.raises(ValueError, match="pair 0 has"):
        LikelihoodScorer(model, LIMITS).score([ContextPair(*pair)], None)
