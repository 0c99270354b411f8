"""Curves of several models, such as the sizes of one family: whether they need the same amount.

The deficit of an amount is measured within each model: its outcomes minus those of the same model
at the largest amount, so that a model that is better throughout does not seem to need less. Two
models are compared by the difference of their deficits, seed by seed and prompt by prompt. The
intervals of all these differences of a measure are simultaneous (Bonferroni), and so are the
verdicts.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from safety_jax.base.errors import DataError
from safety_jax.evaluation.measures import curves
from safety_jax.evaluation.measures.curves import Curve, CurveMeasure, EvaluatedRun
from safety_jax.maths import statistics, thresholds
from safety_jax.maths.thresholds import CANNOT_TELL, HELD, NOT_HELD, TableMean


@dataclasses.dataclass(frozen=True)
class DeficitAt:
    """The deficits of two models at one amount.

    Attributes:
        difference: the second's outcome relative to its largest amount, minus the first's; negative
            if the second is further below. Its interval is simultaneous with all others of the
            measure.
        verdict: whether the deficits are equal up to the margin: held, not held, or cannot tell.
    """

    amount: float
    difference: TableMean
    verdict: str


@dataclasses.dataclass(frozen=True)
class ModelPair:
    """Two models compared.

    Attributes:
        verdict: whether both need the same amount, that is, have equal deficits at every amount:
            held if it is at all of them, not held if it is not at one, else cannot tell.
    """

    first: str
    second: str
    deficits: tuple[DeficitAt, ...]
    verdict: str


@dataclasses.dataclass(frozen=True)
class ModelCurves:
    """A measure of several models, in their order.

    Attributes:
        curves: by model.
    """

    measure: str
    title: str
    curves: Mapping[str, Curve]
    pairs: tuple[ModelPair, ...]


def find(
    report: Mapping[str, Any], runs: Mapping[str, Sequence[EvaluatedRun]], margin: float
) -> list[ModelCurves]:
    """The curves of a report over the axis in which the runs of each model differ.

    Args:
        report: `report.json`, one for all models: all answer the same prompts.
        runs: by model; all with the same amounts and seeds.
        margin: see `thresholds.find`; also for the difference of deficits.

    Raises:
        DataError: a model lacks an amount or a seed, or no prompt of the report can be counted.
    """
    _alike(runs)
    drawn = {
        name: {curve.measure: curve for curve in curves.find(report, several, margin)}
        for name, several in runs.items()
    }
    found = []
    for measure in curves.measures(report):
        own = {name: by[measure.name] for name, by in drawn.items() if measure.name in by}
        if len(own) == len(runs):
            pairs = _pairs(report, measure, runs, margin)
            found.append(ModelCurves(measure.name, measure.title, own, pairs))
    if not found:
        raise curves.no_outcome()
    return found


def _alike(runs: Mapping[str, Sequence[EvaluatedRun]]) -> None:
    """Raises a DataError if models cannot be compared run by run."""
    first, *others = runs
    points = {name: {(one.value, one.seed) for one in found} for name, found in runs.items()}
    for other in others:
        for amount, seed in sorted(points[first] ^ points[other]):
            lacking = other if (amount, seed) in points[first] else first
            raise DataError(
                f"{lacking} has no run of {amount:g} with seed {seed}, as others have; expected "
                "every model with the same amounts and seeds"
            )


def _pairs(
    report: Mapping[str, Any],
    measure: CurveMeasure,
    runs: Mapping[str, Sequence[EvaluatedRun]],
    margin: float,
) -> tuple[ModelPair, ...]:
    deficits, prompts = {}, curves.prompts_of(report, measure)
    for name, several in runs.items():
        tables = curves.outcomes(report, measure, several)
        *below, largest = sorted(tables)
        deficits[name] = {amount: tables[amount] - tables[largest] for amount in below}
    amounts = list(deficits[next(iter(runs))])
    two = list(itertools.combinations(runs, 2))
    level = 1 - (1 - statistics.LEVEL) / (len(two) * len(amounts))

    def beside(first: str, second: str, amount: float) -> DeficitAt | None:
        table = deficits[second][amount] - deficits[first][amount]
        if np.isnan(table).all():
            return None
        difference = thresholds.mean(table, prompts, level)
        return DeficitAt(amount, difference, thresholds.equal(difference, margin))

    found = []
    for first, second in two:
        compared = [beside(first, second, amount) for amount in amounts]
        known = tuple(one for one in compared if one is not None)
        verdicts = [CANNOT_TELL if one is None else one.verdict for one in compared]
        found.append(ModelPair(first, second, known, _overall(verdicts)))
    return tuple(found)


def _overall(verdicts: Sequence[str]) -> str:
    if NOT_HELD in verdicts:
        return NOT_HELD
    return HELD if all(one == HELD for one in verdicts) else CANNOT_TELL
