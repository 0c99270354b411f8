"""The reports of an evaluation: a page, Markdown, plots, and tables for the terminal."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safety_jax.base import files
from safety_jax.evaluation.results.report import Report
from safety_jax.report.evaluation import page, plots
from safety_jax.report.evaluation.text import markdown, tables

__all__ = ["tables", "write"]


def write(report: Report, folder: Path) -> None:
    """Writes all forms of a report into a folder, each file atomically.

        report.html   one page without network access: tables, plots, and all transcripts
        report.md     the tables, for a model card
        report.json   the report itself
        plots/*.png   the plots

    Raises:
        ValueError: a number of the report is not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files.write(folder / "report.html", page.render(report))
    files.write(folder / "report.json", as_json(report))
    files.write(folder / "report.md", markdown(report, plots.draw(report, folder / "plots")))


def as_json(report: Report) -> str:
    """The whole report, in ASCII, so that even a lone surrogate in an answer is preserved."""
    return json.dumps(report, default=_plain, allow_nan=False, indent=1) + "\n"


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no place in a report")
