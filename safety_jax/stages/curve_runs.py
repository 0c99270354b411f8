"""Which models of a report stage `curve` compares: the runs of sweeps, or methods that were trained
with several seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safety_jax.base import files
from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data import source_spec
from safety_jax.evaluation.measures.curves import EvaluatedRun
from safety_jax.models.folders import model_folder
from safety_jax.stages import evaluate_plan
from safety_jax.stages.sweep_record import FinishedRun
from safety_jax.training import config_record

SEED = "seed"
SOURCES = ("data.train", "data.safety")  # axes whose values are sources of rows
AND = "+"  # between the models of a method

# ---------------------------------------------------------------------------- methods


def methods(text: str, report: Mapping[str, Any]) -> list[EvaluatedRun]:
    """The runs of `base=base,sit=sit_0+sit_1,dpo=dpo_0+dpo_1`: models of the report by method, in
    the order of their seeds. A method with one model, such as the base, has it for all seeds.

    Raises:
        ConfigError: fewer than two methods, a model that is not in the report or is named twice, or
            methods with different numbers of seeds.
    """
    key = "curve.methods"
    named = {name: joined.split(AND) for name, joined in evaluate_plan.named(text, key).items()}
    if len(named) < 2:
        raise ConfigError(
            f"{key} has {len(named)} method; expected two or more to compare: METHOD=MODEL{AND}"
            f"MODEL,METHOD=MODEL{AND}MODEL"
        )
    known = list(report["models"])
    seen: dict[str, str] = {}
    for name, models in named.items():
        for model in models:
            if model not in known:
                raise ConfigError(
                    f"{key}: {name} has {model!r}, which is not a model of the report; expected "
                    f"some of {', '.join(known)}"
                )
            if model in seen:
                raise ConfigError(
                    f"{key}: {model} is named twice, in {seen[model]} and {name}; expected each "
                    "model in one method"
                )
            seen[model] = name
    seeds = max(map(len, named.values()))
    for name, models in named.items():
        if len(models) not in (1, seeds):
            raise ConfigError(
                f"{key}: {name} has {len(models)} models, where another method has {seeds}; "
                "expected as many for each, one a seed, or a single one for all seeds"
            )
    return [
        EvaluatedRun(name, seed, models[seed if len(models) > 1 else 0])
        for name, models in named.items()
        for seed in range(seeds)
    ]


# ---------------------------------------------------------------------------- sweeps


def sweeps(text: str) -> dict[str, str]:
    """The sweeps of `curve.sweep` by name; a single one needs no name.

    Raises:
        ConfigError: several are given, not all as NAME=FOLDER.
    """
    if "=" not in text or files.expand(text).is_dir():
        return {"": text}
    return evaluate_plan.named(text, "curve.sweep")


def match(runs: list[FinishedRun], report: Mapping[str, Any], axis: str) -> list[EvaluatedRun]:
    """Matches the runs of a sweep with the models of a report, by their folders.

    Raises:
        ConfigError: the axis is the seed, over which intervals are taken.
        DataError: a run does not vary the axis, varies something beside it and the seed, or was
            not evaluated; or all runs have the same value.
    """
    if axis == SEED:
        raise ConfigError(
            f"curve.axis is {SEED}, over which intervals are taken; expected another key of the "
            "sweep's axes"
        )
    models: dict[Path, list[str]] = {}
    for name, facts in report["models"].items():
        if facts.get("path"):
            folder, _ = model_folder.split_spec(facts["path"])
            models.setdefault(files.expand(folder).resolve(), []).append(name)
    found, values = [], axis_values(runs, axis)
    for one, value in zip(runs, values, strict=True):
        others = one.changes.keys() - {axis, SEED}
        if others or not isinstance(value, int | float | str):
            what = f"also changes {min(others)}" if others else f"has no value for {axis}"
            raise DataError(
                f"run {one.name} of the sweep {what}; expected runs that differ only in {axis} and "
                "seed: name another curve.axis, or vary the other key in another sweep"
            )
        names = models.get(one.export.resolve(), [])
        if len(names) > 1:
            raise DataError(
                f"run {one.name} of the sweep is in the report more than once, as "
                f"{', '.join(names)}; expected one model for each run: evaluate the "
                "others in another report"
            )
        if not names:
            raise DataError(
                f"run {one.name} of the sweep is not in the report; evaluate the sweep again: "
                "--config.evaluate.models=n=FOLDER, the sweep's"
            )
        value = value if isinstance(value, str) else float(value)
        found.append(EvaluatedRun(value, one.seed, names[0]))
    if len({one.value for one in found}) < 2:
        raise DataError(
            f"all runs of the sweep have {found[0].value} for {axis}; expected two values or more "
            "to compare: sweep them, or name another curve.axis"
        )
    return found


def axis_values(runs: Sequence[FinishedRun], axis: str) -> list[Any]:
    """The value of each run for an axis. Draws from one source, such as `pairs.jsonl?rows=100`,
    become the number of their rows."""
    values = [one.changes.get(axis) for one in runs]
    # Keys that hold several texts have lists of one.
    values = [v[0] if isinstance(v, list) and len(v) == 1 else v for v in values]
    specs = [value for value in values if isinstance(value, str)]
    drawn = source_spec.amounts(specs) if axis in SOURCES and len(specs) == len(values) else None
    return values if drawn is None else drawn


def title(axis: str, runs: Sequence[EvaluatedRun]) -> str:
    """An axis in words: `data.safety_rows` is "safety rows"."""
    if axis in SOURCES and not isinstance(runs[0].value, str):
        return f"rows of {axis}"
    return axis.rpartition(".")[2].replace("_", " ")


def differences(finished: Mapping[str, Sequence[FinishedRun]]) -> list[str]:
    """The settings, beside their axes, in which the sweeps of several models differ."""
    changed = {key for runs in finished.values() for one in runs for key in one.changes}
    varying = config_record.varying({name: runs[0].config for name, runs in finished.items()})
    return [
        f"{key} differs: " + ", ".join(f"{value} ({name})" for name, value in values.items())
        for key, values in varying.items()
        if key not in changed
    ]
