"""Stage `curve`: the evaluation of a sweep along one of its axes (docs/curve.md).

curve.json                  all results
curves.md, plots/*.png      if the axis is numeric
models.md, plots/*.png      if the axis is numeric, for several models side by side
tables.md                   if the values of the axis are words
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
from ml_collections import ConfigDict

from safety_jax.base import files
from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data import source_spec
from safety_jax.evaluation.measures import crossed, curves, model_curves
from safety_jax.evaluation.measures.curves import EvaluatedRun
from safety_jax.evaluation.measures.model_curves import ModelCurves
from safety_jax.models.folders import model_folder
from safety_jax.report import crossed as table_pages
from safety_jax.report import curves as curve_pages
from safety_jax.report import model_curves as model_pages
from safety_jax.stages import evaluate_plan, sweep_record
from safety_jax.stages.sweep_record import FinishedRun
from safety_jax.training import config_record, workdir

SEED = "seed"
SOURCES = ("data.train", "data.safety")  # axes whose values are sources of rows


def run(config: ConfigDict, folder: str) -> None:
    """Reads sweeps and their evaluation, and writes the curves.

    Raises:
        UserError: any error that the user can fix.
    """
    group = config.curve
    with workdir.prepare(folder, config, jax.process_index() == 0) as place:
        report = read_report(files.expand(group.report) / "report.json")
        named = sweeps(group.sweep)
        finished = {name: sweep_record.read(files.expand(path)) for name, path in named.items()}
        runs = {name: match(of_model, report, group.axis) for name, of_model in finished.items()}
        every = [one for of_model in runs.values() for one in of_model]
        axis = title(group.axis, every)
        found: Sequence[Any]
        pages: ModuleType
        if len(runs) > 1:
            found, pages, kind = compare(report, runs, group.margin_share), model_pages, "models"
            notes = differences(finished) + curves.left_out(report, {one.measure for one in found})
        elif isinstance(every[0].value, str):  # words have no order: tables instead of curves
            found, pages, kind, notes = crossed.find(report, every), table_pages, "tables", []
        else:
            found = curves.find(report, every, group.margin_share)
            notes = curves.left_out(report, {one.measure for one in found})
            pages, kind = curve_pages, "curves"
        if jax.process_index() == 0:
            pages.write(found, axis, place.path, place.path.name, notes)
            facts = {"axis": group.axis, "report": group.report, "judge": report["safety"]}
            keep(place.path, {**facts, "notes": notes}, kind, found)
            told = [*(f"note: {note}" for note in notes), pages.text(found, axis)]
            print("\n".join([*told, f"{place.path / kind}.md"]), flush=True)


def compare(
    report: Mapping[str, Any], runs: Mapping[str, Sequence[EvaluatedRun]], margin: float
) -> list[ModelCurves]:
    """The curves of several models.

    Raises:
        ConfigError: the values of the axis are words.
        DataError: see `model_curves.find`.
    """
    if any(isinstance(one.value, str) for found in runs.values() for one in found):
        raise ConfigError(
            "curve.sweep has several models, but the values of curve.axis are words; expected "
            "numbers, or one model"
        )
    return model_curves.find(report, runs, margin)


def differences(finished: Mapping[str, Sequence[FinishedRun]]) -> list[str]:
    """The settings, beside their axes, in which the sweeps of several models differ."""
    changed = {key for runs in finished.values() for one in runs for key in one.changes}
    varying = config_record.varying({name: runs[0].config for name, runs in finished.items()})
    return [
        f"{key} differs: " + ", ".join(f"{value} ({name})" for name, value in values.items())
        for key, values in varying.items()
        if key not in changed
    ]


def sweeps(text: str) -> dict[str, str]:
    """The sweeps of `curve.sweep` by name; a single one needs no name.

    Raises:
        ConfigError: several are given, not all as NAME=FOLDER.
    """
    if "=" not in text or files.expand(text).is_dir():
        return {"": text}
    return evaluate_plan.named(text, "curve.sweep")


def keep(folder: Path, facts: Mapping[str, Any], kind: str, found: Sequence[Any]) -> None:
    """Writes `curve.json`, with the results under the key `kind`."""
    made = {**facts, kind: [dataclasses.asdict(one) for one in found]}
    text = json.dumps(made, allow_nan=False, indent=1)
    files.write(folder / "curve.json", text + "\n")


def read_report(path: Path) -> dict[str, Any]:
    """The report of stage `evaluate`.

    Raises:
        ConfigError: there is no such file, or it is not a report.
    """
    try:
        found = files.read_object(path, ConfigError, "run stage evaluate again")
    except FileNotFoundError as error:
        raise ConfigError(
            f"curve.report: there is no {path}; expected the --workdir of a finished evaluation"
        ) from error
    known = {"models", "sets", "safety", "transcripts"} <= found.keys()
    if not known or not all("first" in item for item in found["transcripts"]):
        raise ConfigError(f"{path}: expected a report of stage evaluate; run it again")
    return found


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
