"""From logits to the next token: frequency penalty, temperature, top-k, top-p, and the draw.

Nothing here sorts the vocabulary or draws a number for each of its entries. The threshold of top-k
and top-p is found by bisection over the bits of the probabilities, and the token by inverting the
cumulative distribution at one uniform number per row. Both take a few sums over the vocabulary,
whether it is sharded or not. Sums add up FOLD columns in parallel first, because a CPU would sum a
whole row as a chain of scalar additions.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from safety_jax.base.errors import ConfigError

FOLD = 128  # nearly all vocabularies are multiples of it; others are padded


@dataclasses.dataclass(frozen=True)
class SamplingParams:
    """How the next token is chosen, and how many answers of which length are generated.

    Attributes:
        temperature: 0 always chooses the most likely token.
        top_k: keeps the k most likely tokens; 0 keeps all.
        top_p: keeps the fewest tokens that hold this probability, after top-k (Holtzman et al.
            2020, arXiv 1904.09751); 1 keeps all.
        frequency_penalty: subtracted from a token's logit for each of its occurrences in the answer
            so far.
        beams: with more than 1, beam search (`beams.py`) instead of sampling.
        length_penalty: of beam search, which divides scores by the answer's length to this power.
        candidates: answers to each prompt; with beams, how many of the best are returned.
        max_new_tokens: of an answer, including end-of-sequence.
    """

    temperature: float
    top_k: int
    top_p: float
    frequency_penalty: float
    beams: int
    length_penalty: float
    candidates: int
    max_new_tokens: int

    @property
    def drawing(self) -> "SamplingParams":
        """The settings that a compiled program depends on; the number of candidates and the length
        are among its inputs."""
        return dataclasses.replace(self, candidates=1, max_new_tokens=1, length_penalty=1.0)

    def check(self) -> None:
        """Raises a ConfigError for values that ask for nothing sensible."""
        expected = {
            "temperature": (self.temperature >= 0, "0 (greedy) or more"),
            "top_k": (self.top_k >= 0, "0 (all) or more"),
            "top_p": (0 < self.top_p <= 1, "above 0, at most 1 (all)"),
            "beams": (self.beams >= 1, "1 (none) or more"),
            "candidates": (self.candidates >= 1, "1 or more"),
            "max_new_tokens": (self.max_new_tokens >= 1, "1 or more"),
        }
        for name, (fine, wanted) in expected.items():
            if not fine:
                raise ConfigError(f"{name} {getattr(self, name)}: expected {wanted}")
        if self.beams > 1 and (self.temperature or self.frequency_penalty or self.top_k):
            raise ConfigError(
                f"beams {self.beams} with temperature {self.temperature}, top_k {self.top_k}, "
                f"frequency_penalty {self.frequency_penalty}: beam search takes none; set them to 0"
            )
        distinct = self.beams if self.beams > 1 else 1 if self.temperature == 0 else None
        if distinct is not None and self.candidates > distinct:
            raise ConfigError(
                f"candidates {self.candidates}: temperature 0 with {self.beams} beam(s) has "
                f"{distinct} answer(s); set temperature above 0, or ask for fewer candidates"
            )


def penalise(
    logits: Float[Array, "R V"],
    history: Int[Array, "R W"],
    generated: Bool[Array, "R W"],
    penalty: float,
) -> Float[Array, "R V"]:
    """Subtracts `penalty` from a token's logit for each of its occurrences that was generated."""
    rows = jnp.broadcast_to(jnp.arange(history.shape[0])[:, None], history.shape)
    return logits.at[rows, history].add(jnp.where(generated, -penalty, 0.0))


def largest_threshold(
    values: Float[Array, "R V"], weights: Float[Array, "R V"], target: Float[Array, " R"]
) -> Float[Array, "R 1"]:
    """The largest t such that the weights of all values >= t sum to at least the target; values
    must be >= 0.

    Non-negative floats have the order of their bits, so t is found bit by bit.
    """
    bits = jax.lax.bitcast_convert_type(values, jnp.int32)

    def try_bit(number, found):
        raised = found | (jnp.int32(1) << (30 - number))
        held = total(jnp.where(bits >= raised, weights, 0.0))
        return jnp.where(held >= target[:, None], raised, found)

    found = jax.lax.fori_loop(0, 31, try_bit, jnp.zeros((values.shape[0], 1), jnp.int32))
    return jax.lax.bitcast_convert_type(found, jnp.float32)


def truncate(masses: Float[Array, "R V"], settings: SamplingParams) -> Float[Array, "R V"]:
    """Unnormalised probabilities, with 0 for all tokens outside top-k, then outside top-p."""
    rows, vocabulary = masses.shape
    if 0 < settings.top_k < vocabulary:
        count = jnp.full((rows,), settings.top_k, jnp.float32)
        cut = largest_threshold(masses, jnp.ones_like(masses), count)
        masses = jnp.where(masses >= cut, masses, 0.0)
    if settings.top_p < 1:
        cut = largest_threshold(masses, masses, settings.top_p * total(masses)[:, 0])
        masses = jnp.where(masses >= cut, masses, 0.0)
    return masses


def invert(masses: Float[Array, "R V"], uniform: Float[Array, " R"]) -> Int[Array, " R"]:
    """The first token whose cumulative probability exceeds `uniform`; masses are unnormalised.

    The order of accumulation is 0, FOLD, 2 FOLD, ..., then 1, FOLD + 1, ..., and so on.
    """
    folded = fold(masses, 0.0)
    ends = jnp.cumsum(folded.sum(axis=1), axis=-1)
    point = (uniform * ends[:, -1])[:, None]
    column = jnp.sum(ends <= point, axis=-1)  # this column has some mass
    before = jnp.where(
        column > 0, jnp.take_along_axis(ends, column[:, None] - 1, axis=1)[:, 0], 0.0
    )
    inside = jnp.take_along_axis(folded, column[:, None, None], axis=2)[:, :, 0]
    reached = jnp.cumsum(inside, axis=-1) > point - before[:, None]
    # By rounding, the point may be just beyond the column's sum: take its last token with mass.
    lines = jnp.broadcast_to(jnp.arange(inside.shape[1]), inside.shape)
    last = jnp.max(jnp.where(inside > 0, lines, 0), axis=-1)
    first = jnp.min(jnp.where(reached & (inside > 0), lines, inside.shape[1]), axis=-1)
    return (jnp.minimum(first, last) * FOLD + column).astype(jnp.int32)


def fold(values: Float[Array, "R V"], fill: float) -> Float[Array, "R _ FOLD"]:
    """Divides each row into lines of FOLD tokens."""
    rows, vocabulary = values.shape
    padded = jnp.pad(values, ((0, 0), (0, -vocabulary % FOLD)), constant_values=fill)
    return padded.reshape(rows, -1, FOLD)


def total(values: Float[Array, "R V"]) -> Float[Array, "R 1"]:
    return fold(values, 0.0).sum(axis=1).sum(axis=-1, keepdims=True)


def largest(values: Float[Array, "R V"]) -> Float[Array, "R 1"]:
    return fold(values, -jnp.inf).max(axis=1).max(axis=-1, keepdims=True)


def most_likely(logits: Float[Array, "R V"]) -> Int[Array, " R"]:
    """The first token with the largest logit. (XLA's own argmax is far slower on a CPU.)"""
    folded = fold(logits, -jnp.inf)
    tokens = jnp.arange(folded.shape[1] * FOLD, dtype=jnp.int32).reshape(1, -1, FOLD)
    tokens = jnp.broadcast_to(tokens, folded.shape)
    found = jnp.where(folded >= largest(logits)[:, :, None], tokens, logits.shape[1] - 1)
    return found.min(axis=1).min(axis=-1)


def candidate_keys(seed: UInt32[Array, " 2"], names: UInt32[Array, "R 2"]) -> UInt32[Array, "R 2"]:
    """The key of each candidate, folded from seed, prompt id and candidate number alone."""

    def fold(name):
        key = jax.random.wrap_key_data(seed, impl="threefry2x32")
        for number in name:
            key = jax.random.fold_in(key, number)
        return jax.random.key_data(key)

    return jax.vmap(fold)(names)


def draw(
    logits: Float[Array, "R V"],
    keys: UInt32[Array, "R 2"],
    positions: Int[Array, " R"],
    settings: SamplingParams,
) -> Int[Array, " R"]:
    """The next token of each row.

    Args:
        logits: float32, after any penalty.
        keys: from `candidate_keys`.
        positions: the index of the token in its answer, which is folded into the key.
    """
    if settings.temperature == 0:
        return most_likely(logits)

    def uniform(key, position):
        key = jax.random.wrap_key_data(key, impl="threefry2x32")
        return jax.random.uniform(jax.random.fold_in(key, position))

    masses = jnp.exp((logits - largest(logits)) / settings.temperature)
    return invert(truncate(masses, settings), jax.vmap(uniform)(keys, positions))


def logprob(logits: Float[Array, "R V"], tokens: Int[Array, " R"]) -> Float[Array, " R"]:
    """Log-probability of a token of each row under these logits."""
    chosen = jnp.take_along_axis(logits, tokens[:, None], axis=-1)[:, 0]
    top = largest(logits)
    return chosen - (top + jnp.log(total(jnp.exp(logits - top))))[:, 0]
