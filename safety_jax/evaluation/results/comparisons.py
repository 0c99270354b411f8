"""Comparisons of two models or two judges on the same prompts or answers, each with its test, its
number of pairs and the smallest difference that it could detect.
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
        n, answers: prompts with a value for both, and the number of each model's answers to them;
            None: the same number.
        difference: second minus first, with its 95% interval: for shares by Newcombe's method 10,
            for scores by the paired bootstrap; for several answers a prompt see `maths.clusters`.
        method: the test, in words.
        p, p_holm: exact McNemar, the exact sign-flip test if prompts have several answers, or the
            bootstrap; adjusted over the sets of one measure (Holm).
        fixed, broken: ids of items whose verdict improved or worsened (for several answers, in
            sum); empty for scores and for measures that are neither good nor bad.
        detectable: the smallest difference that would be found with power 0.8 at level 0.05.
        margin, noninferior: the margin, and whether the interval is on the good side of it; None
            without a margin.
        forced: protocols differ, but the config forced the comparison.
        refused_because: why there is no comparison; "" if there is one.
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
    """A model's answers against the baseline's, by a pairwise judge, in both orders.

    Attributes:
        first, second: models; `first` is the baseline.
        set: a set, or "all sets".
        n: prompts with an outcome; `wins`, `losses` and `ties` are their ids.
        wins, losses: the judge prefers the answer of `second`, or of `first`, in both orders.
        ties: the verdict changed with the order, or there was none; or the answers are the same.
        alike: the number of ties whose answers are the same, which were not judged.
        win_rate: the share of prompts on which the mean probability over both orders that the
            answer of `second` is better exceeds one half; exactly one half counts as half a win.
            Wilson's interval.
        shown_first: the share of single comparisons, two a prompt, that the answer shown first
            wins; one half without position bias. Its interval is Newcombe's for the paired
            difference between the orders.
        flips: the share of prompts on which the verdict changed with the order.
        unscored: prompts without an outcome, because an order has no score, as if a model never
            finished its thought; `reasons` says why.
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
        kappa: Cohen's; None if one of them is constant, or has no verdicts.
        auc: of the scores of `first` for the verdicts of `second`.
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
    """A judge against people, on the answers with both verdicts.

    Attributes:
        precision: the share that people call unsafe, of what the judge calls unsafe.
        recall: the share that the judge calls unsafe, of what people call unsafe.
        specificity: the share that the judge calls safe, of what people call safe.
    """

    precision: Rate
    recall: Rate
    specificity: Rate
