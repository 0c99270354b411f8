"""A finished `sft` or `dpo` run again in TRL + PEFT: are the losses the same, and the answers?

    python -m tests.benchmarks.ladder runs/real/sit --workdir runs/trl/sit [--steps 6]

Both learn the same tokens in the same batches at the same learning rates, from the same adapters
over the same float32 weights; the rows are proved to be those of the run by their hash. The run
must have had `lora.dropout=0`, whose draws nobody could repeat. Start it where the run was started.
Without --steps all of it is trained, at some three times the time of the run.

Prints the losses of the steps that the run logged (`log.every_steps=1`: all of them) side by side.
`WORKDIR/export` is TRL's adapter, to be evaluated beside the run's own:

    safety-jax --config=evaluate --config.evaluate.models=base=BASE,ours=runs/real/sit/export,\\
trl=runs/trl/sit/export --workdir=runs/both

Steps are compared up to the first that has fewer rows than others and is not the last: TRL fills
such up with rows of the next epoch. Needs the extra `parity`.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from safety_jax.base import meshes
from safety_jax.base.errors import ConfigError
from safety_jax.data.examples import fingerprint
from safety_jax.data.loader import Loader
from safety_jax.models.folders import hub, tokenizer_files
from safety_jax.stages import groups, learners
from safety_jax.training import metrics, optim
from safety_jax.training.task import Task
from tests.benchmarks import jax_worker

WORKER = "tests.benchmarks.ladder_worker"


def read_config(run: Path) -> ConfigDict:
    """The config that a run wrote down; how its rows were laid out is left open, and so is what
    only moves memory and time.

    Raises:
        ConfigError: a run that TRL cannot be made to repeat.
    """
    written = json.loads((run / "config.json").read_text())
    config = ConfigDict(_with_tuples(written))
    known = json.loads((run / "identity.json").read_text())
    config.data.template_date = known.get("data.template_date", config.data.template_date)
    config.mesh.update({"data": -1, "fsdp": 1, "tensor": 1})
    config.model.remat = "none"
    for problem in (
        f"stage is {config.stage}; expected sft or dpo" * (config.stage not in jax_worker.STAGES),
        f"lora.dropout is {config.lora.dropout}; expected 0" * (config.lora.dropout > 0),
        "lora.rank is 0; expected adapters" * (config.lora.rank == 0),
        "it goes on from an adapter; expected fresh ones" * bool(config.model.adapter),
        *(_other_than_trl(config) if config.stage in jax_worker.STAGES else ()),
    ):
        if problem:
            raise ConfigError(f"{run}: {problem}")
    return config


def _other_than_trl(config: ConfigDict) -> list[str]:
    """What of an objective is ours alone and is not repeated, as `sft.early_weight` is."""
    objective = config[config.stage].objective
    expected = {"sft": "likelihood", "dpo": "sigmoid"}[config.stage]
    return [f"the objective is {objective}; expected {expected}"] * (objective != expected)


def _with_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_tuples(inner) for key, inner in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


# ---------------------------------------------------------------------------- what TRL is given


def whole_steps(batches: Loader) -> int:
    """Steps before one that has fewer rows than others and is not the last."""
    sizes = [len(batches.batch(step).examples) for step in range(batches.steps)]
    short = [step for step, size in enumerate(sizes[:-1]) if size < batches.batch_size]
    return short[0] if short else batches.steps


def rows_of(task: Task, batches: Loader, steps: int) -> list[list[dict[str, list[int]]]]:
    """By row in the order of the run: of each side its tokens, and which are trained."""
    sides = task.corpus.training.sides
    found = []
    for step in range(steps):
        for i in batches.batch(step).examples:
            row = []
            for side in sides:
                ids, mask = side.example(i)
                row.append({"ids": ids.tolist(), "trained": mask.astype(int).tolist()})
            found.append(row)
    return found


def prepare(run: Path, folder: Path, steps: int) -> ConfigDict:
    """Writes what the worker reads: the model in float32, adapters to start from, rows, numbers.

    Args:
        steps: to train; 0 for all.

    Raises:
        ConfigError: a run that cannot be repeated, or whose rows are others by now.
    """
    config = read_config(run)
    mesh = jax_worker.make_mesh(config)
    with config.ignore_type():  # it was "auto", a text
        config.train.rows_per_microbatch = meshes.row_parts(mesh)
    task = jax_worker.make_task(config)
    found = fingerprint(task.corpus.training.sides)
    if found != json.loads((run / "identity.json").read_text())["tokens to train on"]:
        raise ConfigError(f"{run}: its rows, read again, are others; expected the files of the run")
    batches = jax_worker.make_loader(config, task)
    count = min(steps or batches.steps, whole_steps(batches))
    loaded = learners.load_policy(config, groups.base(config, mesh), mesh)
    loaded.learner.export(folder / "start", loaded.trainable, loaded.frozen, "float32")
    # Fresh adapters add nothing, so that what is merged is the base, whatever file held it.
    loaded.learner.export_merged(folder / "model", loaded.trainable, loaded.frozen, "float32")
    tokens = groups.tokenizer_folders(config, hub.resolve(config.model.path))
    tokenizer_files.copy(tokens, folder / "model")
    rate = optim.schedule(
        config.optim.schedule,
        learning_rate=1.0,
        warmup_steps=config.optim.warmup_steps,
        total_steps=batches.steps,
    )
    settings = {
        "stage": config.stage,
        "batch_size": config.train.batch_size,
        "steps": count,
        "rates": [float(rate(step)) for step in range(count)],
        "early_weight": config.sft.get("early_weight", 1.0) if config.stage == "sft" else 1.0,
        "early_tokens": config.sft.early_tokens if config.stage == "sft" else 0,
        "beta": config.dpo.beta if config.stage == "dpo" else 0.0,
        "nll_weight": config.dpo.nll_weight if config.stage == "dpo" else 0.0,
        "base": str(config.model.path),
        "seed": config.seed,
        **config.optim.to_dict(),
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "rows.json").write_text(json.dumps(rows_of(task, batches, count)))
    return config


# ---------------------------------------------------------------------------- both side by side


@dataclasses.dataclass(frozen=True)
class Compared:
    """Losses of the steps that both have, by step from 1."""

    ours: dict[int, float]
    theirs: dict[int, float]

    @property
    def worst(self) -> float:
        """The largest difference."""
        return max(abs(self.ours[step] - self.theirs[step]) for step in self.ours)

    def __str__(self) -> str:
        lines = [f"{'step':>6}  {'safety_jax':>11}  {'TRL':>11}  {'difference':>11}"]
        lines += [
            f"{step:>6}  {ours:>11.6f}  {self.theirs[step]:>11.6f}  "
            f"{ours - self.theirs[step]:>11.1e}"
            for step, ours in self.ours.items()
        ]
        mean = np.mean([abs(self.ours[step] - self.theirs[step]) for step in self.ours])
        return "\n".join(lines) + (
            f"\n{len(self.ours)} steps; they differ by at most {self.worst:.1e}, {mean:.1e} on "
            "average"
        )


def compare(run: Path, workdir: Path, steps: int = 0, python: str = sys.executable) -> Compared:
    """Trains the run again in TRL, and sets the losses beside each other.

    Args:
        workdir: a new folder; TRL's adapter is left in its `export`.
        steps: to train; 0 for all.
    """
    workdir.mkdir(parents=True)
    prepare(run, workdir, steps)
    subprocess.run([python, "-m", WORKER, str(workdir)], check=True)
    export = workdir / "export"
    tokenizer_files.copy((run / "export",), export)
    found = json.loads((workdir / "losses.json").read_text())
    theirs = dict(enumerate(found["losses"], start=1))
    logged = [row for row in metrics.read(run / "metrics.jsonl") if "loss" in row]
    ours = {row["step"]: row["loss"] for row in logged if row["step"] in theirs}
    return Compared(ours, theirs)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="the folder of a finished sft or dpo run")
    parser.add_argument("--workdir", type=Path, required=True, help="a new folder")
    parser.add_argument("--steps", type=int, default=0, help="0: as many as the run")
    asked = parser.parse_args()
    print(compare(asked.run, asked.workdir, asked.steps))
    print(f"TRL's adapter is in {asked.workdir / 'export'}")


if __name__ == "__main__":
    main()
