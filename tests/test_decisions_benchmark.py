"""The probability of a refusal, as tests/benchmarks/decisions.py measures it."""

import numpy as np
import pytest

from tests.benchmarks import decisions


def test_few_sequences_have_every_context_of_the_beginnings():
    beginnings = [(1, 2), (1, 3, 4), (5,), (6, 7)]
    assert decisions.paths(beginnings) == [(1, 3), (6,)]
    assert decisions.paths([(5,), (6,)]) == [()]


def test_probabilities_of_all_beginnings_sum_to_one(small_model):
    """All first tokens but one, and after that one all second tokens but one, and so on."""
    vocabulary = range(small_model.config.vocabulary_size)
    parts = [[(*opening, token) for token in vocabulary] for opening in ((), (7,), (7, 3))]
    for shorter, opening in zip(parts, ((7,), (7, 3)), strict=False):
        shorter.remove(opening)
    prompts = [[4, 9, 11], [20] * 30, [5]]
    every = decisions.refusing(small_model, prompts, sum(parts, []), "")
    assert every == pytest.approx(np.ones(3), abs=1e-4)
    first, second = (decisions.refusing(small_model, prompts, part, "") for part in parts[:2])
    assert (first > 0).all() and (first + second < 1).all()
