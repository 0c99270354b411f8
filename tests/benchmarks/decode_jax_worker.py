"""Answers prepared prompts with this project; prints one line of JSON.

    python -m tests.benchmarks.decode_jax_worker FOLDER ANSWERS/CACHE_DTYPE

FOLDER is what `decode.prepare` wrote; ANSWERS is `forced` or `ended`.
"""

import json
import resource
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp

from safety_jax.base import compilation, meshes
from safety_jax.models.decoding import generation
from safety_jax.models.execution import Execution, computed_type
from safety_jax.models.folders import hf, hf_config
from safety_jax.models.model import Model
from tests.benchmarks import decode as benchmark
from tests.benchmarks.jax_worker import Compiling


def main(folder: Path, answers: str, cache_dtype: str) -> None:
    compilation.keep(str(folder / "compiled"))
    compiling = Compiling()
    prompts = json.loads((folder / "prompts.json").read_text())
    given = json.loads((folder / "settings.json").read_text())
    config = hf_config.read_config(folder / "model")
    mesh = meshes.build(1, 1, 1, devices=jax.devices()[:1])
    own = json.loads((folder / "numbers.json").read_text()) == "own"
    dtype = computed_type("cpu") if own else "float32"
    run = Execution.build(
        mesh, rules=config.rules, compute_dtype=dtype, backend="xla", remat="none"
    )
    weights = hf.load(folder / "model", config, mesh, jnp.float32)
    settings = generation.SamplingParams(
        temperature=1.0, top_k=0, top_p=1.0, frequency_penalty=0.0, beams=1, length_penalty=1.0,
        candidates=given["candidates"], max_new_tokens=given["new_tokens"],
    )  # fmt: skip
    pace = generation.Pace(
        lanes=benchmark.LANES, prefill_tokens=256, bucket_tokens=64, chunk_steps=16,
        cache_dtype=jnp.dtype(cache_dtype),
    )  # fmt: skip
    eos_ids = tuple(given["ends"]) if answers == "ended" else ()
    model = Model(config, run, weights, None, None)
    setup = generation.Setup(settings, pace, eos_ids, None)
    jax.block_until_ready(weights)
    before, began = compiling.seconds, time.perf_counter()
    found = generation.generate(model, setup, prompts, range(len(prompts)), 0, None)
    seconds = time.perf_counter() - began
    compiled = compiling.seconds - before
    said = {
        "seconds": seconds - compiled,
        "compile_seconds": compiled,
        "lengths": [len(answer.ids) for row in found for answer in row],
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    print(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2].split("/"))
