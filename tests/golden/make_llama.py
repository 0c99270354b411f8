"""Logits of transformers for every family and head layout; needs torch.

    python -m tests.golden.make_llama            writes tests/golden/families/
    python -m tests.golden.make_llama --check    compares with it at 1e-5; exit code 1 on difference

The check also opens every case in the config spelling of transformers 4 and expects equal logits,
so that both spellings that the tests rely on are known to mean the same model.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.golden import cases, compare


def saved_config(case: dict[str, Any]) -> dict[str, Any]:
    """`config.json` as the installed transformers saves it."""
    config = AutoConfig.for_model(**case)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return json.loads((Path(folder) / "config.json").read_text())


def reference_logits(config: dict[str, Any], ids: np.ndarray) -> np.ndarray:
    """Opens the folder that the tests open, with nothing missing and nothing left over."""
    with tempfile.TemporaryDirectory() as folder:
        cases.write_folder(Path(folder), config)
        model, report = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
        )
    unmatched = {key: value for key, value in report.items() if value}
    if unmatched:
        raise RuntimeError(f"transformers did not take the weights as written: {unmatched}")
    with torch.no_grad():
        return model(torch.from_numpy(ids)).logits.numpy()


def main() -> int:
    torch.set_num_threads(1)
    golden = compare.Golden(
        cases.FOLDER / "families", compare.parse_check(__doc__ or ""), tolerance=1e-5
    )
    for name, case in cases.CASES.items():
        golden.config(f"{name}/config.json", saved_config(case))
        config = cases.read_config(name)
        ids = cases.generator(name).randint(0, cases.VOCABULARY, (1, cases.TOKENS))
        logits = reference_logits(config, ids)
        golden.arrays(f"{name}/golden.npz", {"ids": ids, "logits": logits})
        gap = compare.largest_difference(logits, reference_logits(cases.old_spelling(config), ids))
        if gap > 0:
            golden.failures.append(f"{name}: the old spelling is another model, by {gap:.3g}")
        print(f"{name}: logits up to {np.abs(logits).max():.2f}")
    return golden.finish()


if __name__ == "__main__":
    sys.exit(main())
