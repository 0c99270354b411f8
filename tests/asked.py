"""A tiny model to ask, and what it must answer, from whole logits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from safety_jax.evaluation.harness.loglikelihood import RequestLimits
from safety_jax.models import llama
from safety_jax.models.execution import Execution
from safety_jax.models.model import Model
from tests.samples import whole_logits

WINDOW = 48
LIMITS = RequestLimits(longest=WINDOW, tokens_per_batch=192, chunk_tokens=16)


def tiny_model(config: llama.LlamaConfig, run: Execution, tokens) -> Model:
    """Random weights for the tokens of a tokenizer."""
    config = dataclasses.replace(config, vocabulary_size=len(tokens))
    weights = llama.initialize(config, jax.random.key(0), run.mesh, jnp.float32)
    return Model(config, run, weights, None, tokens)


def logprobs(model: Model, ids: list[int]) -> np.ndarray:
    """log p of every token behind every prefix, from whole logits."""
    # Padded at its end, where nothing sees it.
    row = np.zeros((1, 128), np.int32)
    row[0, : len(ids)] = ids
    logits = np.asarray(whole_logits(model, row), np.float64)[0, : len(ids)]
    return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)


def by_hand(model: Model, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """What a pair's likelihood is, and whether it is greedy."""
    read = [*context, *continuation][-(WINDOW + 1) :][:-1]
    found = logprobs(model, read)[-len(continuation) :]
    chosen = found[np.arange(len(continuation)), continuation]
    return float(chosen.sum()), bool((found.argmax(axis=-1) == continuation).all())
