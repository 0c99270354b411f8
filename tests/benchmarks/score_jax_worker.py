"""Scores prepared conversations with this project; prints one line of JSON.

    python -m tests.benchmarks.score_jax_worker FOLDER TOKENS_PER_BATCH

FOLDER is what `score.prepare` wrote. The clock starts when every shape is compiled.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from safety_jax.base import meshes
from safety_jax.judges.batching import Batcher, TokenRow
from safety_jax.models.encoders import heads
from safety_jax.models.execution import Execution, computed_type
from tests.benchmarks import score


def main(folder: Path, tokens_per_batch: int) -> None:
    began = time.perf_counter()
    texts = score.texts(folder)
    mesh = meshes.build(1, 1, 1, devices=jax.devices()[:1])
    scorer = heads.read_scorer(folder / "model")
    weights = heads.load(folder / "model", scorer, mesh, jnp.float32)
    own = json.loads((folder / "numbers.json").read_text()) == "own"
    dtype = computed_type("cpu") if own else "float32"
    run = Execution.build(
        mesh, rules=scorer.rules, compute_dtype=dtype, backend="auto", remat="none"
    )
    batcher = Batcher(mesh, score.LONGEST, tokens_per_batch, scorer.config.vocabulary_size, "judge")
    rows = [TokenRow(text.tolist(), [0] * len(text)) for text in texts]
    step = jax.jit(
        lambda weights, tokens, ends: heads.packed_scores(scorer, weights, tokens, ends, run)
    )
    programs: dict[tuple[int, ...], Any] = {}
    compiling = time.perf_counter()
    for batch in batcher.batches(rows):
        shape = batch.tokens.ids.shape
        if shape not in programs:
            programs[shape] = step.lower(weights, batch.tokens, batch.ends).compile()
    started, used = time.perf_counter(), time.process_time()
    found, padded = np.zeros(len(texts)), 0
    for batch in batcher.batches(rows):
        shape = batch.tokens.ids.shape
        scores = np.asarray(programs[shape](weights, batch.tokens, batch.ends))
        found[batch.indices] = scores[..., 0][batch.places]
        padded += shape[0] * shape[1]
    ended, used = time.perf_counter(), time.process_time() - used
    said = {"seconds": ended - started, "cpu": used, "before": compiling - began}
    said |= {"compile": started - compiling, "programs": len(programs)}
    print(json.dumps(said | {"padded_tokens": padded, "scores": found.tolist()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
