"""Greedy and beam-search answers of transformers' `generate`; needs torch.

    python -m tests.golden.make_decode            writes tests/golden/decode.npz
    python -m tests.golden.make_decode --check    compares with it; exit code 1 on difference

Every prompt goes alone, so that nothing is padded.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from tests.golden import cases, compare


def answer(model: Any, prompt: list[int], beams: int) -> tuple[np.ndarray, float]:
    """New tokens, and the summed log-probability that beam search gives them (0 for greedy)."""
    with torch.no_grad():
        found = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            num_beams=beams,
            max_new_tokens=cases.DECODE_TOKENS,
            eos_token_id=list(cases.DECODE_EOS),
            pad_token_id=0,
            early_stopping=False,
            length_penalty=1.0,
            output_scores=True,
            return_dict_in_generate=True,
        )
    ids = found.sequences[0, len(prompt) :].numpy()
    score = float(found.sequences_scores[0]) * len(ids) if beams > 1 else 0.0
    return ids, score


def main() -> int:
    torch.set_num_threads(1)
    check = compare.parse_check(__doc__ or "")
    golden = compare.Golden(cases.FOLDER, check, tolerance=1e-4)
    arrays = {}
    for name, beams in cases.DECODE_RUNS:
        with tempfile.TemporaryDirectory() as folder:
            cases.write_folder(Path(folder), cases.read_config(name))
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        for number, prompt in enumerate(cases.decode_prompts(name)):
            ids, score = answer(model, prompt, beams)
            arrays[f"{name}/{beams}/{number}"] = ids
            arrays[f"{name}/{beams}/{number}/score"] = np.array(score)
    golden.arrays("decode.npz", arrays)
    return golden.finish()


if __name__ == "__main__":
    sys.exit(main())
