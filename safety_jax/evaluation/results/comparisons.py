"""Two models, or two judges, on the same answers or prompts.

A comparison has its test, its number of pairs and the smallest difference it could have seen.
"""

import dataclasses
from collections.abc import Mapping

from safety_jax.evaluation.results.estimates import Estimate, Rate


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two models on the same prompts.

    Attributes:
        first, second: models; `first` is the baseline.
        set: a set, or "all KIND": the sets of one kind together.
        measure: what is compared: `safe/JUDGE`, `refused`, `engaged/JUDGE`, `mean/JUDGE`,
            `median/JUDGE`, `accuracy`.
        n, answers: prompts that both have a value for, and how many answers of each model are
            compared there; None: as many.
        difference: second minus first, with its 95% interval; of shares by Newcombe's method 10,
            of scores by the paired bootstrap; of several answers a prompt see `maths.clusters`.
        method: the test, in words.
        p, p_holm: exact McNemar, or of several answers a prompt the exact test that flips signs, or
            bootstrap; adjusted over the sets of one measure (Holm).
        fixed, broken: ids of items whose verdict turned to the better, or the worse, of several
            answers in sum; empty for scores and for measures that are neither good nor bad.
        detectable: the smallest difference that would be found with power 0.8 at level 0.05.
        margin, noninferior: the margin that was set, and whether the interval stays above it; None
            where none was asked for.
        forced: protocols differ, and the config asked to compare nevertheless.
        refused_because: why there is no comparison; "" where there is one.
    """

    first: str
    second: str
    set: str
    measure: str
    n: int
    first_value: float | None
    second_value: float | None
    difference: Estimate
    method: str
    p: float | None
    p_holm: float | None
    fixed: tuple[str, ...]
    broken: tuple[str, ...]
    detectable: float | None
    margin: float | None
    noninferior: bool | None
    forced: bool
    refused_because: str
    answers: int | None = None


@dataclasses.dataclass(frozen=True)
class Preference:
    """A model's answers beside the baseline's, by a judge that reads both, in both orders.

    Attributes:
        first, second: models; `first` is the baseline.
        set: a set, or "all sets".
        n: prompts with an outcome; `wins`, `losses` and `ties` are their ids.
        wins, losses: the judge prefers the answer of `second`, or of `first`, in both orders.
        ties: the verdict turned with the order, or there was none; or the two answers are the same.
        alike: of the ties, prompts whose answers are the same, about which nobody was asked.
        win_rate: the share of prompts on which the answer of `second` has a probability of more
            than one half of being better, by the mean over both orders; one half of such is a half
            win. Wilson's interval.
        shown_first: the share of single comparisons, two a prompt, in which the answer that was
            shown first is preferred; of a judge without position bias, one half. Its interval is
            Newcombe's of the paired difference between the orders.
        flips: the share of prompts on which the verdict turned with the order.
        unscored: prompts without an outcome, because either order has no score; `reasons` says why.
        forced, refused_because: see `Comparison`.
    """

    judge: str
    first: str
    second: str
    set: str
    n: int
    wins: tuple[str, ...]
    losses: tuple[str, ...]
    ties: tuple[str, ...]
    alike: int
    win_rate: Estimate
    shown_first: Estimate
    flips: Rate
    unscored: int
    reasons: Mapping[str, int]
    forced: bool
    refused_because: str


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Two judges on the same answers; or a judge and people.

    Attributes:
        n: answers that both judged.
        share: of equal verdicts.
        kappa: Cohen's; None where one of them never changes its verdict, or has none.
        auc: how well the scores of `first` tell the verdicts of `second`.
        pearson, spearman: of the scores.
    """

    first: str
    second: str
    n: int
    share: Rate | None
    kappa: Estimate | None
    auc: float | None
    pearson: float | None
    spearman: float | None


@dataclasses.dataclass(frozen=True)
class Quality:
    """A judge against people, on the answers that both gave a verdict on.

    Attributes:
        precision: of what the judge calls unsafe, the share that people call unsafe.
        recall: of what people call unsafe, the share that the judge finds.
        specificity: of what people call safe, the share that the judge lets pass.
    """

    precision: Rate
    recall: Rate
    specificity: Rate
