"""Logits of transformers' reading of GGUF files; needs torch.

    python -m tests.golden.make_gguf            writes tests/golden/gguf.npz
    python -m tests.golden.make_gguf --check    compares with it at 1e-5; exit code 1 on difference

One file has every type of quantisation that is read. Files of plain numbers hold the models of
`make_llama`, and transformers must find the logits of the folders that they were converted from: it
shows that the rows of queries and keys are in llama.cpp's order.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from tests.golden import cases, compare, gguf_files

SAME = ("llama_grouped", "llama_tied", "qwen2")


def logits(folder: Path, ids: np.ndarray) -> np.ndarray:
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file="model.gguf", dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        return model.eval()(torch.from_numpy(ids)).logits.numpy()


def main() -> int:
    torch.set_num_threads(1)
    golden = compare.Golden(cases.FOLDER, compare.parse_check(__doc__ or ""), tolerance=1e-5)
    ids = cases.generator("gguf").randint(0, cases.VOCABULARY, (1, cases.TOKENS))
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "model.gguf"
        gguf_files.write(file, gguf_files.KINDS_CONFIG, gguf_files.KINDS)
        golden.arrays("gguf.npz", {"ids": ids, "logits": logits(file.parent, ids)})
        for case in SAME:
            known = cases.read_golden(case)
            gguf_files.write(file, cases.read_config(case))
            gap = compare.largest_difference(known["logits"], logits(file.parent, known["ids"]))
            if gap > 1e-5:
                golden.failures.append(f"{case}: the file is another model, by {gap:.3g}")
    return golden.finish()


if __name__ == "__main__":
    sys.exit(main())
