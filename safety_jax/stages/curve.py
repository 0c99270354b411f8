"""Stage `curve`: an evaluated sweep along one of its axes, or methods over seeds (docs/curve.md).

curve.json                  all results
curves.md, plots/*.png      if the axis is numeric
models.md, plots/*.png      if the axis is numeric, for several models side by side
tables.md                   if the values of the axis are words, and for methods
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
from safety_jax.base.errors import ConfigError
from safety_jax.evaluation.measures import crossed, curves, model_curves
from safety_jax.report import crossed as table_pages
from safety_jax.report import curves as curve_pages
from safety_jax.report import model_curves as model_pages
from safety_jax.stages import curve_runs, sweep_record
from safety_jax.training import workdir


def run(config: ConfigDict, folder: str) -> None:
    """Reads what is compared and the report on it, and writes the curves or tables.

    Raises:
        UserError: any error that the user can fix.
    """
    group = config.curve
    if bool(group.sweep) == bool(group.methods):
        raise ConfigError(
            f"curve.sweep and curve.methods are both {'given' if group.sweep else 'empty'}; "
            "expected one of them"
        )
    with workdir.prepare(folder, config, jax.process_index() == 0) as place:
        report = read_report(files.expand(group.report) / "report.json")
        found = compare(group, report)
        if jax.process_index() == 0:
            found.pages.write(found.results, found.axis, place.path, place.path.name, found.notes)
            keep(place.path, group, report["safety"], found)
            told = [*(f"note: {note}" for note in found.notes), found.text]
            print("\n".join([*told, f"{place.path / found.kind}.md"]), flush=True)


@dataclasses.dataclass(frozen=True)
class CurveResult:
    """What the stage found.

    Attributes:
        kind: curves, models or tables; its page is named after it.
        axis: in words, for headings.
        notes: sentences on what a reader should know.
        pages: the module that writes the page.
    """

    kind: str
    axis: str
    results: Sequence[Any]
    notes: Sequence[str]
    pages: ModuleType

    @property
    def text(self) -> str:
        return str(self.pages.text(self.results, self.axis))


def compare(group: ConfigDict, report: Mapping[str, Any]) -> CurveResult:
    """Compares what `curve.methods` or `curve.sweep` names.

    Raises:
        ConfigError, DataError: it does not match the report, or cannot be compared.
    """
    if group.methods:
        runs = curve_runs.methods(group.methods, report)
        return CurveResult("tables", "method", crossed.find(report, runs), [], table_pages)
    paths = curve_runs.sweeps(group.sweep)
    finished = {name: sweep_record.read(files.expand(path)) for name, path in paths.items()}
    by_model = {name: curve_runs.match(r, report, group.axis) for name, r in finished.items()}
    every = [one for runs in by_model.values() for one in runs]
    axis = curve_runs.title(group.axis, every)
    words = any(isinstance(one.value, str) for one in every)  # they have no order
    if words and len(by_model) > 1:
        raise ConfigError(
            "curve.sweep has several models, but the values of curve.axis are words; expected "
            "numbers, or one model"
        )
    if words:
        return CurveResult("tables", axis, crossed.find(report, every), [], table_pages)
    if len(by_model) > 1:
        models = model_curves.find(report, by_model, group.margin_share)
        notes = curve_runs.differences(finished)
        notes += curves.left_out(report, {one.measure for one in models})
        return CurveResult("models", axis, models, notes, model_pages)
    drawn = curves.find(report, every, group.margin_share)
    notes = curves.left_out(report, {one.measure for one in drawn})
    return CurveResult("curves", axis, drawn, notes, curve_pages)


def keep(folder: Path, group: ConfigDict, judge: str, found: CurveResult) -> None:
    """Writes `curve.json`, with the results under their kind."""
    made = {
        "axis": "method" if group.methods else group.axis,
        "report": group.report,
        "judge": judge,
        "notes": list(found.notes),
        found.kind: [dataclasses.asdict(one) for one in found.results],
    }
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
