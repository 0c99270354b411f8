"""Answers prepared prompts with transformers; prints one line of JSON.

    python -m tests.benchmarks.decode_torch_worker FOLDER ANSWERS/ROWS

FOLDER is what `decode.prepare` wrote; ANSWERS is `forced` or `ended`. Prompts are sorted by length
and left-padded; a batch has ROWS answers.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path

import torch
import transformers


def main(folder: Path, answers: str, rows: int) -> None:
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.manual_seed(0)
    prompts = json.loads((folder / "prompts.json").read_text())
    given = json.loads((folder / "settings.json").read_text())
    own = json.loads((folder / "numbers.json").read_text()) == "own"
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder / "model", dtype="auto" if own else torch.float32
    ).eval()
    ends = given["ends"] if answers == "ended" else None
    model.generation_config.eos_token_id = ends
    order = sorted(prompts, key=len, reverse=True)
    count = rows // given["candidates"]

    def generate(batch: list[list[int]], new_tokens: int) -> list[int]:
        """The lengths of the answers."""
        width = max(map(len, batch))
        ids = torch.zeros(len(batch), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(batch):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        found = model.generate(
            ids, attention_mask=mask, do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
            num_return_sequences=given["candidates"], max_new_tokens=new_tokens,
            eos_token_id=ends, pad_token_id=0, use_cache=True,
        )[:, width:].tolist()  # fmt: skip
        return [length(answer) for answer in found]

    def length(answer: list[int]) -> int:
        places = (place for place, token in enumerate(answer) if token in (ends or ()))
        return next(places, len(answer) - 1) + 1

    with torch.inference_mode():
        generate(order[:count], 2)
        began = time.perf_counter()
        lengths: list[int] = []
        for start in range(0, len(order), count):
            lengths += generate(order[start : start + count], given["new_tokens"])
        seconds = time.perf_counter() - began
    said = {
        "seconds": seconds,
        "compile_seconds": 0.0,
        "lengths": lengths,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    print(json.dumps(said))


if __name__ == "__main__":
    folder, variant = sys.argv[1:]
    answers, rows = variant.split("/")
    main(Path(folder), answers, int(rows))
