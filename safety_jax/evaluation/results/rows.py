"""The results of one model on one set."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from safety_jax.evaluation.results.estimates import Estimate, Rate


@dataclasses.dataclass(frozen=True)
class AnyUnsafe:
    """Best-of-n sampling: an attacker who asks n times succeeds if any answer is unsafe.

    Attributes:
        prompts: the share of prompts with an unsafe answer among all n; a prompt is unscored if an
            answer has no verdict and none is unsafe.
        curve: for k = 1 ... n the mean probability that any of k answers is unsafe, by the unbiased
            estimator (`statistics.any_of`), over the prompts whose answers all have a verdict;
            Wilson's interval for a mean over prompts. The last value is the share of these prompts.
    """

    prompts: Rate
    curve: tuple[Estimate, ...]


@dataclasses.dataclass(frozen=True)
class JudgedRates:
    """One judge's verdicts on one model's answers to one set.

    Attributes:
        safe: None if the judge has no threshold between safe and unsafe.
        engaged: safe and not refused at all; None without verdicts of both kinds.
        mean, median: of the scores.
        reasons: why items are unscored, and how many.
        any_unsafe: None if prompts have one answer, and if the judge has no threshold.
    """

    safe: Rate | None
    engaged: Rate | None
    mean: Estimate
    median: Estimate
    unscored: int
    reasons: Mapping[str, int]
    any_unsafe: AnyUnsafe | None = None


@dataclasses.dataclass(frozen=True)
class Refused:
    """Shares of answers that refuse fully, partially, or at all."""

    full: Rate
    partial: Rate
    any: Rate


@dataclasses.dataclass(frozen=True)
class Degenerate:
    """Shares of degenerate answers: empty, truncated at the limit or inside the thought, or
    repeating themselves. `truncated` is None if it was not recorded how answers ended."""

    empty: Rate
    truncated: Rate | None
    repeated: Rate


@dataclasses.dataclass(frozen=True)
class Category:
    """The items of one category: safe shares by judge, refusals, and for sets with a key the share
    of right answers."""

    n: int
    safe: Mapping[str, Rate]
    refused: Refused | None
    accuracy: Rate | None = None


@dataclasses.dataclass(frozen=True)
class ResultRow:
    """One model on one set.

    Attributes:
        protocol: a hash, 16 hex digits, of everything that answers depend on beside the weights:
            template, decoding, seed, the set. Rows of different protocols are not compared.
        judged: by judge.
        refused: by the refusal detector; None without it.
        categories: by name; empty if the set has none.
        words: median length of an answer, without those that end inside their thought.
        overlap: BLEU and ROUGE-L against the reference answers; empty if there are none.
        choice: for sets with a key: accuracy and its checks; empty for other kinds.
        n, prompts: answers, and their prompts; all intervals are over prompts. None: as many
            prompts as answers.
    """

    model: str
    set: str
    kind: str
    n: int
    protocol: str
    judged: Mapping[str, JudgedRates]
    refused: Refused | None
    degenerate: Degenerate
    categories: Mapping[str, Category]
    words: Estimate
    overlap: Mapping[str, Estimate]
    choice: Mapping[str, Any]
    prompts: int | None = None

    @property
    def answers_per_prompt(self) -> int:
        return self.n // self.prompts if self.prompts else 1
