"""Scores prepared conversations with this project; prints one line of JSON.

    python -m tests.benchmarks.score_jax_worker FOLDER TOKENS_PER_BATCH

FOLDER is what `score.prepare` wrote. The clock starts when every shape is compiled.
"""

import json
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from safety_jax.base import meshes
from safety_jax.data import buckets
from safety_jax.models.encoders import heads
from safety_jax.models.execution import Execution
from tests.benchmarks import score


def main(folder: Path, tokens_per_batch: int) -> None:
    began = time.perf_counter()
    texts = score.texts(folder)
    mesh = meshes.build(1, 1, 1, devices=jax.devices()[:1])
    scorer = heads.read_scorer(folder / "model")
    weights = heads.load(folder / "model", scorer, mesh, jnp.float32)
    run = Execution.build(
        mesh, rules=scorer.rules, compute_dtype=jnp.float32, backend="auto", remat="none"
    )
    rungs = buckets.ladder(32, score.LONGEST)
    batches = buckets.buckets([len(text) for text in texts], rungs, tokens_per_batch, 1)

    @jax.jit
    def step(weights, ids, lengths):
        mask = jnp.arange(ids.shape[1])[None] < lengths[:, None]
        return heads.scores(scorer, weights, ids, jnp.zeros_like(ids), mask, run)

    programs = {}
    for bucket in batches:
        shape = (bucket.rows, bucket.length)
        if shape not in programs:
            arguments = (jax.ShapeDtypeStruct(size, jnp.int32) for size in (shape, shape[:1]))
            programs[shape] = step.lower(weights, *arguments).compile()
    started = time.perf_counter()
    found = np.zeros(len(texts))
    for bucket in batches:
        ids = np.zeros((bucket.rows, bucket.length), np.int32)
        lengths = np.ones(bucket.rows, np.int32)
        for row, index in enumerate(bucket.indices):
            lengths[row] = len(texts[index])
            ids[row, : lengths[row]] = texts[index]
        scores = programs[ids.shape](weights, ids, lengths)
        found[bucket.indices] = np.asarray(scores)[: len(bucket.indices), 0]
    ended = time.perf_counter()
    padded = sum(bucket.rows * bucket.length for bucket in batches)
    said = {"seconds": ended - started, "before": started - began, "padded_tokens": padded}
    print(json.dumps(said | {"scores": found.tolist()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
