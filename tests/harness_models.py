"""Tiny models behind lm-evaluation-harness, and what they must answer."""

from pathlib import Path

import jax.numpy as jnp

from safety_jax.evaluation.harness.language_model import HarnessLM
from safety_jax.models.decoding import generation
from tests.asked import LIMITS, WINDOW, logprobs
from tests.golden import cases
from tests.samples import model_of

PACE = generation.Pace(
    lanes=2, prefill_tokens=64, bucket_tokens=64, chunk_steps=8, cache_dtype=jnp.float32
)


def greedy_text(model, tokens, prompt: list[int], count: int) -> str:
    ids = list(prompt)
    while len(ids) < len(prompt) + count and ids[-1] != 2:
        ids.append(int(logprobs(model, ids)[-1].argmax()))
    return tokens.decode(ids[len(prompt) :], skip_special_tokens=True)


def in_both(folder: Path, tokens, mesh):
    """HFLM and ours on the same random folder."""
    from lm_eval.models.huggingface import HFLM

    config = cases.LLAMA | {"vocab_size": len(tokens), "architectures": ["LlamaForCausalLM"]}
    config |= {"bos_token_id": tokens.bos_token_id, "eos_token_id": tokens.eos_token_id}
    cases.write_folder(folder, config)
    tokens.save_pretrained(folder)
    theirs = HFLM(str(folder), device="cpu", dtype="float32", batch_size=4, max_length=WINDOW)
    model = model_of(folder, mesh, tokens)
    return theirs, HarnessLM(model, LIMITS, PACE, (tokens.eos_token_id,), 1)
