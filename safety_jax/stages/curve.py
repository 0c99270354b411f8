"""Stage `curve`: what an evaluation of a sweep says over one axis of it (docs/sweep.md).

curve.json, curves.md, plots/*.png
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from safety_jax.base import files
from safety_jax.base.errors import ConfigError, DataError
from safety_jax.evaluation.measures import curves
from safety_jax.evaluation.measures.curves import EvaluatedRun
from safety_jax.report import curves as drawn
from safety_jax.stages import sweep_record
from safety_jax.stages.sweep_record import FinishedRun
from safety_jax.training import workdir

SEED = "seed"


def run(config: ConfigDict, folder: str) -> None:
    """Reads a sweep and its evaluation, and writes the curves.

    Raises:
        UserError: anything that the user can put right.
    """
    group = config.curve
    with workdir.prepare(folder, config, jax.process_index() == 0) as place:
        report = read_report(files.expand(group.report) / "report.json")
        runs = match(sweep_record.read(files.expand(group.sweep)), report, group.axis)
        found = curves.find(report, runs, group.margin_share)
        if jax.process_index() == 0:
            axis = group.axis.rpartition(".")[2].replace("_", " ")
            drawn.write(found, axis, place.path, place.path.name)
            facts = {"axis": group.axis, "report": group.report, "judge": report["safety"]}
            facts["curves"] = [dataclasses.asdict(curve) for curve in found]
            text = json.dumps(facts, allow_nan=False, indent=1)
            files.write(place.path / "curve.json", text + "\n")
            print(f"{drawn.text(found, axis)}\n{place.path / 'curves.md'}", flush=True)


def read_report(path: Path) -> dict[str, Any]:
    """What stage `evaluate` left.

    Raises:
        ConfigError: there is no such file, or it is no report.
    """
    try:
        found = files.read_object(path, ConfigError, "run stage evaluate again")
    except FileNotFoundError as error:
        raise ConfigError(
            f"curve.report: there is no {path}; expected the --workdir of a finished evaluation"
        ) from error
    if not {"models", "sets", "safety", "transcripts"} <= found.keys():
        raise ConfigError(f"{path}: expected a report of stage evaluate; run it again")
    return found


def match(runs: list[FinishedRun], report: Mapping[str, Any], axis: str) -> list[EvaluatedRun]:
    """The runs of a sweep as models of a report, by the folders that both name.

    Raises:
        DataError: a run does not vary the axis, or varies more than that and the seed, or was not
            evaluated.
    """
    models = {
        str(files.expand(facts["path"]).resolve()): name
        for name, facts in report["models"].items()
        if facts.get("path")
    }
    found = []
    for one in runs:
        others = one.changes.keys() - {axis, SEED}
        value = one.changes.get(axis)
        if others or not isinstance(value, int | float):
            what = f"changes {min(others)}, too" if others else f"has no number for {axis}"
            raise DataError(
                f"run {one.name} of the sweep {what}; expected runs that differ in {axis} and "
                "seed: name another curve.axis, or sweep the other key apart"
            )
        model = models.get(str(one.export.resolve()))
        if model is None:
            raise DataError(
                f"run {one.name} of the sweep is not in the report; evaluate the sweep again: "
                "--config.evaluate.models=n=FOLDER, the sweep's"
            )
        found.append(EvaluatedRun(float(value), int(one.changes.get(SEED, 0)), model))
    return found
