"""Scores prepared conversations with transformers; prints one line of JSON.

    python -m tests.benchmarks.score_torch_worker FOLDER ROWS_PER_BATCH

FOLDER is what `score.prepare` wrote. Sorted by length, each batch padded to its longest.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
import transformers

from tests.benchmarks import score


def main(folder: Path, rows: int) -> None:
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    began = time.perf_counter()
    texts = score.texts(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "model")
    model.eval()
    order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
    batches = [order[start : start + rows] for start in range(0, len(order), rows)]

    def step(batch: list[int]) -> np.ndarray:
        longest = max(len(texts[index]) for index in batch)
        ids = torch.zeros(len(batch), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, index in enumerate(batch):
            ids[row, : len(texts[index])] = torch.from_numpy(texts[index])
            mask[row, : len(texts[index])] = 1
        return model(input_ids=ids, attention_mask=mask).logits[:, 0].numpy()

    with torch.inference_mode():
        step(batches[len(batches) // 2])
        started = time.perf_counter()
        found = np.zeros(len(texts))
        for batch in batches:
            found[batch] = step(batch)
        ended = time.perf_counter()
    padded = sum(len(batch) * max(len(texts[index]) for index in batch) for batch in batches)
    said = {"seconds": ended - started, "before": started - began, "padded_tokens": padded}
    print(json.dumps(said | {"scores": found.tolist()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
