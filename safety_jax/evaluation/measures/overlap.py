"""How far answers share the words of reference answers; thin over sacrebleu and rouge-score."""

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


def measure(answers: Sequence[str], of: Set, resamples: int) -> dict[str, Estimate]:
    """BLEU of all answers together (0 to 100, sacrebleu's defaults) and the mean ROUGE-L F measure
    (0 to 1, stemmed), with bootstrap intervals over prompts, BLEU of several answers a prompt
    without one, as of one answer; empty where the set has no reference answers."""
    references = [item.reference for item in of.items]
    if of.kind != REFERENCE or not references:
        return {}
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    shared = np.array(
        [
            scorer.score(reference, answer)["rougeL"].fmeasure
            for answer, reference in zip(answers, references, strict=True)
        ],
        float,  # where no answer shares anything, all are the whole number 0
    )
    low, high = statistics.bootstrap(
        shared, of.clusters, middle="mean", resamples=resamples, seed=_SEED
    )
    bleu = _bleu(answers, references, resamples)
    if of.answers > 1 or len(answers) == 1:  # sacrebleu draws answers one by one
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
