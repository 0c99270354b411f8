"""What tests of decoding have in common: prompts, settings, and how a model answers them."""

import dataclasses

import jax.numpy as jnp

from safety_jax.models.decoding import generation
from safety_jax.models.model import Model
from tests.golden import cases

GREEDY = generation.SamplingParams(
    temperature=0.0, top_k=0, top_p=1.0, frequency_penalty=0.0, beams=1, length_penalty=1.0,
    candidates=1, max_new_tokens=cases.DECODE_TOKENS,
)  # fmt: skip
SAMPLED = dataclasses.replace(
    GREEDY, temperature=0.9, top_k=60, top_p=0.95, frequency_penalty=0.3, candidates=3
)
# One program of each kind: an odd number of lanes is not halved towards the end, and prompts are
# read one by one. Other sizes have their own test.
PACE = generation.Pace(
    lanes=5, prefill_tokens=32, bucket_tokens=32, chunk_steps=7, cache_dtype=jnp.float32
)
SEED = 3
PROMPTS = cases.decode_prompts("llama_grouped") + [[5, 6, 7], [90, 8, 9, 10, 11, 12, 50]]
NUMBERS = [100 + number for number in range(len(PROMPTS))]
EVERY = tuple(range(len(PROMPTS)))


def setup(settings=SAMPLED, eos=cases.DECODE_EOS, stop=None, **pace) -> generation.Setup:
    return generation.Setup(settings, dataclasses.replace(PACE, **pace), eos, stop)


def generate(model: Model, made: generation.Setup, which=EVERY):
    """Completions of some prompts, by index."""
    prompts, numbers = [PROMPTS[i] for i in which], [NUMBERS[i] for i in which]
    found = generation.generate(model, made, prompts, numbers, SEED, None)
    return dict(zip(which, found, strict=True))
