"""Direct preference optimisation against TRL's DPOTrainer + PEFT: same model, pairs, LoRA, batch.

    python -m tests.benchmarks.dpo [--rounds 3] [--steps 10] [--pairs FILE] [--ours cached,live]
    python -m tests.benchmarks.dpo --model FOLDER

FOLDER has a chat model. It prefers answers of this project's recipe to those of other rows, about
90 tokens with the prompt, with adapters as configs/dpo.py has them; both sides run as they come,
TRL also with its reference computed beforehand.

Both sides start from the same adapters and visit the same pairs in the same order, so that their
losses can be compared step by step. Prints pairs and trained tokens (those of both answers) per
second after warm-up, padding, and peak resident memory, with the reference computed beforehand on
both sides, and in every step on both; see contest.py for how runs take turns. Float32 on CPU; only
figures of an idle machine mean much. Needs the extra `parity`.
"""

import argparse
import json
import statistics
from pathlib import Path

import numpy as np

from safety_jax.base import meshes
from safety_jax.data import corpora, loader, prompts, records, sources
from safety_jax.data.pairs import Pairs
from safety_jax.stages import groups, learners
from tests.benchmarks import contest, given, jax_worker

SETTINGS = {
    "stage": "dpo",
    "batch_size": 16,
    "max_length": 512,
    "lora_rank": 8,
    "lora_alpha": 16,
    "lora_targets": ["all-linear"],
    "learning_rate": 1e-3,
    "beta": 0.1,
    "seed": 0,
}
OF_MODEL = {"lora_rank": 16, "lora_alpha": 32, "learning_rate": 1e-4}
# Variants of both sides by when the reference is computed.
MODES = {
    "beforehand": ("cached", "cached_by_two", "cached_apart", "precomputed", "precomputed_small"),
    "in every step": ("live", "live_by_two", "live_small"),
    "as each side comes": ("defaults",),
    "at its best": ("defaults", "precomputed", "precomputed_small", "live_small"),
}


def prepare(folder: Path, asked: argparse.Namespace) -> None:
    """Writes what both sides read: model, pairs, the same as prompt text in the order of the run,
    adapters to start from, settings."""
    tokens, template = given.prepare_model(folder / "model", asked.model)
    settings = SETTINGS | ({} if asked.model is None else OF_MODEL) | contest.settings(asked)
    settings |= {"template": template}
    count = asked.steps * SETTINGS["batch_size"]
    if asked.model is not None:
        found = own_pairs()
    else:
        found = real_pairs(asked.pairs) if asked.pairs else made_up_pairs(2 * count)
    order = np.random.RandomState(0).permutation(len(found))
    fitting = [found[i] for i in order if longest(found[i], tokens) <= SETTINGS["max_length"]]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in fitting[:count]))
    (folder / "settings.json").write_text(json.dumps(settings))

    config = jax_worker.make_config(folder, settings, "cached")
    task = jax_worker.make_task(config)
    data, batches = task.corpus, jax_worker.make_loader(config, task)
    (folder / "rendered.json").write_text(
        json.dumps(rendered(folder, data, batches, tokens, template))
    )
    write_adapter(folder, config)
    lengths = batches.lengths.sum(axis=1)
    print(
        f"{len(lengths)} pairs, {SETTINGS['batch_size']} a step; tokens a pair: "
        f"median {statistics.median(lengths):.0f}, mean {statistics.mean(lengths):.0f}, "
        f"longest answer with prompt {batches.lengths.max()}; {contest.conditions(asked)}",
        flush=True,
    )


def longest(row: dict[str, str], tokens) -> int:
    """Tokens of the longer side, about: neither side shall have to cut any."""
    prompt = prompts.ALPACA.with_input  # the longer wording
    sides = [prompt + row["prompt"] + row[side] for side in ("chosen", "rejected")]
    return max(map(len, tokens(sides).input_ids)) + 1


def rendered(
    folder: Path, data: corpora.Corpus[Pairs], batches: loader.Loader, tokens, template: str
) -> list[dict[str, str]]:
    """Prompt text and answers, in the order in which our run visits the pairs."""
    read = records.read_pairs(sources.open_source(str(folder / "rows.jsonl")))
    by_place = {pair.where: pair for pair in read}
    rows = []
    for step in range(batches.steps):
        for i in batches.batch(step).examples:
            pair = by_place[data.training.chosen.where[i]]
            asked = records.Record(pair.prompt, pair.context, pair.source, pair.where)
            rows.append(
                {
                    "prompt": given.prompt_text(asked, tokens, template),
                    "chosen": pair.chosen[-1].content,
                    "rejected": pair.rejected[-1].content,
                }
            )
    return rows


def write_adapter(folder: Path, config) -> None:
    """The adapters that our run starts from, as a PEFT folder."""
    mesh = meshes.build(-1, 1, 1)
    loaded = learners.load_policy(config, groups.base(config, mesh), mesh)
    loaded.learner.export(folder / "adapter", loaded.trainable, loaded.frozen, "float32")


def default_pairs() -> Path | None:
    shared = given.shared_folder()
    if shared is None:
        return None
    return shared / "data/safe_to_serve/pku_safe_rlhf/DPO_safe_rlhf_eval_data.arrow"


def real_pairs(path: Path) -> list[dict[str, str]]:
    columns = ("prompt", "chosen", "rejected")
    rows = sources.open_source(str(path)).rows
    return [{name: row[name] for name in columns} for row in rows]


def own_pairs() -> list[dict[str, str]]:
    """Each answer against that of the next row."""
    rows = given.own_rows()
    return [
        {"prompt": row["instruction"], "chosen": row["output"], "rejected": other["output"]}
        for row, other in zip(rows, [*rows[1:], rows[0]], strict=True)
    ]


def made_up_pairs(count: int) -> list[dict[str, str]]:
    """Lengths as PKU-SafeRLHF's: short questions, answers with a median of 80 tokens."""
    random = np.random.RandomState(0)
    return [
        {
            "prompt": given.made_up_text(random, 20, 0.5),
            "chosen": given.made_up_text(random, 80, 0.6),
            "rejected": given.made_up_text(random, 80, 0.6),
        }
        for _ in range(count)
    ]


def show_losses(results: dict[contest.Key, list[contest.Result]], ours, peer) -> None:
    a, b = results[ours][0].losses, results[peer][0].losses
    worst = max(abs(x - y) for x, y in zip(a, b, strict=True))
    print(f"  losses differ by at most {worst:.1e} in {len(a)} steps")


def main() -> None:
    asked = contest.parse(
        __doc__ or "",
        contest.Defaults(
            "cached,live", "precomputed,precomputed_small,live_small,defaults", rounds=3, steps=10
        ),
        contest.Defaults("defaults", "defaults,precomputed_small", rounds=1, steps=5),
        lambda parser: parser.add_argument("--pairs", type=Path, default=default_pairs()),
    )
    results = contest.compete(asked, lambda folder: prepare(folder, asked))
    contest.table(results, "pairs")
    for mode, variants in MODES.items():
        ours = contest.best(results, contest.OURS, variants)
        peer = contest.best(results, contest.PEER, variants)
        if ours and peer:
            print(f"\nreference {mode}:", end="")
            contest.ratios(results, ours, peer, "pairs")
            show_losses(results, ours, peer)


if __name__ == "__main__":
    main()
