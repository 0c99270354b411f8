"""Word overlap of answers with reference answers: BLEU by sacrebleu, ROUGE-L by rouge-score."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import sacrebleu
from rouge_score import rouge_scorer

from safety_jax.evaluation.results.estimates import Estimate
from safety_jax.evaluation.sets.items import REFERENCE, Set
from safety_jax.maths import statistics

BLEU, ROUGE = "BLEU", "ROUGE-L"
_SEED = 0


def measure(answers: Sequence[str], one_set: Set, resamples: int) -> dict[str, Estimate]:
    """Corpus BLEU (0 to 100, sacrebleu's defaults) and the mean ROUGE-L F measure (0 to 1, stemmed)
    with bootstrap intervals over prompts; empty if the set has no reference answers. BLEU has no
    interval if prompts have several answers or occur several times, or if there is one answer."""
    references = [item.reference for item in one_set.items]
    if one_set.kind != REFERENCE or not references:
        return {}
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    shared = np.array(
        [
            scorer.score(reference, answer)["rougeL"].fmeasure
            for answer, reference in zip(answers, references, strict=True)
        ],
        float,  # rouge-score returns the integer 0 if nothing overlaps
    )
    low, high = statistics.bootstrap(
        shared, one_set.clusters, middle="mean", resamples=resamples, seed=_SEED
    )
    bleu = _bleu(answers, references, resamples)
    # sacrebleu resamples answers, not prompts, and does not count a single resample.
    if len(np.unique(one_set.clusters)) < len(answers) or len(answers) == 1 or resamples == 1:
        bleu = dataclasses.replace(bleu, low=None, high=None)
    return {
        BLEU: bleu,
        ROUGE: Estimate(float(shared.mean()), low, high, len(shared)),
    }


def _bleu(answers: Sequence[str], references: Sequence[str], resamples: int) -> Estimate:
    found = sacrebleu.BLEU().corpus_score(list(answers), [list(references)], resamples)
    # sacrebleu gives the middle of its 95% interval and half its width.
    middle, half = found._mean, found._ci
    return Estimate(found.score, max(middle - half, 0.0), middle + half, len(answers))
