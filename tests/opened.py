"""Logits of one folder, by transformers and by us, for tests that compare them."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from safety_jax.models.model import Model
from tests.samples import execute_on, whole_logits


def by_transformers(model, ids: np.ndarray) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model.eval()(torch.tensor(ids)).logits.numpy()


def model_of(folder: Path):
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(folder)


def by_us(config, weights, ids: np.ndarray, mesh, adapters=None) -> np.ndarray:
    model = Model(config, execute_on(mesh, rules=config.rules), weights, adapters, None)
    return np.asarray(whole_logits(model, jnp.asarray(ids)))
