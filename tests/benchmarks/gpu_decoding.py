"""The GPU check's part `decode`: sampled answers of a model with random weights."""

import time
from typing import Any

import jax
import numpy as np

from safety_jax.models import llama
from safety_jax.models.decoding import generation
from safety_jax.models.execution import Execution
from safety_jax.models.model import Model
from safety_jax.planning import formulas
from tests.benchmarks import gpu
from tests.benchmarks.gpu import Size
from tests.benchmarks.gpu_device import DTYPE, facts, one_device


def decode(size: Size) -> dict[str, Any]:
    """A prompt for each lane, answers of one length; the second call is timed, for it compiles
    nothing. The first token's time is that of a call for one token alone."""
    mesh, config = one_device(), gpu.model_config(size)
    execution = Execution.build(
        mesh, rules=config.rules, compute_dtype=DTYPE, backend="auto", remat="none"
    )
    weights = llama.initialize(config, jax.random.key(0), mesh, DTYPE)
    model = Model(config, execution, weights, None, None)
    random = np.random.default_rng(0)
    # Within a tenth of the mean length; none begins as another, so that nothing is read once.
    counts = random.integers(size.prompt_tokens * 9 // 10, size.prompt_tokens * 11 // 10 + 1,
                             size.lanes)  # fmt: skip
    prompts = [random.integers(0, config.vocabulary_size, count).tolist() for count in counts]
    pace = generation.Pace(
        lanes=size.lanes, prefill_tokens=size.prefill_tokens, bucket_tokens=128, chunk_steps=32,
        cache_dtype=DTYPE,
    )  # fmt: skip

    def answer(new_tokens: int, seed: int) -> tuple[float, int]:
        """Seconds, and tokens that were written."""
        settings = generation.SamplingParams(
            temperature=1.0, top_k=0, top_p=1.0, frequency_penalty=0.0, beams=1,
            length_penalty=1.0, candidates=1, max_new_tokens=new_tokens,
        )  # fmt: skip
        setup = generation.Setup(settings, pace, (), None)
        began = time.perf_counter()
        found = generation.generate(model, setup, prompts, range(size.lanes), seed, None)
        seconds = time.perf_counter() - began
        return seconds, sum(len(one.ids) for answers in found for one in answers)

    compiling, _ = answer(size.new_tokens, 0)
    seconds, written = answer(size.new_tokens, 1)
    answer(1, 0)
    first, _ = answer(1, 1)
    return {
        "seconds": seconds,
        "first_call_seconds": compiling,
        "new_tokens": written,
        "first_token_seconds": first,
        "lanes": size.lanes,
        "bytes_per_step": gpu.decode_bytes(
            matmul_weights=formulas.kernel_weights(config) + formulas.head_weights(config),
            cache_bytes_per_token=(
                2 * config.layers * config.kv_heads * config.head_size * DTYPE.itemsize
            ),
            lanes=size.lanes,
            prompt_tokens=size.prompt_tokens,
            new=size.new_tokens,
        ),
        **facts(),
    }
