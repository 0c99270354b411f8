"""Seeded permutations, the only randomness of the data layer."""

import numpy as np
from jaxtyping import Int

from safety_jax.base.errors import ConfigError


def permutation(count: int, *, seed: int, stream: int) -> Int[np.ndarray, " count"]:
    """A permutation of `range(count)` that depends on `seed` and `stream` alone.

    It sorts the raw words of a Philox counter, whose bits numpy guarantees; the shuffles of
    `numpy.random.Generator` may change from release to release, and with them a run's data.

    Raises:
        ConfigError: a negative seed.
    """
    if seed < 0:
        raise ConfigError(f"seed is {seed}; expected 0 or more")
    words = np.random.Philox(key=np.array([seed, stream], dtype=np.uint64)).random_raw(count)
    return np.argsort(words, kind="stable")
