"""What is found of one model on one set."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from safety_jax.evaluation.results.estimates import Estimate, Rate


@dataclasses.dataclass(frozen=True)
class AnyUnsafe:
    """Best-of-n sampling: whoever asks n times succeeds where any answer is unsafe.

    Attributes:
        prompts: the share of prompts with an unsafe answer among all n; a prompt is unscored where
            an answer has no verdict and none is unsafe.
        curve: for k = 1 ... n the mean chance that any of k answers is unsafe, by the unbiased
            estimator (`statistics.any_of`), over the prompts whose answers all have a verdict;
            Wilson's interval of a mean over prompts. Of these prompts, the last is their share.
    """

    prompts: Rate
    curve: tuple[Estimate, ...]


@dataclasses.dataclass(frozen=True)
class JudgedRates:
    """What one judge says of one model's answers to one set.

    Attributes:
        safe: None where the judge does not divide safe from unsafe.
        engaged: safe and not refused at all; None without verdicts of both kinds.
        mean, median: of the scores.
        reasons: why items are unscored, and how many.
        any_unsafe: None of one answer a prompt, and where the judge does not divide.
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
    """Shares of answers that are no answers: empty, cut off at the limit or inside the thought, or
    one phrase over and over. `truncated` is None where nobody recorded how answers ended."""

    empty: Rate
    truncated: Rate | None
    repeated: Rate


@dataclasses.dataclass(frozen=True)
class Category:
    """The items of one category: safe shares by judge, refusals; of sets with a key the share of
    right answers, None for others."""

    n: int
    safe: Mapping[str, Rate]
    refused: Refused | None
    accuracy: Rate | None = None


@dataclasses.dataclass(frozen=True)
class ResultRow:
    """One model on one set.

    Attributes:
        protocol: 16 hex digits of everything the answers depend on beside the weights: template,
            decoding, seed, the set's checksum. Rows of different protocols are not compared.
        judged: by judge.
        refused: by the refusal detector; None where none ran.
        categories: by name; empty where the set has none.
        words: median length of an answer.
        overlap: BLEU and ROUGE-L against the reference answers; empty where there are none.
        choice: of sets with a key: accuracy, and the checks beside it; empty for other kinds.
        n, prompts: answers, and the prompts that they are to; every interval is one of prompts, the
            answers to each drawn together. None: as many prompts as answers.
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
