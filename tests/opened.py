"""Logits of one folder, by transformers and by us, for tests that compare them."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from samples import execute_on

from safety_jax.models import llama


def by_transformers(model, ids: np.ndarray) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model.eval()(torch.tensor(ids)).logits.numpy()


def model_of(folder: Path):
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(folder)


def by_us(config, weights, ids: np.ndarray, mesh, adapters=None) -> np.ndarray:
    positions = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
    execution = execute_on(mesh, window=config.window)
    hidden = llama.forward(
        config, weights, jnp.asarray(ids), positions, jnp.ones(ids.shape, int), execution, adapters
    )
    return np.asarray(llama.logits(config, weights, hidden, mesh))
