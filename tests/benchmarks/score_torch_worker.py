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
    if json.loads((folder / "numbers.json").read_text()) == "float32":
        model.float()
    order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
    batches = [order[start : start + rows] for start in range(0, len(order), rows)]

    def step(batch: list[int]) -> np.ndarray:
        longest = max(len(texts[index]) for index in batch)
        # A causal model's head reads the last token that is not padding.
        ids = torch.full((len(batch), longest), model.config.pad_token_id or 0)
        mask = torch.zeros_like(ids)
        for row, index in enumerate(batch):
            ids[row, : len(texts[index])] = torch.from_numpy(texts[index])
            mask[row, : len(texts[index])] = 1
        return model(input_ids=ids, attention_mask=mask).logits[:, 0].numpy()

    with torch.inference_mode():
        step(batches[len(batches) // 2])
        started, used = time.perf_counter(), time.process_time()
        found = np.zeros(len(texts))
        for batch in batches:
            found[batch] = step(batch)
        ended, used = time.perf_counter(), time.process_time() - used
    padded = sum(len(batch) * max(len(texts[index]) for index in batch) for batch in batches)
    said = {"seconds": ended - started, "cpu": used, "before": started - began}
    said |= {"compile": 0.0, "programs": 0}
    print(json.dumps(said | {"padded_tokens": padded, "scores": found.tolist()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
