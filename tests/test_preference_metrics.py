"""Metrics of held-out preference pairs, on paper."""

import functools

import numpy as np
import pytest

from safety_jax.data.pairs import Pairs
from safety_jax.maths import losses, statistics
from safety_jax.training import preference
from safety_jax.training.preference import PairObjective
from safety_jax.training.task import Measured
from tests.samples import examples_of


def test_the_pairs_of_a_prompt_are_one_cluster_of_the_accuracy():
    """Twenty pairs of five prompts, whose four pairs are alike: as many trials as prompts. Pairs of
    prompts of their own, or all of no prompt, are trials of their own."""
    objective = PairObjective(functools.partial(losses.dpo, beta=0.1), 0.1)
    right = np.repeat([1.0, 1.0, 0.0, 1.0, 1.0], 4)
    table = np.zeros((20, 8))
    table[:, preference.POLICY] = np.stack([right, 1 - right], axis=1)
    answers = [np.arange(3, 5 + i % 3) for i in range(20)]
    repeated = [np.array([7, 8 + i // 4, 0]) for i in range(20)]
    unlike = [np.array([7, 8 + i]) for i in range(20)]
    for prompts, trials in ((repeated, 5), (unlike, 20), ([np.array([7])] * 20, 20)):
        sides = (examples_of(prompts, answers) for _ in range(2))
        pairs = Pairs(*sides, unsafe=None, categories=[()] * 20)
        found = Measured({}, table, np.arange(20))
        metrics = preference.evaluation(found, pairs, objective)
        interval = (metrics["rewards/accuracies_low"], metrics["rewards/accuracies_high"])
        assert metrics["rewards/accuracies"] == 0.8
        assert interval == pytest.approx(statistics.wilson(trials * 4 // 5, trials))
