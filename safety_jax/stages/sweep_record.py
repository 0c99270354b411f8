"""`sweep.json`: the finished runs of a sweep, for the stages that read them.

{"safety_rows100_seed1": {"changes": {"data.safety_rows": 100, "seed": 1}, "step": 48,
                          "export": "runs/safety_rows100_seed1/export", "config": {...}}, ...}
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from safety_jax.base import files, hosts
from safety_jax.base.errors import ConfigError
from safety_jax.models.folders import model_folder
from safety_jax.stages import groups, training
from safety_jax.stages.sweep_axes import Variant
from safety_jax.training import config_record, identity
from safety_jax.training.settings import Settings
from safety_jax.training.task import Task

RUNS, RECORD = "runs", "sweep.json"
_ADVICE = "remove it: every run then checks by itself whether it is finished"


@dataclasses.dataclass(frozen=True)
class SweepRun:
    """A run before weights are read."""

    variant: Variant
    task: Task

    @property
    def name(self) -> str:
        return self.variant.name

    @property
    def config(self) -> ConfigDict:
        return self.variant.config

    @property
    def settings(self) -> Settings:
        return groups.settings(self.config)

    @property
    def steps(self) -> int:
        examples, size = len(self.task.corpus.training), self.config.train.batch_size
        return self.settings.budget.steps(examples, size, self.task.flops_per_example)


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A finished run, as in `sweep.json`.

    Attributes:
        changes: the config keys that it changes, with their values.
        config: its whole config when it finished.
        export: the folder of its adapters.
    """

    name: str
    changes: Mapping[str, Any]
    config: Mapping[str, Any]
    export: Path

    @property
    def seed(self) -> int:
        return self.config["seed"]


class SweepRecord:
    """The record of a sweep in training, and the folders of its runs.

    Raises:
        ConfigError: the file is damaged.
    """

    def __init__(self, path: Path, primary: bool):
        """Args: primary: whether this process writes."""
        self._path, self.primary = path, primary
        self._runs = hosts.first_says(lambda: _read(path))

    def folder(self, name: str) -> Path:
        return self._path / RUNS / name

    def finished(self, one: SweepRun) -> bool:
        """Whether the run finished with this config.

        Raises:
            ConfigError: it did, but the files it read have changed since.
        """
        known, folder = self._runs.get(one.name), self.folder(one.name)
        here = config_record.recorded(one.config)
        if known is None or config_record.differences(known["config"], here):
            return False
        if not hosts.first_says(lambda: (folder / "export").is_dir()):
            return False
        reads = training.identity(one.config, one.task.corpus)
        changed = hosts.first_says(lambda: identity.changes(identity.known(folder), reads))
        if changed:
            raise identity.refuse(folder, changed)
        return True

    def saved_step(self, name: str) -> int:
        """The step of a run's last checkpoint; 0 without one."""
        names = [path.name for path in (self.folder(name) / "checkpoints").glob("*")]
        return max((int(step) for step in names if step.isdigit()), default=0)

    def add(self, one: SweepRun, step: int) -> None:
        """Records that a run is finished, and prints it."""
        self._runs[one.name] = {
            "changes": one.variant.changes,
            "step": step,
            "export": f"{RUNS}/{one.name}/export",
            "config": config_record.recorded(one.config),
        }
        if self.primary:
            files.write(self._path / RECORD, files.canonical(self._runs))
            print(f"run {one.name} is finished", flush=True)


def read(folder: Path) -> list[FinishedRun]:
    """The finished runs of a sweep.

    Raises:
        ConfigError: there are none, or the file is damaged.
    """
    found = [
        FinishedRun(name, facts["changes"], facts["config"], folder / facts["export"])
        for name, facts in _read(folder).items()
    ]
    if not found:
        raise ConfigError(f"{folder}: no {RECORD} with finished runs; expected the --workdir of a "
                          "sweep that finished at least one")  # fmt: skip
    return found


def spread(models: Mapping[str, str]) -> dict[str, str]:
    """Models by name, each sweep among them replaced by its runs: `n=runs/sweep` becomes
    `n.safety_rows100_seed1=runs/sweep/runs/safety_rows100_seed1/export` and so on. What is asked of
    a sweep, such as `?base=nf4`, is asked of each of its runs.

    Raises:
        ConfigError: a sweep without finished runs, or a run with the name of another model.
    """
    found: dict[str, str] = {}
    for name, place in models.items():
        place_alone, asked = model_folder.split_spec(place)
        folder = files.expand(place_alone)
        spread_out = {name: place}
        if (folder / RECORD).is_file():
            spread_out = {f"{name}.{one.name}": f"{one.export}{asked}" for one in read(folder)}
        if both := found.keys() & spread_out.keys():
            raise ConfigError(
                f"two models are called {min(both)!r}, one of them a run of a sweep; rename the "
                "other, or the sweep"
            )
        found |= spread_out
    return found


def _read(folder: Path) -> dict[str, Any]:
    try:
        found = files.read_object(folder / RECORD, ConfigError, _ADVICE)
    except FileNotFoundError:
        return {}
    keys = {"changes", "step", "export", "config"}
    if not all(
        isinstance(facts, dict)
        and keys <= facts.keys()
        and isinstance(facts["changes"], dict)
        and isinstance(facts["config"], dict)
        and isinstance(facts["config"].get("seed"), int)
        for facts in found.values()
    ):
        raise ConfigError(f"{folder / RECORD}: expected the runs of a sweep; {_ADVICE}")
    return found
