"""Measures how good a judge is on held-out answers, and whether answer length alone does as well.

Intervals and tests are over prompts, whose answers or pairs are a cluster (`maths.clusters`).
Everything is computed from a table of scores. For pairs, the margin (chosen minus rejected score)
is the log-odds that the chosen answer is better; for a cost model, the margin is rejected minus
chosen. For single answers, the score itself is the log-odds of being unsafe, or the rating.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

from safety_jax.data.judged import JudgedAnswers
from safety_jax.maths import calibration, clusters
from safety_jax.training.loop import Metrics

BINS = 10
MOST_GROUPS = 40  # the report has the largest categories, up to this many
FEWEST_SHOWN = 10  # smaller groups are not printed
MCNEMAR, SIGN_FLIP = "McNemar, exact", "sign flips over prompts, exact"

Numbers = Float[np.ndarray, " n"]
Labels = Bool[np.ndarray, " n"]
QualityReport = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Held:
    """Examples with their scores; entry i of all fields is one example.

    Attributes:
        kind: pairs, cost, regression or binary.
        scores: the score of each side.
        targets: the label or rating of each side; None if pairs have none.
        lengths: tokens of each answer.
        losses: the loss of each example.
        categories, sources: the kinds of harm and the source of each example.
        prompts: the number of each example's prompt.
    """

    kind: str
    scores: Float[np.ndarray, "n sides"]
    targets: Float[np.ndarray, "n sides"] | None
    lengths: Float[np.ndarray, "n sides"]
    losses: Numbers
    categories: Sequence[tuple[str, ...]]
    sources: Sequence[str]
    prompts: Int[np.ndarray, " n"]

    @property
    def paired(self) -> bool:
        return self.scores.shape[1] == 2

    @property
    def evidence(self) -> Numbers:
        """The log-odds of a pair's order or of an answer being unsafe, or the predicted rating."""
        if not self.paired:
            return self.scores[:, 0]
        margin = self.scores[:, 0] - self.scores[:, 1]
        return -margin if self.kind == "cost" else margin

    @property
    def outcomes(self) -> Labels:
        """What the evidence should predict; always true for pairs, whose chosen answer is first."""
        if self.paired:
            return np.ones(len(self.scores), bool)
        assert self.targets is not None
        return self.targets[:, 0] > 0.5

    @property
    def length(self) -> Numbers:
        """Tokens of each answer; for a pair, how much longer the chosen answer is."""
        if self.paired:
            return self.lengths[:, 0] - self.lengths[:, 1]
        return self.lengths[:, 0]


def held(kind: str, table: Float[np.ndarray, "n columns"], examples: Int[np.ndarray, " n"],
         data: JudgedAnswers) -> Held:  # fmt: skip
    """The examples of `data` with the table that the loss returned for them."""
    return Held(
        kind=kind,
        scores=table[:, :-1].astype(float),
        targets=None if data.targets is None else data.targets[examples],
        lengths=data.answer_lengths[examples],
        losses=table[:, -1].astype(float),
        categories=[data.categories[i] for i in examples],
        sources=[data.source[i] for i in examples],
        prompts=data.prompts[examples],
    )


# ---------------------------------------------------------------------------- while training


def summarize(data: Held) -> Metrics:
    """A few numbers, under TRL's names if it has them."""
    scores = data.scores
    metrics = {
        "min_reward": float(scores.min()),
        "mean_reward": float(scores.mean()),
        "max_reward": float(scores.max()),
    }
    if data.kind == "regression":
        metrics["mse"] = float(data.losses.mean())
        found = calibration.correlation(scores[:, 0], _targets(data)[:, 0])
        return metrics | ({} if found is None else {"pearson": found[0], "spearman": found[1]})
    metrics["accuracy"] = float(calibration.half_right(data.evidence, data.outcomes).mean())
    if data.paired:
        metrics["margin"] = float(data.evidence.mean())
        found = calibration.correlation(data.length, data.evidence)
        if found is not None:
            metrics["margin_length_correlation"] = found[0]
    if data.kind == "cost":
        metrics["sign_accuracy"] = float(((scores > 0) == (_targets(data) > 0.5)).mean())
    return metrics


def evaluation(data: Held) -> Metrics:
    """`summarize` over held-out examples, with intervals and measures that need many examples."""
    metrics = {"loss": float(data.losses.mean())} | summarize(data)
    if data.kind != "regression":
        right = calibration.half_right(data.evidence, data.outcomes)
        metrics["accuracy_low"], metrics["accuracy_high"] = clusters.mean(right, data.prompts)
        metrics["ece"] = calibration.reliability(data.evidence, data.outcomes, bins=BINS).error
    ranked = _ranked(data)
    if ranked is not None:
        metrics["auc"] = ranked
    return metrics


def _targets(data: Held) -> Float[np.ndarray, "n sides"]:
    assert data.targets is not None, "judges but those of pairs are only trained with targets"
    return data.targets


def _share(right: Numbers, prompts: Int[np.ndarray, " n"]) -> QualityReport:
    low, high = clusters.mean(right, prompts)
    return {"value": float(right.mean()), "low": low, "high": high, "n": len(right)}


def _ranked(data: Held) -> float | None:
    """AUC of the score over all answers, regardless of their pairs: does a score mean the same for
    every prompt?"""
    if data.kind == "regression":
        return None
    if data.kind == "pairs":
        positive = np.zeros(data.scores.shape, bool)
        positive[:, 0] = True
    else:
        positive = _targets(data) > 0.5
    return calibration.auc(data.scores.ravel(), positive.ravel())


# ---------------------------------------------------------------------------- the report


def report(data: Held, training: Held) -> QualityReport:
    """Everything for `results.json`, including what a judge of lengths alone achieves.

    Args:
        training: the examples that the judge of lengths is fitted on; their scores are not used.
    """
    found: QualityReport = {
        "kind": data.kind,
        "held_out": len(data.losses),
        "prompts": len(np.unique(data.prompts)),
        **evaluation(data),
    }
    if data.kind == "regression":
        return found | _regression(data, training)
    right = calibration.half_right(data.evidence, data.outcomes)
    found["accuracy"] = _share(right, data.prompts)
    baselines, by_length = _baselines(data, training)
    found["baselines"] = baselines
    found["against_length"] = _paired_test(right, by_length, data.prompts)
    found["length_correlation"] = _correlation(data.length, data.evidence)
    found["calibration"] = _calibration(data)

    def share(members: Labels | list[int]) -> QualityReport:
        return _share(right[members], data.prompts[members])

    found["by_length"] = _terciles(data.length, share)
    found["by_category"] = _groups(data.categories, share)
    found["by_source"] = _groups([(source,) for source in data.sources], share)
    return found


def _regression(data: Held, training: Held) -> QualityReport:
    ratings, known = _targets(data)[:, 0], _targets(training)[:, 0]
    line = stats.linregress(training.length, known) if np.ptp(training.length) else None
    by_length = known.mean() if line is None else line.intercept + line.slope * data.length
    errors = (data.scores[:, 0] - ratings) ** 2

    def error(members: list[int]) -> QualityReport:
        return {"mse": float(errors[members].mean()), "n": len(members)}

    return {
        "baselines": {
            "mean rating": {"mse": float(((known.mean() - ratings) ** 2).mean())},
            "line on length": {"mse": float(((by_length - ratings) ** 2).mean())},
        },
        "length_correlation": _correlation(data.length, data.scores[:, 0]),
        "by_rating": {
            f"{rating:g}": {
                "mean_score": float(data.scores[ratings == rating, 0].mean()),
                "n": int((ratings == rating).sum()),
            }
            for rating in np.unique(ratings)[:MOST_GROUPS]
        },
        "by_category": _groups(data.categories, error),
        "by_source": _groups([(source,) for source in data.sources], error),
    }


def _baselines(data: Held, training: Held) -> tuple[QualityReport, Numbers]:
    """Baselines that do not read the answers, fitted on the training examples; and which examples
    the logistic model of length gets right."""
    n = len(data.losses)
    slope, offset = calibration.logistic(
        training.length, training.outcomes, intercept=not data.paired
    )
    by_length = calibration.half_right(slope * data.length + offset, data.outcomes)
    found: QualityReport = {}
    if data.paired:
        longer = calibration.half_right(data.length, data.outcomes)
        found["chance"] = {"value": 0.5, "n": n}
        found["longer wins"] = _share(longer, data.prompts)
        found["shorter wins"] = _share(1 - longer, data.prompts)
    else:
        most = training.outcomes.mean() > 0.5
        found["more frequent label"] = _share((data.outcomes == most).astype(float), data.prompts)
    found["logistic on length"] = _share(by_length, data.prompts) | {
        "slope": slope,
        "offset": offset,
    }
    return found, by_length


def _paired_test(
    judge: Numbers, by_length: Numbers, prompts: Int[np.ndarray, " n"]
) -> QualityReport:
    """McNemar's exact test on the examples that exactly one of the two gets right; if prompts have
    several examples, the exact test that flips the signs of prompts.

    Examples on which either is undecided do not count: between answers that were cut to the same
    length, a judge of lengths is.
    """
    only_judge, only_length = (
        (one == 1) & (other == 0) for one, other in ((judge, by_length), (by_length, judge))
    )
    ahead = np.bincount(prompts, only_judge.astype(int) - only_length).astype(int)
    return {
        "only_judge_right": int(only_judge.sum()),
        "only_length_right": int(only_length.sum()),
        "p": clusters.sign_flip(ahead),
        "test": MCNEMAR if len(np.unique(prompts)) == len(prompts) else SIGN_FLIP,
    }


def _correlation(length: Numbers, evidence: Numbers) -> QualityReport:
    found = calibration.correlation(length, evidence)
    return {} if found is None else {"pearson": found[0], "spearman": found[1]}


def _calibration(data: Held) -> QualityReport:
    evidence, outcomes = data.evidence, data.outcomes
    bins = calibration.reliability(evidence, outcomes, bins=BINS)
    scaled, nll = calibration.cross_fitted(evidence, outcomes, data.prompts, bins=BINS)
    right = calibration.half_right(evidence, outcomes)
    place = calibration.bin_of(evidence, bins=BINS)
    inside = [place == number for number in np.unique(place)]
    bounds = [clusters.mean(right[here], data.prompts[here]) for here in inside]
    return {
        "temperature": calibration.temperature(evidence, outcomes),
        "temperature_fitted_on": "all held-out examples",
        "ece": bins.error,
        "nll": calibration.nll(evidence, outcomes),
        "ece_scaled": scaled,
        "nll_scaled": nll,
        "scaled_by": "each half of the held-out prompts by the temperature of the other half",
        "confidence": bins.confidence.tolist(),
        "accuracy": bins.accuracy.tolist(),
        "low": [low for low, _ in bounds],
        "high": [high for _, high in bounds],
        "count": bins.count.tolist(),
    }


def _terciles(length: Numbers, measure: Callable[[Labels], QualityReport]) -> list[QualityReport]:
    """A measure by length, in three parts of about equal size; ties in length stay together."""
    edges = np.quantile(length, [1 / 3, 2 / 3])
    part = np.searchsorted(edges, length, side="left")
    found = []
    for number in range(3):
        here = part == number
        if here.any():
            low, high = float(length[here].min()), float(length[here].max())
            found.append({"from": low, "to": high} | measure(here))
    return found


def _groups(
    names: Sequence[tuple[str, ...]], measure: Callable[[list[int]], QualityReport]
) -> dict[str, QualityReport]:
    """A measure of the examples of each group; only the largest groups."""
    members: dict[str, list[int]] = {}
    for i, own in enumerate(names):
        for name in own:
            members.setdefault(name, []).append(i)
    largest = sorted(members, key=lambda name: (-len(members[name]), name))[:MOST_GROUPS]
    return {name: measure(members[name]) for name in largest}


# ---------------------------------------------------------------------------- for people


def describe(found: QualityReport) -> str:
    """The report as a table."""
    if found["kind"] == "regression":
        return _describe_regression(found)
    unit = "pairs" if found["kind"] in ("pairs", "cost") else "answers"
    asked = f"{found['held_out']:,} held-out {unit}"
    if found["prompts"] < found["held_out"]:
        asked += f", {found['prompts']:,} prompts"
    lines = [f"{asked:<46}accuracy   95% interval"]

    def line(name: str, share: QualityReport) -> None:
        interval = f"[{share['low']:.3f}, {share['high']:.3f}]" if "low" in share else ""
        lines.append(f"  {name:<44}  {share['value']:6.3f}   {interval:<16}  n = {share['n']:,}")

    line("this judge", found["accuracy"])
    for name, share in found["baselines"].items():
        line(f"  {name}", share)
    test = found["against_length"]
    lines.append(
        f"  against logistic on length: {test['only_judge_right']} right alone, "
        f"{test['only_length_right']} wrong alone, p = {test['p']:.2g} ({test['test']})"
    )
    for part in found["by_length"]:
        difference = "chosen longer by" if unit == "pairs" else "answer of"
        line(f"{difference} {part['from']:.0f} to {part['to']:.0f} tokens", part)
    for title in ("by_source", "by_category"):
        groups = found[title]
        shown = {name: share for name, share in groups.items() if share["n"] >= FEWEST_SHOWN}
        if len(groups) > 1:
            for name, share in shown.items():
                line(f"{title.removeprefix('by_')} {name[:32]}", share)
    correlation = found["length_correlation"]
    if correlation:
        lines.append(
            f"  correlation of {'margin' if unit == 'pairs' else 'score'} and length: "
            f"{correlation['pearson']:.2f} (Pearson), {correlation['spearman']:.2f} (Spearman)"
        )
    fitted = found["calibration"]
    lines.append(
        f"  ECE {fitted['ece']:.3f}, temperature {fitted['temperature']:.2f}"
        + ("" if fitted["ece_scaled"] is None else f", ECE after it {fitted['ece_scaled']:.3f}")
        + ("" if "auc" not in found else f"; AUC of single scores {found['auc']:.3f}")
        + ("" if "sign_accuracy" not in found else f"; signs right {found['sign_accuracy']:.3f}")
    )
    return "\n".join(lines)


def _describe_regression(found: QualityReport) -> str:
    lines = [f"{found['held_out']:,} held-out answers", f"  MSE {found['mse']:.3f}"]
    if "pearson" in found:
        lines[-1] += f", Pearson {found['pearson']:.3f}, Spearman {found['spearman']:.3f}"
    for name, baseline in found["baselines"].items():
        lines.append(f"    {name}: MSE {baseline['mse']:.3f}")
    for rating, group in found["by_rating"].items():
        lines.append(f"  rated {rating}: mean score {group['mean_score']:.2f}, n = {group['n']:,}")
    for name, share in found["by_category"].items():
        lines.append(f"  category {name[:32]}: MSE {share['mse']:.3f}, n = {share['n']:,}")
    return "\n".join(lines)
