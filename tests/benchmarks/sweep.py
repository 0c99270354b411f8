"""Eight adapters in one program against the same eight runs one after another.

    python -m tests.benchmarks.sweep [--runs 8] [--steps 24]     the demo's model, on this machine
    python -m tests.benchmarks.sweep --plan                      7B on a slice, by formula

The first prints wall time, processor time and peak memory of each side, in processes of its own
that find their programs in the cache; the time of the steps alone; and whether adapters are the
same to the bit. Of a machine that does other things, processor time alone means something. The
second compiles nothing.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

CONFIG = ["--config.train.rows_per_microbatch=8", "--config.model.remat=none"]


def command(config: str, flags: list[str], folder: Path) -> list[str]:
    return [
        sys.executable, "-m", "safety_jax.main", f"--config={config}:demo", *CONFIG, *flags,
        f"--workdir={folder}",
    ]  # fmt: skip


def measure(title: str, commands: list[list[str]]) -> None:
    """Runs these commands one after another, and prints what they took."""

    def used() -> float:
        of_children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return of_children.ru_utime + of_children.ru_stime

    began, before = time.perf_counter(), used()
    for words in commands:
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds, work = time.perf_counter() - began, used() - before
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000
    print(f"{title:12} {seconds:8.1f} s wall, {work:8.1f} s of processors, highest peak so far "
          f"{peak:,.0f} MB", flush=True)  # fmt: skip


def seconds_of_steps(folders: list[Path]) -> float:
    """What runs logged, added up."""
    from safety_jax.training import metrics

    rows = [row for folder in folders for row in metrics.read(folder / "metrics.jsonl")]
    steps = [row["seconds_per_step"] for row in rows if "seconds_per_step" in row]
    return float(np.sum(steps))


def compete(runs: int, steps: int) -> None:
    from safetensors.numpy import load_file

    flags = [f"--config.train.max_steps={steps}", "--config.log.every_steps=1"]
    flags += ["--config.log.eval_every_steps=100000", "--config.checkpoint.every_steps=100000"]
    seeds = ",".join(map(str, range(runs)))
    axes = [f"--config.sweep.axes=seed={seeds}", f"--config.sweep.lanes={runs}"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def together(to: str) -> list[list[str]]:
            return [command("sweep", [*flags, *axes], folder / to)]

        def alone(to: str) -> list[list[str]]:
            return [
                command("sft", [*flags, f"--config.seed={seed}"], folder / to / str(seed))
                for seed in range(runs)
            ]

        measure("warm, alone", alone("warm-alone")[:1])
        measure("in sequence", alone("alone"))
        measure("warm, all", together("warm"))
        measure("together", together("sweep"))
        swept = sorted((folder / "sweep/runs").iterdir())
        # Runs of a sweep log the time between their steps, which is that of a step of all.
        print(f"steps together {seconds_of_steps(swept[:1]):.2f} s, in sequence "
              f"{seconds_of_steps(sorted((folder / 'alone').iterdir())):.2f} s")  # fmt: skip
        same, apart = True, 0.0
        for seed in range(runs):
            file = "export/adapter_model.safetensors"
            found = load_file(folder / f"sweep/runs/seed{seed}" / file)
            known = load_file(folder / f"alone/{seed}" / file)
            same &= all(np.array_equal(found[k], known[k]) for k in known)
            apart = max([apart, *(float(np.abs(found[k] - known[k]).max()) for k in known)])
        print(f"adapters the same to the bit: {same}; most apart {apart:.1e}")


def plan(size: str, where: str, lanes: tuple[int, ...]) -> None:
    """A step of 128 examples of 220 tokens for each adapter, on fsdp over all chips."""
    from safety_jax.models import llama, lora
    from safety_jax.models.folders import peft_config
    from safety_jax.planning import chips, formulas, roofline, sizes
    from safety_jax.training import policy
    from safety_jax.training.footprint import FlopParts, TrainedModel, TrunkSizes

    model, found = sizes.read(size), chips.parse_slice(where)
    parts = FlopParts.of({"data": 1, "fsdp": found.chips, "tensor": 1})
    adapter = peft_config.LoraConfig(4, 16.0, 0.05, ("query", "key", "value"), False, "", "float32")
    trained = formulas.TrainedWeights(model, "full", adapter, 128)
    declared = llama.parameters(model)
    leaves = lora.shapes(declared, adapter.targets, adapter.rank)
    rows, T = 64, 512  # 128 examples of 220 tokens, packed
    print(f"{size} on {where}, rank {adapter.rank}, {rows} rows of {T} tokens a step and adapter")
    for count in lanes:
        per_token = policy.flops_per_token(model, adapter, np.array([220]))
        load = formulas.training(
            trained, parts, width=2, rows=count * rows, row_tokens=T, microbatches=1,
            flops_per_token=per_token, live_reference=False,
        )  # fmt: skip
        received = formulas.exchanged(
            model, parts, width=2, tokens=count * rows * T, passes=2, repeats=1,
            reduced=count * trained.adapter_weights // parts.stored, kernel_bytes=2.0,
        )  # fmt: skip
        times = roofline.estimate(load, formulas.network_seconds(received, found), found)
        held = TrainedModel(
            TrunkSizes.of(model, declared),
            weights=formulas.all_weights(model),
            adapter_weights=count * sum(int(np.prod(shape)) for shape, _ in leaves.values()),
            vocabulary=model.vocabulary_size, chunk_tokens=128, base_bytes=2.0, number_bytes=2,
            sides=count,
        )  # fmt: skip
        memory = held.held(parts) + held.temporaries(parts, remat="full", rows=rows, row_tokens=T)
        print(json.dumps({
            "adapters": count,
            "compute_s": round(times.compute / count, 3),
            "memory_s": round(times.memory / count, 3),
            "network_s": round(times.network / count, 3),
            "best_s": round(times.best / count, 3), "worst_s": round(times.worst / count, 3),
            "gib_of_a_chip": round(memory / 2**30, 2),
        }))  # fmt: skip


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--runs", type=int, default=8)
    asked.add_argument("--steps", type=int, default=24)
    asked.add_argument("--plan", action="store_true")
    asked.add_argument("--size", default="llama2-7b")
    asked.add_argument("--slice", default="v5e:4x4")
    given = asked.parse_args()
    if given.plan:
        plan(given.size, given.slice, (1, 2, 4, 8, 16))
    else:
        compete(given.runs, given.steps)


if __name__ == "__main__":
    main()
