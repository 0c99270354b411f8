"""Word overlap of answers with reference answers: BLEU by sacrebleu, ROUGE-L by rouge-score.

Each has its own idea of a word: rouge-score reads a to z and digits alone, sacrebleu separates
words at blanks. Of a text in another script ROUGE-L is 0, of one without blanks BLEU is, even if
answer and reference are equal.
"""

import re
from collections.abc import Sequence

import numpy as np
import sacrebleu
from rouge_score import rouge_scorer

from safety_jax.evaluation.results.estimates import Estimate
from safety_jax.evaluation.sets.items import REFERENCE, Set
from safety_jax.maths import clusters, statistics

BLEU, ROUGE = "BLEU", "ROUGE-L"
_SEED = 0
_NO_WIDTH = 1e-12  # narrower intervals have only the width of rounding errors
_NOT_LATIN = re.compile("[^a-z]")
# Thai, Lao, Burmese, Khmer, Japanese, Chinese.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]"
)


def unread(one_set: Set) -> list[str]:
    """The measures that do not read most letters of a set's reference answers."""
    if one_set.kind != REFERENCE:
        return []
    text = "".join(item.reference for item in one_set.items).casefold()
    letters = "".join(filter(str.isalpha, text))
    strange = {BLEU: _UNSPACED, ROUGE: _NOT_LATIN}
    half = len(letters) / 2
    return [name for name, sign in strange.items() if len(sign.findall(letters)) > half]


def measure(answers: Sequence[str], one_set: Set, resamples: int) -> dict[str, Estimate]:
    """Corpus BLEU (0 to 100, sacrebleu's defaults) and the mean ROUGE-L F measure (0 to 1, stemmed)
    with bootstrap intervals over prompts; empty if the set has no reference answers, and without
    measures that do not read them. BLEU has no interval if prompts have several answers or occur
    several times, or if there is one answer. If all ROUGE-L are equal, their interval is that of
    `clusters.mean`."""
    references = [item.reference for item in one_set.items]
    if one_set.kind != REFERENCE or not references:
        return {}
    found = {BLEU: _bleu(answers, one_set, resamples), ROUGE: _rouge(answers, one_set, resamples)}
    strange = unread(one_set)
    return {name: measured for name, measured in found.items() if name not in strange}


def _rouge(answers: Sequence[str], one_set: Set, resamples: int) -> Estimate:
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    shared = np.array(
        [
            scorer.score(item.reference, answer)["rougeL"].fmeasure
            for answer, item in zip(answers, one_set.items, strict=True)
        ],
        float,  # rouge-score returns the integer 0 if nothing overlaps
    )
    low, high = statistics.bootstrap(
        shared, one_set.clusters, middle="mean", resamples=resamples, seed=_SEED
    )
    if low is not None and high is not None and high - low < _NO_WIDTH:
        low, high = clusters.mean(shared, one_set.clusters)
    return Estimate(float(shared.mean()), low, high, len(shared))


def _bleu(answers: Sequence[str], one_set: Set, resamples: int) -> Estimate:
    references = [item.reference for item in one_set.items]
    found = sacrebleu.BLEU().corpus_score(list(answers), [references], resamples)
    # sacrebleu resamples answers, not prompts, and does not count a single resample.
    if len(np.unique(one_set.clusters)) < len(answers) or len(answers) == 1 or resamples == 1:
        return Estimate(found.score, None, None, len(answers))
    # sacrebleu gives the middle of its 95% interval and half its width.
    middle, half = found._mean, found._ci
    return Estimate(found.score, max(middle - half, 0.0), middle + half, len(answers))
