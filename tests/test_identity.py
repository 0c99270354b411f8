"""What a training run reads is known by hashes, which change with it."""

import dataclasses

import numpy as np
import pytest
from ml_collections import ConfigDict

from safety_jax.data import corpora
from safety_jax.data.examples import Counts, Examples
from safety_jax.data.pairs import Pairs
from safety_jax.stages import groups, training
from tests import tiny_tokenizers


@pytest.fixture
def identify(monkeypatch):
    """The hashes of a run over some examples and held-out ones."""
    monkeypatch.setattr(training.hub, "resolve", lambda path: path)
    monkeypatch.setattr(groups, "model_identity", lambda config, folder: {"model": folder})
    config = ConfigDict({"model": {"path": "m"}})

    tokens = tiny_tokenizers.llama()

    def made(learned, held_out):
        corpus = dataclasses.replace(corpora.selected(learned, tokens), evaluation=held_out)
        return training.identity(config, corpus)

    return made


def answers(*ids: int) -> Examples:
    mask = np.array([False, True] * len(ids))
    texts = np.repeat(np.array(ids, np.int32), 2)
    places = [f"row {i}" for i in ids]
    return Examples(texts, mask, np.arange(len(ids) + 1) * 2, places, places, Counts(0, 0, {}))


def pairs(labels) -> Pairs:
    unsafe = None if labels is None else np.array(labels, bool)
    return Pairs(answers(1, 2), answers(3, 4), unsafe, [(), ()])


def test_other_tokens_are_another_run(identify):
    before = identify(answers(1, 2), None)
    assert before.keys() == {"tokens to train on", "model"}
    assert identify(answers(1, 3), None) != before == identify(answers(1, 2), None)
    assert "tokens held out" in identify(answers(1, 2), answers(1))


def test_other_labels_of_the_same_answers_are_another_run(identify):
    """Held-out ones, too: they may decide which checkpoint is exported."""
    safe, mixed = [[False, False]] * 2, [[False, False], [True, False]]
    before = identify(pairs(safe), pairs(safe))
    assert before.keys() == {"tokens to train on", "labels to train on", "tokens held out",
                             "labels held out", "model"}  # fmt: skip
    for learned, held_out, changed in ((mixed, safe, "to train on"), (safe, mixed, "held out")):
        after = identify(pairs(learned), pairs(held_out))
        assert {name for name in after if after[name] != before[name]} == {f"labels {changed}"}
    assert "labels to train on" not in identify(pairs(None), None)
