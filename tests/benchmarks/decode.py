"""Sampling against `generate` of transformers: same weights, prompts, settings and threads.

    python -m tests.benchmarks.decode [--answers forced] [--rounds 1] [--folder FOLDER]
    python -m tests.benchmarks.decode --model MODEL [--prompts FILE] [--count 128] [--tokens 64]

With MODEL, a Hugging Face folder with a chat template answers each prompt of FILE, one a line, or
made-up ones, once each, as `evaluate` does.

Without it: 64 prompts x 8 candidates x up to 128 tokens at temperature 1, from a LLaMA of 30 M
parameters. It is first trained by stage `sft`, all weights, for 60 steps on answers of at most 80
tokens, so that its answers end at different lengths; real rows where $SAFETY_JAX_SHARED names them,
and prompts that were not trained on.

`forced` takes no end of sequence: every answer has all tokens. `ended` lets answers end.
transformers takes prompts sorted by length, left-padded, with its KV cache, in batches of the best
of several sizes; this project takes them in lanes. Every run is its own process, pinned to the same
cores. Prints new tokens per second without loading and XLA's compiling, which is printed beside.
Float32 on CPU; only figures of an idle machine mean much. FOLDER keeps what was prepared. Needs the
extra `parity`.
"""

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import transformers

from configs import sft as sft_config
from safety_jax.data import prompt_ids, prompts, records, sources
from safety_jax.models.decoding.ends import model_ends
from safety_jax.models.execution import computed_type
from safety_jax.stages import sft
from tests.benchmarks import contest, given

OURS, PEER = "tests.benchmarks.decode_jax_worker", "tests.benchmarks.decode_torch_worker"
SIZES = {
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 10,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "tie_word_embeddings": True,
}
PROMPTS, CANDIDATES, NEW_TOKENS = 64, 8, 128
LANES = 128
LONGEST_ANSWER, STEPS, BATCH = 80, 60, 16
TRAINING_ROWS = "safety_tuned_llamas/training/safety_only_data_Instructions.json"

Found = dict[contest.Key, list[dict[str, Any]]]


def prepare(folder: Path) -> None:
    """Writes `model`, trained, and `prompts.json`; does nothing where they are there."""
    if (folder / "prompts.json").exists():
        return
    tokens = given.write_model(folder / "random", SIZES)
    rows = read_rows(tokens)
    asked, taught = rows[:PROMPTS], rows[PROMPTS:]
    taught = [row for row in taught if len(tokens.encode(row["output"])) <= LONGEST_ANSWER]
    (folder / "rows.json").write_text(json.dumps(taught))
    (folder / "asked.json").write_text(json.dumps(asked))
    train(folder)
    source = sources.open_source(str(folder / "asked.json"))
    template = prompts.load_template("alpaca", tokens)
    ids = prompt_ids.encode_prompts(records.read_prompts(source), template, tokens)
    write(folder, [list(map(int, row)) for row in ids], CANDIDATES, NEW_TOKENS, [2])


def prepare_chat(folder: Path, chosen: argparse.Namespace) -> None:
    """Likewise of a chat model as it is."""
    model = Path(chosen.model)
    tokens = transformers.AutoTokenizer.from_pretrained(model)
    random = np.random.RandomState(0)
    asked = [given.made_up_text(random, 5, 0.4) for _ in range(chosen.count)]
    if chosen.prompts:
        lines = Path(chosen.prompts).read_text().splitlines()
        asked = [line for line in lines if line.strip()][: chosen.count]
    ids = [
        tokens.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
        )
        for text in asked
    ]
    (folder / "model").symlink_to(model.resolve())
    write(folder, ids, 1, chosen.tokens, list(model_ends(model, tokens)))


def write(
    folder: Path, ids: list[list[int]], candidates: int, new_tokens: int, ends: list[int]
) -> None:
    """What workers read."""
    settings = {"candidates": candidates, "new_tokens": new_tokens, "ends": ends}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "prompts.json").write_text(json.dumps(ids))


def read_rows(tokens) -> list[dict[str, str]]:
    """Instructions and answers, shuffled; made-up ones where there are no real ones."""
    random = np.random.RandomState(0)
    shared = given.shared_folder()
    if shared is None:
        print("no real rows: $SAFETY_JAX_SHARED is not set", flush=True)
        return [
            {
                "instruction": given.made_up_text(random, 12, 0.4),
                "output": given.made_up_text(random, 40, 0.6),
            }
            for _ in range(2000)
        ]
    rows = json.loads((shared / "data" / TRAINING_ROWS).read_text())
    return [rows[index] for index in random.permutation(len(rows))]


def train(folder: Path) -> None:
    config = sft_config.get_config()
    config.update_from_flattened_dict(
        {
            "model.path": str(folder / "random"),
            "model.parameter_dtype": "float32",
            "model.compute_dtype": "float32",
            "model.remat": "none",
            "lora.rank": 0,
            "data.train": (str(folder / "rows.json"),),
            "data.eval_rows": 0,
            "data.max_length": 256,
            "train.batch_size": BATCH,
            "train.rows_per_microbatch": 2,
            "train.max_steps": STEPS,
            "optim.learning_rate": 2e-3,
            "checkpoint.every_steps": 10**6,
            "checkpoint.export_dtype": "float32",
            "log.eval_every_steps": 10**6,
            "log.compilation_cache": str(folder / "compiled"),
        }
    )
    with tempfile.TemporaryDirectory() as place, contextlib.redirect_stdout(sys.stderr):
        sft.run(config, place)
        (Path(place) / "export").rename(folder / "model")


def report(found: Found) -> None:
    print(
        f"\n{'':<34}{'tokens/s':>10}{'range':>14}{'seconds':>9}{'compile':>9}{'new tokens':>12}"
        f"{'a answer':>10}{'peak MiB':>10}"
    )
    for key, runs in found.items():
        rates = [rate(one) for one in runs]
        print(
            f"{title(key):<34}{statistics.median(rates):>10.0f}"
            f"{f'{min(rates):.0f}..{max(rates):.0f}':>14}"
            f"{statistics.median(one['seconds'] for one in runs):>9.1f}"
            f"{statistics.median(one['compile_seconds'] for one in runs):>9.1f}"
            f"{sum(runs[0]['lengths']):>12}{np.mean(runs[0]['lengths']):>10.1f}"
            f"{runs[0]['peak_bytes'] / 2**20:>10.0f}"
        )
    best = []
    for side in (OURS, PEER):
        ran = [key for key in found if key[0] == side]
        best += sorted(ran, key=lambda key: -statistics.median(map(rate, found[key])))[:1]
    if len(best) == 2:
        ours, peer = best
        ratios = [rate(a) / rate(b) for a, b in zip(found[ours], found[peer], strict=True)]
        print(
            f"\n{title(ours)} against {title(peer)}: {statistics.median(ratios):.2f}x the new "
            f"tokens per second ({min(ratios):.2f} to {max(ratios):.2f} by round)"
        )


def rate(one: dict[str, Any]) -> float:
    return sum(one["lengths"]) / one["seconds"]


def title(key: contest.Key) -> str:
    answers, variant = key[1].split("/")
    if key[0] == OURS:
        return f"safety_jax, {answers}, {variant} cache"
    return f"transformers, {answers}, rows of {variant}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--answers", default="forced,ended")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ours", default="", help="cache dtypes; '': as a run chooses them")
    parser.add_argument("--peers", default="128,512", help="answers of a batch of transformers")
    parser.add_argument("--model", default="", help="a Hugging Face folder; '': a new model")
    parser.add_argument("--prompts", default="", help="of MODEL, one a line; '': made up")
    parser.add_argument("--count", type=int, default=128, help="prompts of MODEL")
    parser.add_argument("--tokens", type=int, default=64, help="new ones of each answer of MODEL")
    contest.ask_numbers(parser)
    parser.add_argument("--folder", default="", help="keeps the trained model; '': a new one")
    chosen = parser.parse_args()
    versions = {name: importlib.metadata.version(name) for name in ("jax", "torch", "transformers")}
    print(f"{datetime.date.today()}: {', '.join(' '.join(pair) for pair in versions.items())}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(chosen.folder or temporary)
        folder.mkdir(exist_ok=True)
        if chosen.model:
            prepare_chat(folder, chosen)
        else:
            prepare(folder)
        (folder / "numbers.json").write_text(json.dumps(chosen.numbers))
        lengths = [len(prompt) for prompt in json.loads((folder / "prompts.json").read_text())]
        print(f"{len(lengths)} prompts of {min(lengths)} to {max(lengths)} tokens", flush=True)
        own = computed_type("cpu") if chosen.numbers == "own" else "float32"
        kept = chosen.ours or own
        for answers in chosen.answers.split(","):
            keys = [(OURS, f"{answers}/{name}") for name in kept.split(",") if name]
            keys += [(PEER, f"{answers}/{name}") for name in chosen.peers.split(",") if name]
            found: Found = {key: [] for key in keys}
            for number in range(chosen.rounds):
                for key in keys if number % 2 == 0 else reversed(keys):
                    one = contest.call(key, folder, chosen.threads)
                    found[key].append(one)
                    print(
                        f"  round {number + 1}: {title(key)}: {rate(one):.0f} tokens/s", flush=True
                    )
            report(found)


if __name__ == "__main__":
    main()
