"""Curves of several models, such as sizes of one family: whether how much is enough depends on the
model.

What an amount lacks is measured within each model: its outcomes minus those of the same model at
the largest amount, so that a model that is better throughout does not seem to need less. Two models
are compared by the difference of what they lack, seed by seed and prompt by prompt. The intervals
of all these differences of a measure hold together (Bonferroni), so every verdict read off them
does.
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
class LackAt:
    """What two models lack at one amount.

    Attributes:
        difference: what the second lacks minus what the first lacks; negative where the second is
            further below its largest amount. Its interval holds together with all others of the
            measure.
        verdict: that they lack as much, up to the margin: held, not held, or cannot tell.
    """

    amount: float
    difference: TableMean
    verdict: str


@dataclasses.dataclass(frozen=True)
class ModelPair:
    """Two models beside each other.

    Attributes:
        verdict: that both need as much, which is to lack as much at every amount: held where it is
            at all of them, not held where it is not at one, or cannot tell.
    """

    first: str
    second: str
    lacks: tuple[LackAt, ...]
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
    """The curves of a report over what the runs of each model differ in.

    Args:
        report: one for all, as `report.json` has it: all answer the same prompts.
        runs: by model; all with the same amounts and seeds.
        margin: see `thresholds.find`; also of what two models lack.

    Raises:
        DataError: a model lacks an amount or a seed, or no prompt of the report can be counted.
    """
    _alike(runs)
    drawn = {
        name: {curve.measure: curve for curve in curves.find(report, of_model, margin)}
        for name, of_model in runs.items()
    }
    found = []
    for measure in curves.measures(report):
        of_measure = {name: by[measure.name] for name, by in drawn.items() if measure.name in by}
        if len(of_measure) == len(runs):
            pairs = _pairs(report, measure, runs, margin)
            found.append(ModelCurves(measure.name, measure.title, of_measure, pairs))
    if not found:
        raise curves.no_outcome()
    return found


def _alike(runs: Mapping[str, Sequence[EvaluatedRun]]) -> None:
    """Raises DataError where models cannot be compared run by run."""
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
    lacks, prompts = {}, curves.prompts_of(report, measure)
    for name, of_model in runs.items():
        tables = curves.outcomes(report, measure, of_model)
        *below, largest = sorted(tables)
        lacks[name] = {amount: tables[amount] - tables[largest] for amount in below}
    amounts = list(lacks[next(iter(runs))])
    two = list(itertools.combinations(runs, 2))
    level = 1 - (1 - statistics.LEVEL) / (len(two) * len(amounts))

    def beside(first: str, second: str, amount: float) -> LackAt | None:
        table = lacks[second][amount] - lacks[first][amount]
        if np.isnan(table).all():
            return None
        difference = thresholds.mean(table, prompts, level)
        return LackAt(amount, difference, thresholds.equal(difference, margin))

    found = []
    for first, second in two:
        compared = [beside(first, second, amount) for amount in amounts]
        known = tuple(one for one in compared if one is not None)
        verdicts = [CANNOT_TELL if one is None else one.verdict for one in compared]
        found.append(ModelPair(first, second, known, _of_all(verdicts)))
    return tuple(found)


def _of_all(verdicts: Sequence[str]) -> str:
    if NOT_HELD in verdicts:
        return NOT_HELD
    return HELD if all(one == HELD for one in verdicts) else CANNOT_TELL
