"""Stage `recipe`: a sequence of stages, each with a folder of its own, that build on each other.

    runs/ladder/
      sit/ judge/ raft/ dpo/ report/   one run each, see the stage; `export/` in Hugging Face layout
      recipe.json                      the finished steps: their configs and seconds

The config of a step is a whole config of its stage. Its texts may refer to earlier results: `@base`
is `recipe.base`, and so for `@data` and `@trunk`; `@sit` is the folder that step `sit` exported,
and `@own/pairs.jsonl` a file in the run of step `own`. A finished step is not run again unless a
file that its config names has changed, or its folder is gone; one that was interrupted continues,
as its stage does.
"""

import contextlib
import dataclasses
import functools
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from safety_jax.base import files, hosts
from safety_jax.base.errors import ConfigError
from safety_jax.data import source_spec
from safety_jax.stages import devices, precision
from safety_jax.training import config_record, workdir

RECORD = "recipe.json"
GIVEN = ("base", "data", "trunk")  # names of keys of the recipe
# Stages that `recipe.max_flops` gives their compute: to each run of a sweep, as to a run alone.
TUNING = ("sft", "dpo", "kto", "orpo", "raft", "sweep")
HASHED_BYTES = 1 << 28  # larger files are compared by size and time
EXPORT = "export"  # the folder of the trained model inside a step's run
_REFERENCE = re.compile(r"@([a-z][a-z0-9_]*)")

# Returns False if it was asked to stop before its end, or waits for people.
Stage = Callable[[ConfigDict, str], bool | None]


def run(config: ConfigDict, folder: str, stages: Mapping[str, Stage]) -> None:
    """Runs the steps in order; called again, it continues where it stopped.

    Args:
        stages: by the names that a step's `stage` may have.

    Raises:
        UserError: any error that the user can fix.
    """
    primary = jax.process_index() == 0
    steps = read_steps(config, stages)
    with workdir.prepare(folder, config, primary) as place:
        record = RecipeLog(place.path / RECORD, primary)
        for number, step in enumerate(steps, start=1):
            own = place.path / step.name
            filled = fill(config, step, place.path)
            title = f"step {number} of {len(steps)}: {step.name}"
            read = hosts.first_says(functools.partial(read_files, filled, place.path))
            for path in record.changed(step.name, read):
                say(primary, f"{title} was finished before, but {path} has changed since")
            if hosts.first_says(functools.partial(record.finished, step.name, filled, read)):
                say(primary, f"{title} was finished before")
                continue
            left = [other.name for other in steps[number - 1 :]]
            told = record.time_left(left, config.recipe.minutes.to_dict())
            say(primary, f"\n== {title} ({filled.stage}) in {own}{told}")
            began = time.perf_counter()
            if stages[filled.stage](filled, str(own)) is False:
                say(primary, f"{title} is not finished; run the same command to continue")
                return
            record.add(step.name, filled, time.perf_counter() - began, read)
        table = record.table([step.name for step in steps])
        say(primary, f"\n{table}\nall steps are finished: {place.path}")


def say(primary: bool, text: str) -> None:
    if primary:
        print(text, flush=True)


# ---------------------------------------------------------------------------- steps


@dataclasses.dataclass(frozen=True)
class RecipeStep:
    """A step: a key of the config that holds a whole config of a stage.

    Attributes:
        needs: the earlier steps that its texts refer to.
    """

    name: str
    needs: frozenset[str]


def read_steps(config: ConfigDict, stages: Mapping[str, Stage]) -> list[RecipeStep]:
    """The steps of `recipe.steps`, all checked before any of them runs.

    Raises:
        ConfigError: a step is unknown or repeated, has no known stage, refers to a step that does
            not come before it, or cannot run on these devices.
    """
    names = list(config.recipe.steps)
    if not names:
        raise ConfigError("recipe.steps is empty; expected names of steps")
    known = {
        key: group
        for key, group in config.items()
        if isinstance(group, ConfigDict) and "stage" in group
    }
    found: list[RecipeStep] = []
    for name in names:
        if name not in known:
            raise ConfigError(f"recipe.steps {name!r}: expected one of {', '.join(known)}")
        group = known[name]
        if names.count(name) > 1:
            raise ConfigError(f"recipe.steps names {name!r} twice")
        if group.stage not in stages:
            raise ConfigError(f"{name}.stage {group.stage!r}: expected one of {', '.join(stages)}")
        named = {found for text in _texts(group.to_dict()) for found in _REFERENCE.findall(text)}
        before = {step.name for step in found}
        late = (named & known.keys()) - before
        if late:
            raise ConfigError(
                f"step {name} uses @{min(late)}, which does not come before it in recipe.steps; "
                f"move it there, or remove it from {name}'s config"
            )
        for key in GIVEN:
            if key in named and not config.recipe[key]:
                raise ConfigError(f"recipe.{key} is empty; step {name} uses @{key}: give a folder")
        if config.recipe.max_flops and group.stage in TUNING and group.train.max_steps:
            raise ConfigError(
                f"recipe.max_flops is {config.recipe.max_flops:g} and {name}.train.max_steps "
                f"{group.train.max_steps}; expected one of them above 0 and the other 0"
            )
        if "mesh" in group:
            try:
                devices.build_mesh(precision.settled(group, jax.devices()[0].platform))
            except ConfigError as error:
                raise ConfigError(f"step {name}: {error}") from error
        found.append(RecipeStep(name, frozenset(named & before)))
    return found


def _texts(value: Any) -> list[str]:
    """All texts of a config, at any depth."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for inner in value.values() for text in _texts(inner)]
    if isinstance(value, Sequence):
        return [text for inner in value for text in _texts(inner)]
    return []


def fill(config: ConfigDict, step: RecipeStep, folder: Path) -> ConfigDict:
    """A step's config with its references replaced by folders, locked."""

    def replaced(match: re.Match[str]) -> str:
        name = match[1]
        if name in GIVEN:
            return str(config.recipe[name])
        if name not in step.needs:
            return match[0]
        # @sit/merged is a folder of the run, @sit its exported folder.
        inside = match.string[match.end() :].startswith("/")
        return str(folder / name) if inside else str(folder / name / EXPORT)

    def walk(value: Any) -> Any:
        if isinstance(value, str):
            return _REFERENCE.sub(replaced, value)
        if isinstance(value, tuple | list):
            return type(value)(walk(inner) for inner in value)
        return value

    filled = config[step.name].copy_and_resolve_references().unlock()
    _walk_groups(filled, walk)
    if config.recipe.max_flops and filled.stage in TUNING:
        rounds = filled.raft.rounds if filled.stage == "raft" else 1
        filled.train.max_flops = config.recipe.max_flops / rounds
    return filled.lock()


def _walk_groups(group: ConfigDict, change: Callable[[Any], Any]) -> None:
    for key, value in group.items():
        if isinstance(value, ConfigDict):
            _walk_groups(value, change)
        else:
            group[key] = change(value)


def read_files(config: ConfigDict, folder: Path) -> dict[str, str]:
    """The local files that a step's config names, with their options or without, and the SHA-256 of
    each; of a large file its size and time. Those in the recipe's own folder are left out: their
    steps have records."""
    found = {}
    for text in _texts(config.to_dict()):
        place = source_spec.split(text)[0].removeprefix("file:")  # of a template
        with contextlib.suppress(OSError, ValueError, ConfigError):  # no name of a file
            path = files.expand(place).absolute()
            if not place or not path.is_file() or path.is_relative_to(folder):
                continue
            facts = path.stat()
            small = facts.st_size <= HASHED_BYTES
            found[str(path)] = (
                files.sha256(path) if small else f"{facts.st_size} bytes of {facts.st_mtime_ns}"
            )
    return found


# ---------------------------------------------------------------------------- finished steps


def _is_finished_step(facts: Any) -> bool:
    """Whether a value of `recipe.json` is what `RecipeLog.add` writes."""
    if not isinstance(facts, dict) or not isinstance(facts.get("seconds"), int | float):
        return False
    if not isinstance(facts.get("files", {}), dict):
        return False
    return isinstance(facts.get("config"), dict) and "stage" in facts["config"]


class RecipeLog:
    """`recipe.json`: the finished steps, each with its config.

    Raises:
        ConfigError: the file is damaged.
    """

    def __init__(self, path: Path, writes: bool):
        self._path, self._writes = path, writes
        self._steps: dict[str, dict[str, Any]] = {}
        advice = "remove it: every step then checks by itself whether it is finished"
        try:
            stored = files.read_object(path, ConfigError, advice)
        except FileNotFoundError:
            return
        steps = stored.get("steps")
        if not isinstance(steps, dict) or not all(map(_is_finished_step, steps.values())):
            raise ConfigError(f"{path}: expected the steps of a recipe; {advice}")
        self._steps = steps

    def finished(self, name: str, config: ConfigDict, read: Mapping[str, str]) -> bool:
        """Whether the step ran to its end with this config and these files, and all before it with
        theirs, and its folder is still there.

        Args:
            read: see `read_files`.
        """
        same = self._steps.get(name, {}).get("config") == config_record.recorded(config)
        return same and not self.changed(name, read) and (self._path.parent / name).is_dir()

    def changed(self, name: str, read: Mapping[str, str]) -> list[str]:
        """The files that have changed since a step was finished; none for records of early
        versions."""
        known = self._steps.get(name, {}).get("files", {})
        return [path for path, sha256 in read.items() if known.get(path, sha256) != sha256]

    def add(self, name: str, config: ConfigDict, seconds: float, read: Mapping[str, str]) -> None:
        # Later steps that used an older version of this one are no longer finished.
        own = f"{self._path.parent / name}/"
        for later, facts in list(self._steps.items()):
            if any(own in text for text in _texts(facts["config"])):
                del self._steps[later]
        self._steps[name] = {
            "config": config_record.recorded(config),
            "seconds": round(seconds, 1),
            "files": dict(read),
        }
        if self._writes:
            files.write(self._path, files.canonical({"steps": self._steps}))

    def time_left(self, names: Sequence[str], minutes: Mapping[str, float]) -> str:
        """A phrase on how long these steps will take; "" if that is not known.

        Args:
            minutes: what each step took on another machine; the steps finished here tell how much
                faster or slower this one is.
        """
        if not all(name in minutes for name in names):
            return ""
        taken = {name: facts["seconds"] / 60 for name, facts in self._steps.items()}
        elsewhere = sum(minutes[name] for name in taken if name in minutes)
        here = sum(taken[name] for name in taken if name in minutes)
        pace = here / elsewhere if elsewhere else 1.0
        left = pace * sum(minutes[name] for name in names)
        return f"; {sum(taken.values()):.0f} min so far, about {left:.0f} min left"

    def table(self, names: Sequence[str]) -> str:
        """A table of the seconds of these steps."""
        width = max(map(len, names))
        steps = [(name, self._steps[name]) for name in names]
        return "\n".join(
            f"{name:{width}}  {facts['config']['stage']:8}  {facts['seconds']:8.1f} s"
            for name, facts in steps
        )
