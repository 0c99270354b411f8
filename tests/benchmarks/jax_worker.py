"""One run of this project's stage `sft` or `dpo` over prepared rows; prints one line of JSON.

    python -m tests.benchmarks.jax_worker FOLDER VARIANT

FOLDER is what `sft.prepare` or `dpo.prepare` wrote. Run by contest.py as its own process, so that
its peak memory is its own. The run is the stage itself, with its data reading, logging, checkpoint
and export.
"""

import contextlib
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from configs import dpo as dpo_config
from configs import sft as sft_config
from safety_jax.base import meshes
from safety_jax.data import loader
from safety_jax.stages import dpo, dpo_task, fits, groups, precision, sft, sft_task
from safety_jax.training import batches, metrics, reference, workdir
from safety_jax.training.task import Task

STAGES = {
    "sft": (sft_config, sft.run, sft_task.make_task),
    "dpo": (dpo_config, dpo.run, dpo_task.make_task),
}

# What each variant changes; `data.packing` is the default of every config.
AS_IT_COMES = {"train.rows_per_microbatch": "auto", "model.remat": "auto"}
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "sft": {
        "defaults": AS_IT_COMES,
        "apart": AS_IT_COMES | {"data.share_prompts": False},
        "packed": {"train.rows_per_microbatch": 1},
        "packed_by_two": {"train.rows_per_microbatch": 2},
        "unpacked": {"data.packing": False, "train.rows_per_microbatch": 8},
    },
    "dpo": {
        "defaults": AS_IT_COMES,
        "cached": {"train.rows_per_microbatch": 1},
        "cached_by_two": {"train.rows_per_microbatch": 2},
        "cached_apart": {"train.rows_per_microbatch": 1, "data.share_prompts": False},
        "live": {"train.rows_per_microbatch": 1, "dpo.reference": "live"},
        "live_by_two": {"train.rows_per_microbatch": 2, "dpo.reference": "live"},
    },
}


def make_config(folder: Path, settings: dict[str, Any], variant: str) -> ConfigDict:
    stage = settings["stage"]
    config = STAGES[stage][0].get_config()
    numbers = precision.AUTO if settings["numbers"] == "own" else settings["numbers"]
    own = {}
    if stage == "dpo":
        own = {
            "data.prefer": "all",
            "dpo.beta": settings["beta"],
            # A new one for each run; relative to nothing that outlives it.
            "dpo.reference_folder": tempfile.mkdtemp(dir=folder),
        }
    config.update_from_flattened_dict(
        {
            "seed": settings["seed"],
            "model.path": str(folder / "model"),
            "model.parameter_dtype": numbers,
            "model.compute_dtype": numbers,
            "model.remat": "none",
            "lora.rank": settings["lora_rank"],
            "lora.alpha": float(settings["lora_alpha"]),
            "lora.dropout": 0.0,
            "lora.targets": tuple(settings["lora_targets"]),
            "data.train": (str(folder / "rows.jsonl"),),
            "data.eval_rows": 0,
            "data.template": settings["template"],
            "data.max_length": settings["max_length"],
            "train.batch_size": settings["batch_size"],
            "train.epochs": 1.0,
            "optim.learning_rate": settings["learning_rate"],
            "optim.schedule": "constant",
            "optim.warmup_steps": 0,
            "checkpoint.every_steps": 10**6,
            "log.every_steps": 1,
            "log.eval_every_steps": 10**6,
            "log.compilation_cache": str(folder / "compiled"),
        }
        | own
        | VARIANTS[stage][variant]
    )
    return precision.settled(config, jax.devices()[0].platform)


def make_mesh(config: ConfigDict) -> Mesh:
    return meshes.build(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)


def make_task(config: ConfigDict) -> Task:
    mesh = make_mesh(config)
    return STAGES[config.stage][2](config, mesh)


def make_loader(config: ConfigDict, task: Task) -> loader.Loader:
    """The run's batches; what a step holds is a pure function of the config."""
    examples, settings = task.corpus.training, groups.settings(config)
    total = settings.budget.steps(
        len(examples), settings.batching.batch_size, task.flops_per_example
    )
    mesh = make_mesh(config)
    return batches.make_loader(task, examples, settings.batching, mesh, steps=total)


class Compiling:
    """Seconds that XLA compiled, so far."""

    def __init__(self):
        self.seconds = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._on_duration)

    def _on_duration(self, event: str, seconds: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            self.seconds += seconds


def timed(function, compiling: Compiling, spent: list[float]):
    """The function, with the seconds of each call, but for compiling, added to `spent`."""

    def call(*args, **kwargs):
        began, compiled = time.perf_counter(), compiling.seconds
        result = function(*args, **kwargs)
        spent.append(time.perf_counter() - began - (compiling.seconds - compiled))
        return result

    return call


def main(folder: Path, variant: str) -> None:
    settings = json.loads((folder / "settings.json").read_text())
    compiling, before = Compiling(), []
    reference.logprobs = timed(reference.logprobs, compiling, before)
    with tempfile.TemporaryDirectory() as place, contextlib.redirect_stdout(sys.stderr):
        config = make_config(folder, settings, variant)
        STAGES[settings["stage"]][1](config, place)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        logged = metrics.read(Path(place) / "metrics.jsonl")
        config = config.copy_and_resolve_references()
        task = make_task(config)
        with workdir.prepare(place, config) as again:
            fits.fill(config, task, make_mesh(config), again)  # as the run remembers it
        batches = make_loader(config, task)
    steps = [batches.batch(step) for step in range(batches.steps)]
    print(
        json.dumps(
            {
                # The first step compiles, and has no time of its own.
                "seconds": [row.get("seconds_per_step", 0.0) for row in logged],
                "examples": [len(step.examples) for step in steps],
                "trained_tokens": [step.trained_tokens for step in steps],
                "losses": [row["loss"] for row in logged],
                "padding_share": batches.padding_share,
                "before_seconds": sum(before),
                "compile_seconds": compiling.seconds,
                "peak_bytes": peak,
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
