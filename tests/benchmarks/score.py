"""Scoring against transformers: same weights, texts, threads.

    python -m tests.benchmarks.score [--model FOLDER] [--rounds 3] [--conversations 512]

The model is a folder with a trunk that judges may have (MiniLM, any LLaMA), below a random scalar
head; without one, DeBERTa-v3-base's shape with random weights. 512 conversations of mixed lengths
(log-normal as PKU-SafeRLHF's, a little longer). transformers takes them sorted by length, padded to
the longest of each batch; this project takes several a row (`data/packing.py`). Every run is its
own process, pinned to the same cores; runs alternate, and the order turns round in every second
round. Prints seconds without loading and compiling, which are printed beside them, and seconds of
all cores: with `--threads 1` these say something even where others use the machine. Float32 on CPU,
or with `--numbers own` the products that `auto` takes here against what `transformers` takes. Needs
the extra `parity`.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from safety_jax.base import meshes
from safety_jax.models.encoders import heads
from tests.benchmarks import contest

MODEL = {
    "architectures": ["DebertaV2ForSequenceClassification"],
    "model_type": "deberta-v2",
    "vocab_size": 8192,  # of 128,100: a table that is only looked up
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 512,
    "type_vocab_size": 0,
    "relative_attention": True,
    "position_buckets": 256,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": "p2c|c2p",
    "position_biased_input": False,
    "max_relative_positions": -1,
    "layer_norm_eps": 1e-7,
    "pooler_hidden_act": "gelu",
    "hidden_act": "gelu",
    "id2label": {"0": "reward"},
    "pad_token_id": 0,
}
LONGEST = 512


def prepare(folder: Path, model: Path | None, conversations: int, layers: int) -> None:
    """Writes what both sides read: the model folder, ids and lengths."""
    mesh, key = meshes.build(1, 1, 1, devices=jax.devices()[:1]), jax.random.key(0)
    source = model or folder / "source"
    if model is None:
        source.mkdir()
        described = MODEL | {"num_hidden_layers": layers}
        (source / "config.json").write_text(json.dumps(described))
        scorer = heads.read_scorer(source)
        weights = heads.initialize(scorer, key, mesh, jnp.float32)
    else:
        scorer = heads.new_scorer(source, ("reward",), "regression")
        weights = heads.load_trunk(source, scorer, key, mesh, jnp.float32)
    heads.export(folder / "model", weights, scorer, source, jnp.float32, 10**10)
    vocabulary = scorer.config.vocabulary_size

    random = np.random.RandomState(0)
    lengths = random.lognormal(np.log(120), 0.65, conversations).clip(16, LONGEST).astype(int)
    ids = [random.randint(3, vocabulary, length) for length in lengths]
    np.savez(folder / "texts.npz", ids=np.concatenate(ids), lengths=lengths)
    quarters = ", ".join(f"{value:.0f}" for value in np.percentile(lengths, [5, 25, 50, 75, 95]))
    print(
        f"{conversations} conversations, {lengths.sum()} tokens; 5 to 95 %: {quarters}", flush=True
    )


def texts(folder: Path) -> list[np.ndarray]:
    stored = np.load(folder / "texts.npz")
    return np.split(stored["ids"], np.cumsum(stored["lengths"])[:-1])


def report(results: dict[contest.Key, list[dict[str, Any]]], tokens: int) -> None:
    print(
        f"\n{'':<28}{'seconds':>9}{'range':>14}{'of cores':>10}{'tokens/s':>10}{'padding':>9}"
        f"{'before':>8}{'compile':>9}{'programs':>10}"
    )
    best: dict[str, contest.Key] = {}
    for key, found in results.items():
        seconds = [one["seconds"] for one in found]
        middle = statistics.median(seconds)
        print(
            f"{title(key):<28}{middle:>9.1f}{f'{min(seconds):.1f}..{max(seconds):.1f}':>14}"
            f"{statistics.median(one['cpu'] for one in found):>10.1f}"
            f"{tokens / middle:>10.0f}{1 - tokens / found[0]['padded_tokens']:>9.1%}"
            f"{statistics.median(one['before'] for one in found):>8.1f}"
            f"{statistics.median(one['compile'] for one in found):>9.1f}{found[0]['programs']:>10}"
        )
        side = key[0]
        if side not in best or middle < statistics.median(
            one["seconds"] for one in results[best[side]]
        ):
            best[side] = key
    first, second = (results[key] for key in best.values())
    gap = np.abs(np.subtract(first[0]["scores"], second[0]["scores"])).max()
    ratios = [b["seconds"] / a["seconds"] for a, b in zip(first, second, strict=True)]
    whole = [
        (b["seconds"] + b["compile"]) / (a["seconds"] + a["compile"])
        for a, b in zip(first, second, strict=True)
    ]
    work = [b["cpu"] / a["cpu"] for a, b in zip(first, second, strict=True)]
    print(
        f"\n{' against '.join(title(key) for key in best.values())}: "
        f"{statistics.median(ratios):.2f}x the speed "
        f"({min(ratios):.2f} to {max(ratios):.2f} by round), "
        f"{statistics.median(whole):.2f}x with compiling, "
        f"{statistics.median(work):.2f}x by seconds of cores; scores differ by {gap:.1e} at most"
    )


def title(key: contest.Key) -> str:
    module, variant = key
    return f"safety_jax {variant}" if "jax" in module else f"transformers, rows of {variant}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--rounds", type=int, help="3; of FOLDER 1")
    parser.add_argument("--conversations", type=int, help="512; of FOLDER 256")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peers", default="8,32", help="rows of a batch of transformers")
    parser.add_argument("--ours", default="2048", help="tokens of a batch of ours")
    contest.ask_numbers(parser)
    given = parser.parse_args()
    plain = given.model is None
    given.rounds = given.rounds or (3 if plain else 1)
    given.conversations = given.conversations or (512 if plain else 256)
    runs = [("tests.benchmarks.score_jax_worker", name) for name in given.ours.split(",")]
    runs += [("tests.benchmarks.score_torch_worker", name) for name in given.peers.split(",")]
    results: dict[contest.Key, list[dict[str, Any]]] = {key: [] for key in runs}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(folder, given.model, given.conversations, given.layers)
        tokens = sum(map(len, texts(folder)))
        (folder / "numbers.json").write_text(json.dumps(given.numbers))
        print(contest.conditions(given), flush=True)
        for number in range(given.rounds):
            for key in runs if number % 2 == 0 else reversed(runs):
                results[key].append(contest.call(key, folder, given.threads))
                seconds = results[key][-1]["seconds"]
                print(f"  round {number + 1}: {title(key)}: {seconds:.1f} s", flush=True)
    report(results, tokens)


if __name__ == "__main__":
    main()
