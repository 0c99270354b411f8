"""One run of this project's stage `sft` over prepared rows; prints one line of JSON.

    python -m tests.benchmarks.jax_worker FOLDER VARIANT

FOLDER is what `sft.prepare` wrote. Run by `sft.py` as its own process, so that its peak memory is
its own. The run is the stage itself, with its data reading, logging, checkpoint and export.
"""

import contextlib
import json
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from configs import sft as config_file
from safety_jax import metrics
from safety_jax.models import folder as folders
from safety_jax.models import hf_config
from safety_jax.stages import assemble, sft

# What each variant changes; `data.packing` is the default of every config.
VARIANTS: dict[str, dict[str, Any]] = {
    "packed": {"train.rows_per_microbatch": 1},
    "packed_by_two": {"train.rows_per_microbatch": 2},
    "unpacked": {"data.packing": False, "train.rows_per_microbatch": 8},
}


def make_config(folder: Path, settings: dict[str, Any], variant: str) -> ConfigDict:
    config = config_file.get_config()
    config.update_from_flattened_dict(
        {
            "seed": settings["seed"],
            "model.path": str(folder / "model"),
            "model.parameter_dtype": "float32",
            "model.compute_dtype": "float32",
            "model.remat": "none",
            "lora.rank": settings["lora_rank"],
            "lora.alpha": float(settings["lora_alpha"]),
            "lora.dropout": 0.0,
            "lora.targets": ("all-linear",),
            "data.train": (str(folder / "rows.jsonl"),),
            "data.eval_rows": 0,
            "data.template": "alpaca",
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
        | VARIANTS[variant]
    )
    return config


def trained_tokens(config: ConfigDict) -> list[int]:
    """Of every step; what a step holds is a pure function of the config."""
    model_folder = folders.resolve(config.model.path)
    data = sft.read_corpus(config, model_folder, hf_config.read_config(model_folder))
    total = assemble.total_steps(config.train, len(data.training))
    size = config.train.batch_size
    batches = assemble.make_loader(
        config, data.training, batch_size=size, steps=total, seed=config.seed
    )
    return [batches.batch(step).trained_tokens for step in range(total)]


def main(folder: Path, variant: str) -> None:
    settings = json.loads((folder / "settings.json").read_text())
    compiling: list[float] = []

    def on_duration(event: str, seconds: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiling.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(on_duration)
    with tempfile.TemporaryDirectory() as place, contextlib.redirect_stdout(sys.stderr):
        config = make_config(folder, settings, variant)
        sft.run(config, place)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        logged = metrics.read(Path(place) / "metrics.jsonl")
    print(
        json.dumps(
            {
                # The first step compiles, and has no time of its own.
                "seconds": [row.get("seconds_per_step", 0.0) for row in logged],
                "compile_seconds": sum(compiling),
                "trained_tokens": trained_tokens(config),
                "losses": [row["loss"] for row in logged],
                "peak_bytes": peak,
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
