"""Supervised fine-tuning against TRL's SFTTrainer + PEFT: same model, rows, LoRA, batch, threads.

    python -m tests.benchmarks.sft [--rounds 3] [--steps 10] [--peers padded,packed]

Every run is its own process, pinned to the same cores; runs alternate, and the order turns round
in every second round, so that a machine that drifts drifts for both. Prints trained tokens per
second after warm-up, the compile time that this leaves out, and peak resident memory. Float32 on
CPU; only figures of an idle machine mean much. Needs the extra `parity`.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from safety_jax.data import prompts, records, sources, tokenizer
from tests.golden import cases

MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "initializer_range": 0.02,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "float32",
}
SETTINGS = {
    "batch_size": 16,
    "max_length": 512,
    "lora_rank": 8,
    "lora_alpha": 16,
    "learning_rate": 2e-4,
    "seed": 0,
}
WARMUP_STEPS = 2


# ---------------------------------------------------------------------------- what both sides get


def prepare(folder: Path, steps: int, threads: int) -> None:
    """Writes what both sides read: model folder, rows, the same rows as prompt text, settings."""
    write_tokenizer(folder / "model")
    tokens = tokenizer.load_tokenizer(folder / "model")
    write_model(folder / "model", len(tokens))

    found = real_rows() or synthetic_rows(steps * SETTINGS["batch_size"])
    order = np.random.RandomState(0).permutation(len(found))[: steps * SETTINGS["batch_size"]]
    (folder / "rows.jsonl").write_text("".join(json.dumps(found[i]) + "\n" for i in order))
    read = records.read_records(sources.open_source(str(folder / "rows.jsonl")))
    rendered = [
        {"prompt": prompts.ALPACA.prompt(record), "completion": record.messages[-1].content}
        for record in read
    ]
    (folder / "rendered.json").write_text(json.dumps(rendered))

    whole = tokens([row["prompt"] + row["completion"] for row in rendered]).input_ids
    lengths = [min(len(ids) + 1, SETTINGS["max_length"]) for ids in whole]
    settings = SETTINGS | {"threads": threads, "real_tokens": sum(lengths)}
    (folder / "settings.json").write_text(json.dumps(settings))
    print(
        f"{len(rendered)} rows, {SETTINGS['batch_size']} a step; tokens a row: "
        f"median {statistics.median(lengths):.0f}, mean {statistics.mean(lengths):.0f}, "
        f"longest {max(lengths)}; {threads} threads, float32",
        flush=True,
    )


def write_model(folder: Path, vocabulary_size: int) -> None:
    config = MODEL | {"vocab_size": vocabulary_size}
    random = np.random.default_rng(0)
    weights = {
        name: np.ones(shape, np.float32)
        if "norm" in name
        else 0.02 * random.standard_normal(shape, np.float32)
        for name, shape in cases.shapes(config).items()
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def shared_folder() -> Path | None:
    """Real rows and LLaMA's tokenizer, where the environment variable names them."""
    named = os.environ.get("SAFETY_JAX_SHARED")
    return Path(named) if named else None


def write_tokenizer(folder: Path) -> None:
    """LLaMA's 32,000 pieces, or as many numbered words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    folder.mkdir(parents=True)
    shared = shared_folder()
    if shared is not None:
        (folder / "tokenizer_config.json").write_text(
            json.dumps(
                {
                    "tokenizer_class": "LlamaTokenizer",
                    "add_bos_token": True,
                    "bos_token": "<s>",
                    "eos_token": "</s>",
                    "unk_token": "<unk>",
                    "pad_token": "<unk>",
                }
            )
        )
        pieces = shared / "models" / "llama_tokenizer" / "tokenizer.model"
        (folder / "tokenizer.model").write_bytes(pieces.read_bytes())
        AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
        return
    words = ["<unk>", "<s>", "</s>"] + [f"w{number}" for number in range(31_997)]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<unk>",
    ).save_pretrained(folder)


def real_rows() -> list[dict[str, str]]:
    """Alpaca rows, or none."""
    shared = shared_folder()
    if shared is None:
        return []
    rows = json.loads((shared / "data" / "alpaca" / "alpaca_data_safety_only.json").read_text())
    return [row for row in rows if row["output"]]


def synthetic_rows(count: int) -> list[dict[str, str]]:
    """Lengths as Alpaca's: short instructions, log-normal answers with a median of 100 tokens."""
    random = np.random.RandomState(0)

    def words(length: float) -> str:
        return " ".join(f"w{number}" for number in random.randint(0, 31_997, max(1, int(length))))

    return [
        {
            "instruction": words(random.lognormal(2.5, 0.8)),
            "input": "",
            "output": words(random.lognormal(4.6, 0.65)),
        }
        for _ in range(count)
    ]


# ---------------------------------------------------------------------------- runs


@dataclasses.dataclass(frozen=True)
class Result:
    tokens_per_second: float
    compile_seconds: float
    peak_megabytes: float
    trained_tokens: int
    losses: list[float]


def run(module: str, folder: Path, variant: str, threads: int) -> Result:
    """One worker in its own process, on the first `threads` cores."""
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "JAX_PLATFORMS": "cpu",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }
    cores = sorted(os.sched_getaffinity(0))[:threads]
    done = subprocess.run(
        [sys.executable, "-m", module, str(folder), variant],
        env=environment,
        capture_output=True,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    if done.returncode:
        raise RuntimeError(f"{module} {variant} failed:\n{done.stderr[-4000:]}")
    said = json.loads(done.stdout.splitlines()[-1])
    trained = said["trained_tokens"]
    return Result(
        tokens_per_second=sum(trained[WARMUP_STEPS:]) / sum(said["seconds"][WARMUP_STEPS:]),
        compile_seconds=said["compile_seconds"],
        peak_megabytes=said["peak_bytes"] / 2**20,
        trained_tokens=sum(trained),
        losses=said["losses"],
    )


def show(title: str, found: list[Result]) -> None:
    speeds = [result.tokens_per_second for result in found]
    print(
        f"{title:<24}{median_speed(found):>10.0f}{f'{min(speeds):.0f}..{max(speeds):.0f}':>14}"
        f"{statistics.median(result.peak_megabytes for result in found):>10.0f}"
        f"{statistics.median(result.compile_seconds for result in found):>11.1f}"
        f"{found[0].trained_tokens:>9}{found[0].losses[0]:>12.4f}{found[0].losses[-1]:>11.4f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peers", default="padded_small,padding_free,packed")
    parser.add_argument("--ours", default="packed")
    given = parser.parse_args()

    runs = [("tests.benchmarks.jax_worker", name) for name in given.ours.split(",") if name]
    runs += [("tests.benchmarks.trl_worker", name) for name in given.peers.split(",") if name]
    results: dict[tuple[str, str], list[Result]] = {key: [] for key in runs}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(folder, given.steps, given.threads)
        for number in range(given.rounds):
            for key in runs if number % 2 == 0 else reversed(runs):
                results[key].append(run(key[0], folder, key[1], given.threads))
                speed = results[key][-1].tokens_per_second
                print(f"  round {number + 1}: {name(key)}: {speed:.0f} tokens/s", flush=True)
    report(results)


def name(key: tuple[str, str]) -> str:
    module, variant = key
    return f"{'safety_jax' if module.endswith('jax_worker') else 'TRL'} {variant}"


def report(results: dict[tuple[str, str], list[Result]]) -> None:
    """A line for each variant, then the ratio of the best of both sides, round by round."""
    print(
        f"\n{'':<24}{'tokens/s':>10}{'range':>14}{'peak MiB':>10}{'compile s':>11}"
        f"{'trained':>9}{'first loss':>12}{'last loss':>11}"
    )
    best: dict[str, tuple[str, str]] = {}
    for key, found in results.items():
        show(name(key), found)
        side = key[0]
        if side not in best or median_speed(found) > median_speed(results[best[side]]):
            best[side] = key
    if len(best) < 2:
        return
    ours, peer = (results[key] for key in best.values())
    ratios = [a.tokens_per_second / b.tokens_per_second for a, b in zip(ours, peer, strict=True)]
    memory = [a.peak_megabytes / b.peak_megabytes for a, b in zip(ours, peer, strict=True)]
    print(
        f"\n{' against '.join(name(key) for key in best.values())}: "
        f"{statistics.median(ratios):.2f}x the trained tokens per second "
        f"({min(ratios):.2f} to {max(ratios):.2f} by round), "
        f"{statistics.median(memory):.2f}x the peak memory"
    )


def median_speed(found: list[Result]) -> float:
    return statistics.median(result.tokens_per_second for result in found)


if __name__ == "__main__":
    main()
