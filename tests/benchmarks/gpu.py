"""What one GPU does with this project, and with transformers + PEFT beside it, in ten minutes.

    python -m tests.benchmarks.gpu --size 8b --minutes 10 --out gpu.json
    python -m tests.benchmarks.gpu --size tiny --parts attention,sft,dpo,decode     # any CPU

    attention  cuDNN's kernel on packed rows against `xla`: values, gradients, windows, refusals
    sft, dpo   LoRA on a randomly initialised model: tokens/s, MFU, peak memory
    decode     256 lanes, 128 new tokens each: new tokens/s beside what memory traffic allows
    trl        the SFT step of `sft` in transformers + PEFT: the same shape, rows and adapters

Weights and tokens are random, so nothing is downloaded. Every part is a process of its own
(gpu_worker.py, gpu_torch_worker.py): its memory is free when the next begins, its peak is its own,
and if it fails or outruns its share of the time, the others go on. The JSON is written anew after
each part.

Rows are filled to the last cell by examples of 1/2, 1/4, 1/8, 1/16 and 1/16 of their length, and
all tokens but the first of each example are trained, so that the FLOPs of the formula are the work
that is done. The peer is a plain loop and no `trl` trainer: TRL keeps packed examples apart with
FlashAttention only, transformers by the positions alone.

On a machine without network that has jax, flax (0.12.12 or later), optax, orbax, transformers, peft
and torch, what is missing for Python 3.12 are 5 MB of wheels, collected elsewhere by

    pip download --no-deps --only-binary=:all: --python-version 3.12 -d wheels \\
        --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 \\
        grain array-record cloudpickle portpicker psutil absl-py etils \\
        jaxtyping wadler-lindig ml_collections tqdm

and installed there by `pip install --no-index --no-deps wheels/*.whl`.
"""

import argparse
import dataclasses
import datetime
import importlib.metadata
import json
import math
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from safety_jax.maths import flops
from safety_jax.models import llama
from safety_jax.models.folders import hf_config, peft_config
from safety_jax.planning import chips, sizes
from safety_jax.training import policy

OURS, PEER = "tests.benchmarks.gpu_worker", "tests.benchmarks.gpu_torch_worker"
# Of the time that is left, a part may take its share among the parts that are left.
SHARES = {"attention": 2.0, "sft": 4.0, "dpo": 4.0, "decode": 2.5, "trl": 2.5}
TARGETS = {"sft": "MFU 55%", "dpo": "within 10% of SFT a token"}
PACKAGES = ("jax", "jaxlib", "flax", "optax", "transformers", "peft", "torch", "trl")


@dataclasses.dataclass(frozen=True)
class Size:
    """One scale of the whole check.

    Attributes:
        model: as its config.json has it.
        row_tokens: of a packed row.
        rows: packed rows of an optimizer step; DPO has half as many pairs of rows.
        chunk_tokens: see `logprobs.token_logprobs`.
        steps: timed, after one that compiles.
        lanes, prompt_tokens, new_tokens: of decoding; a prompt for each lane.
        prefill_tokens: of prompts that are read at once.
        pattern: the examples of a row have its length divided by these, and fill it.
    """

    model: Mapping[str, Any]
    row_tokens: int
    rows: int
    chunk_tokens: int
    steps: int
    lanes: int
    prompt_tokens: int
    new_tokens: int
    prefill_tokens: int = 4096
    lora_rank: int = 16
    lora_alpha: float = 32.0
    pattern: Sequence[int] = (2, 4, 8, 16, 16)


_8B = sizes.SIZES["llama3-8b"]
_1B = {
    **_8B, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
    "tie_word_embeddings": True,
}  # fmt: skip
_TINY = {
    **_8B, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 256,
}  # fmt: skip
SIZES = {
    "8b": Size(_8B, 4096, 8, 1024, 6, lanes=256, prompt_tokens=100, new_tokens=128),
    "1b": Size(_1B, 4096, 16, 1024, 8, lanes=256, prompt_tokens=100, new_tokens=128),
    "tiny": Size(
        _TINY, 128, 4, 64, 2, lanes=4, prompt_tokens=12, new_tokens=8, prefill_tokens=64,
        lora_rank=4,
    ),
}  # fmt: skip


# ---------------------------------------------------------------------------- arithmetic


def lengths(size: Size) -> list[int]:
    """Tokens of the examples of a row."""
    return [size.row_tokens // part for part in size.pattern]


def model_config(size: Size) -> llama.LlamaConfig:
    return hf_config.parse(size.model, "the model of this check")


def adapter(size: Size) -> peft_config.LoraConfig:
    """Fresh LoRA on every projection, without dropout."""
    targets = tuple(llama.targets(model_config(size)).values())
    return peft_config.LoraConfig(
        size.lora_rank, size.lora_alpha, dropout=0.0, targets=targets, rslora=False, base_name="",
        dtype="float32",
    )  # fmt: skip


def flops_per_token(size: Size) -> float:
    """Model FLOPs to train the adapters on one token of these rows, as runs log them."""
    return policy.flops_per_token(model_config(size), adapter(size), np.array(lengths(size)))


def card_speeds(kind: str) -> tuple[float | None, float | None]:
    """Dense bfloat16 FLOP/s and bytes/s of memory as published, by jax's name of the device."""
    found = (chip.bandwidth for chip in chips.CHIPS.values() if kind.startswith(chip.kind))
    return flops.peak_flops(kind), next(found, None)


def mfu(tokens_per_second: float, flops_per_token: float, peak: float | None) -> float | None:
    """Model FLOPs a second over what the card could do; None where that is not known."""
    return None if peak is None else tokens_per_second * flops_per_token / peak


def decode_bytes(
    *, matmul_weights: int, cache_bytes_per_token: int, lanes: int, prompt_tokens: int, new: int
) -> float:
    """Bytes that a step of decoding reads at least: all bfloat16 weights once, and of every lane
    the keys and values of its prompt and, on average, of half its answer."""
    return 2 * matmul_weights + lanes * (prompt_tokens + new / 2) * cache_bytes_per_token


def derive(part: str, found: Mapping[str, Any], size: Size) -> dict[str, Any]:
    """The figures of a part from what its worker measured, beside the card's published speeds."""
    peak, bandwidth = card_speeds(found["device"])
    if part in ("sft", "dpo", "trl"):
        rate = found["tokens_per_step"] / float(np.median(found["seconds"]))
        share = mfu(rate, flops_per_token(size), peak)
        return {"tokens_per_second": rate, "mfu": share}
    if part == "decode":
        rate = found["new_tokens"] / found["seconds"]
        if bandwidth is None:
            return {"tokens_per_second": rate}
        bound = found["lanes"] * bandwidth / found["bytes_per_step"]
        return {"tokens_per_second": rate, "bound": bound, "share_of_bound": rate / bound}
    return {}


# ---------------------------------------------------------------------------- running parts


def run(part: str, size: Size, seconds: float) -> dict[str, Any]:
    """What a part's worker says, or {"error": ...}; never raises for the worker's sake."""
    module = PEER if part == "trl" else OURS
    environment = os.environ | {
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    given = json.dumps(dataclasses.asdict(size) | {"model": dict(size.model)})
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as complaints:
        child = subprocess.Popen(
            [sys.executable, "-m", module, part, given],
            env=environment, stdout=said, stderr=complaints, text=True, start_new_session=True,
        )  # fmt: skip
        try:
            code = child.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            return {"error": f"not done after its {seconds:.0f} seconds"}
        said.seek(0)
        complaints.seek(0)
        lines, tail = said.read().splitlines(), complaints.read().strip()[-3000:]
    if code or not lines:
        return {"error": f"exit status {code}: {tail or 'it said nothing'}"}
    return json.loads(lines[-1])


def machine() -> dict[str, Any]:
    """The card and its driver as nvidia-smi names them, the date, and versions."""
    wanted = ["--query-gpu=name,driver_version,memory.total,power.limit", "--format=csv,noheader"]
    try:
        said = subprocess.run(["nvidia-smi", *wanted], capture_output=True, text=True).stdout
    except FileNotFoundError:
        said = ""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "card": said.strip() or "no NVIDIA card",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": versions,
    }


def check(parts: Sequence[str], name: str, minutes: float, out: Path) -> dict[str, Any]:
    """Runs the parts one after another; the report, which `out` has after each of them."""
    began, ends = time.monotonic(), time.monotonic() + 60 * minutes
    report: dict[str, Any] = {"size": name, **machine(), "parts": {}}
    print(f"{report['card']}; size {name}; {minutes:g} minutes", flush=True)
    for number, part in enumerate(parts):
        left = ends - time.monotonic()
        share = left * SHARES[part] / sum(SHARES[other] for other in parts[number:])
        print(f"{part}: at most {share:.0f} s of the {left:.0f} s left ...", flush=True)
        since = time.monotonic()
        found = run(part, SIZES[name], share)
        if "error" not in found:
            found |= derive(part, found, SIZES[name])
        found["wall_seconds"] = time.monotonic() - since
        report["parts"][part] = found
        report["wall_seconds"] = time.monotonic() - began
        out.write_text(json.dumps(report, indent=2) + "\n")
        print(f"  {line(part, found)}", flush=True)
    return report


# ---------------------------------------------------------------------------- the table


def line(part: str, found: Mapping[str, Any]) -> str:
    """A part's result in words."""
    if "error" in found:
        return f"{part:<10} FAILED: {found['error'].splitlines()[-1]}"
    words: list[str] = []
    if part == "attention":
        bad = [case["name"] for case in found["cases"] if not case["passed"]]
        count = len(found["cases"])
        words.append(f"{found['backend']}: {count - len(bad)} of {count} checks passed")
        words += [f"NOT {name}" for name in bad]
    else:
        words.append(f"{found['tokens_per_second']:,.0f} tokens/s")
    if found.get("mfu") is not None:
        words.append(f"MFU {found['mfu']:.1%}")
    if "share_of_bound" in found:
        words.append(f"{found['share_of_bound']:.0%} of the {found['bound']:,.0f} of the bound")
    if "first_token_seconds" in found:
        words.append(f"first token after {found['first_token_seconds']:.2f} s")
    if found.get("peak_bytes"):
        words.append(f"peak {found['peak_bytes'] / 2**30:.1f} GiB")
    if "first_loss" in found:
        words.append(
            f"first loss {found['first_loss']:.3f} (expected {found['expected_loss']:.3f})"
        )
    if part in TARGETS:
        words.append(f"target: {TARGETS[part]}")
    return f"{part:<10} {'; '.join(words)}"


def comparisons(parts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Ratios of parts that both ended well."""
    rates = {name: found.get("tokens_per_second") for name, found in parts.items()}
    pairs = {"dpo": "DPO against SFT, a token", "trl": "SFT here against transformers + PEFT"}
    found = []
    for other, words in pairs.items():
        sft, rate = rates.get("sft"), rates.get(other)
        if sft and rate:
            ratio = rate / sft if other == "dpo" else sft / rate
            found.append(f"{words}: {ratio:.2f}x the tokens/s")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--size", choices=SIZES, default="8b")
    parser.add_argument("--parts", default=",".join(SHARES), help="in the order to run them")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    given = parser.parse_args()
    parts = [part for part in given.parts.split(",") if part]
    if unknown := set(parts) - set(SHARES):
        parser.error(f"--parts {', '.join(sorted(unknown))}: expected some of {', '.join(SHARES)}")
    if not (math.isfinite(given.minutes) and given.minutes > 0):
        parser.error(f"--minutes {given.minutes}: expected more than 0")
    # This process counts weights on paper and must hold nothing of the card; its children do not
    # inherit this.
    jax.config.update("jax_platforms", "cpu")
    report = check(parts, given.size, given.minutes, given.out)
    print(f"\n{report['card']}, {report['date']}, size {given.size}")
    for part, found in report["parts"].items():
        print(line(part, found))
    print("\n".join(comparisons(report["parts"])))
    print(f"{given.out}: every figure; {report['wall_seconds']:.0f} s in all")
    bad = [part for part, found in report["parts"].items() if "error" in found]
    bad += [
        case["name"]
        for case in report["parts"].get("attention", {}).get("cases", [])
        if not case["passed"]
    ]
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
