"""Supervised fine-tuning against TRL's SFTTrainer + PEFT: same model, rows, LoRA, batch, threads.

    python -m tests.benchmarks.sft [--rounds 3] [--steps 10] [--peers padded,packed]
    python -m tests.benchmarks.sft --model FOLDER

FOLDER has a chat model. It learns rows of this project's recipe, about 90 tokens each, with
adapters as configs/sft.py has them; both sides run as they come, TRL also in its quicker ways.

Prints trained tokens per second after warm-up, the compile time that this leaves out, and peak
resident memory; see contest.py for how runs take turns. Float32 on CPU, or with `--numbers own`
what each side takes by itself: TRL's autocast to bfloat16, our `auto`. Only figures of an idle
machine mean much. Needs the extra `parity`.
"""

import argparse
import json
import statistics
from pathlib import Path

import numpy as np

from safety_jax.data import records, sources
from tests.benchmarks import contest, given

SETTINGS = {
    "stage": "sft",
    "batch_size": 16,
    "max_length": 512,
    "lora_rank": 8,
    "lora_alpha": 16,
    "lora_targets": ["all-linear"],
    "learning_rate": 2e-4,
    "seed": 0,
}
OF_MODEL = {"lora_targets": ["q_proj", "v_proj"]}


def prepare(folder: Path, asked: argparse.Namespace) -> None:
    """Writes what both sides read: model folder, rows, the same rows as prompt text, settings."""
    tokens, template = given.prepare_model(folder / "model", asked.model)
    count = asked.steps * SETTINGS["batch_size"]
    if asked.model is None:
        found = real_rows() or made_up_rows(count)
    else:
        found = given.own_rows()
    order = np.random.RandomState(0).permutation(len(found))[:count]
    (folder / "rows.jsonl").write_text("".join(json.dumps(found[i]) + "\n" for i in order))
    read = records.read_records(sources.open_source(str(folder / "rows.jsonl")))
    rendered = [
        {
            "prompt": given.prompt_text(record, tokens, template),
            "completion": record.messages[-1].content,
        }
        for record in read
    ]
    (folder / "rendered.json").write_text(json.dumps(rendered))

    whole = tokens([row["prompt"] + row["completion"] for row in rendered]).input_ids
    lengths = [min(len(ids) + 1, SETTINGS["max_length"]) for ids in whole]
    settings = SETTINGS | ({} if asked.model is None else OF_MODEL) | contest.settings(asked)
    settings |= {"real_tokens": sum(lengths), "template": template}
    (folder / "settings.json").write_text(json.dumps(settings))
    print(
        f"{len(rendered)} rows, {SETTINGS['batch_size']} a step; tokens a row: "
        f"median {statistics.median(lengths):.0f}, mean {statistics.mean(lengths):.0f}, "
        f"longest {max(lengths)}; {contest.conditions(asked)}",
        flush=True,
    )


def real_rows() -> list[dict[str, str]]:
    """Alpaca rows, or none."""
    shared = given.shared_folder()
    if shared is None:
        return []
    rows = json.loads((shared / "data" / "alpaca" / "alpaca_data_safety_only.json").read_text())
    return [row for row in rows if row["output"]]


def made_up_rows(count: int) -> list[dict[str, str]]:
    """Lengths as Alpaca's: short instructions, log-normal answers with a median of 100 tokens."""
    random = np.random.RandomState(0)
    return [
        {
            "instruction": given.made_up_text(random, 12, 0.8),
            "input": "",
            "output": given.made_up_text(random, 100, 0.65),
        }
        for _ in range(count)
    ]


def main() -> None:
    asked = contest.parse(
        __doc__ or "",
        contest.Defaults("packed", "padded_small,padding_free,packed", rounds=3, steps=10),
        contest.Defaults("defaults", "defaults,padding_free,packed", rounds=1, steps=5),
    )
    results = contest.compete(asked, lambda folder: prepare(folder, asked))
    contest.table(results, "rows")
    variants = [key[1] for key in results]
    ours = contest.best(results, contest.OURS, variants)
    peers = (contest.best(results, contest.PEER, some) for some in (["defaults"], variants))
    for peer in dict.fromkeys(peers):
        if ours and peer:
            contest.ratios(results, ours, peer, "rows")


if __name__ == "__main__":
    main()
