"""A tiny model to ask, and what it must answer, from whole logits."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from safety_jax.evaluation.harness.loglikelihood import RequestLimits, ScoredModel
from safety_jax.models import llama
from safety_jax.models.execution import Execution

WINDOW = 48
LIMITS = RequestLimits(longest=WINDOW, tokens_per_batch=192, chunk_tokens=16)


def tiny_model(config: llama.LlamaConfig, run: Execution, tokens) -> ScoredModel:
    """Random weights for the tokens of a tokenizer."""
    config = dataclasses.replace(config, vocabulary_size=len(tokens))
    weights = llama.initialize(config, jax.random.key(0), run.mesh, jnp.float32)
    return ScoredModel(config, run, weights, None, tokens)


@functools.cache
def whole_logits(config: llama.LlamaConfig, run: Execution):
    """Logits of one row of any length, padded at its end, where nothing sees it."""

    @jax.jit
    def compute(weights, adapters, ids):
        positions = jnp.arange(ids.shape[1])[None]
        ones = jnp.ones(ids.shape, int)
        hidden = llama.forward(config, weights, ids, positions, ones, run, adapters)
        return llama.logits(config, weights, hidden, run.mesh)

    return compute


def logprobs(model: ScoredModel, ids: list[int]) -> np.ndarray:
    """log p of every token behind every prefix, from whole logits."""
    row = np.zeros((1, 128), np.int32)
    row[0, : len(ids)] = ids
    compute = whole_logits(model.config, model.run)
    logits = np.asarray(compute(model.weights, model.adapters, row), np.float64)[0, : len(ids)]
    return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)


def by_hand(model: ScoredModel, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """What a pair's likelihood is, and whether it is greedy."""
    read = [*context, *continuation][-(WINDOW + 1) :][:-1]
    found = logprobs(model, read)[-len(continuation) :]
    chosen = found[np.arange(len(continuation)), continuation]
    return float(chosen.sum()), bool((found.argmax(axis=-1) == continuation).all())
