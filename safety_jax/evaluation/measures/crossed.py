"""Tables of runs by a word in which they differ, such as the form of their safety rows, and by set.

On each set every two words are compared, seed by seed and prompt by prompt.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from safety_jax.evaluation.measures import curves
from safety_jax.evaluation.measures.curves import CurveMeasure, EvaluatedRun
from safety_jax.maths import clusters, statistics, thresholds
from safety_jax.maths.thresholds import TableMean

DIFFERENT, CANNOT_TELL = "different", "cannot tell"
_LEVEL = 1 - statistics.LEVEL


@dataclasses.dataclass(frozen=True)
class CrossedCell:
    """A measure for the runs of one word on one set.

    Attributes:
        by_seed: the share of each seed's run over its prompts.
    """

    value: str
    set: str
    share: TableMean
    by_seed: Mapping[int, float]


@dataclasses.dataclass(frozen=True)
class Contrast:
    """The runs of two words compared on one set.

    Attributes:
        difference: the second's outcomes minus the first's, over seeds and prompts.
        p: of the exact sign-flip test over the differences of prompts, for these runs.
        p_holm: adjusted over all contrasts of the measure.
        verdict: "different" if p_holm is below 0.05 and the interval excludes 0; else "cannot
            tell".
    """

    set: str
    first: str
    second: str
    difference: TableMean
    p: float
    p_holm: float
    verdict: str


@dataclasses.dataclass(frozen=True)
class CrossedTable:
    """A measure by word and set."""

    measure: str
    title: str
    cells: tuple[CrossedCell, ...]
    contrasts: tuple[Contrast, ...]

    @property
    def values(self) -> list[str]:
        return list(dict.fromkeys(cell.value for cell in self.cells))

    @property
    def sets(self) -> list[str]:
        return list(dict.fromkeys(cell.set for cell in self.cells))


def find(report: Mapping[str, Any], runs: Sequence[EvaluatedRun]) -> list[CrossedTable]:
    """The tables of a report over the axis in which its runs differ.

    Args:
        report: the content of `report.json`.
        runs: every word with the same seeds.

    Raises:
        DataError: a word lacks a seed, or no prompt of the report can be counted.
    """
    found = []
    for measure in curves.measures(report):
        sets = dict.fromkeys(i["set"] for i in report["transcripts"] if i["kind"] == measure.kind)
        tables = {name: curves.outcomes(report, measure, runs, name) for name in sets}
        if tables := {name: table for name, table in tables.items() if table}:
            prompts = {name: curves.prompts_of(report, measure, name) for name in tables}
            found.append(_crossed(measure, tables, prompts, curves.seeds_of(runs)))
    if not found:
        raise curves.no_outcome()
    return found


def _crossed(
    measure: CurveMeasure,
    tables: Mapping[str, Mapping[str, np.ndarray]],
    prompts: Mapping[str, thresholds.Prompts],
    seeds: Sequence[int],
) -> CrossedTable:
    cells, compared = [], []
    for name, by_value in tables.items():
        for value, table in by_value.items():
            means = curves.by_seed(table, seeds)
            cells.append(CrossedCell(value, name, thresholds.mean(table, prompts[name]), means))
        for first, second in itertools.combinations(by_value, 2):
            both = by_value[first], by_value[second]
            if not np.isnan(both[1] - both[0]).all():
                compared.append((name, first, second, *both))
    ps = [_p(one, other, prompts[name]) for name, *_, one, other in compared]
    contrasts = [
        _contrast(name, first, second, thresholds.mean(other - one, prompts[name]), p, adjusted)
        for (name, first, second, one, other), p, adjusted in zip(
            compared, ps, statistics.holm(ps), strict=True
        )
    ]
    return CrossedTable(measure.name, measure.title, tuple(cells), tuple(contrasts))


def _p(first: np.ndarray, second: np.ndarray, prompts: thresholds.Prompts) -> float:
    """The exact test's p; the verdicts of all seeds on a prompt are one cluster."""
    known = ~np.isnan(second - first)
    of = np.broadcast_to(prompts, known.shape)[known]
    return clusters.change(first[known] > 0, second[known] > 0, of).p


def _contrast(
    name: str, first: str, second: str, difference: TableMean, p: float, p_holm: float
) -> Contrast:
    apart = difference.low is not None and (difference.low > 0 or (difference.high or 0.0) < 0)
    verdict = DIFFERENT if apart and p_holm < _LEVEL else CANNOT_TELL
    return Contrast(name, first, second, difference, p, p_holm, verdict)
