"""A baseline for judges: naive Bayes on the words of an answer, trained on the audit's own labels.

A judge that does no better has only learned which words harmful answers contain.
"""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse

FOLDS = 5
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")


def evidence(
    answers: Sequence[str],
    truths: Sequence[bool | None],
    clusters: Int[np.ndarray, " n"],
    seed: int,
) -> Float[np.ndarray, " n"]:
    """The log-odds of each answer's label by its words, trained on the labels of other prompts
    (McCallum and Nigam, 1998; presence of words, add-one smoothing).

    Args:
        clusters: the prompt of each answer, see `judge.clusters_of`; folds do not split prompts.
        seed: of the folds.

    Returns:
        NaN for rows without a label, and if the other folds have labels of one kind only.
    """
    found = np.full(len(answers), np.nan)
    counts = _presence(answers)
    labelled = np.array([truth is not None for truth in truths], bool)
    positive = labelled & np.array([bool(truth) for truth in truths], bool)
    drawn = np.random.default_rng(seed).permutation(int(clusters.max()) + 1)
    folds = drawn[clusters] % FOLDS
    for fold in range(FOLDS):
        ours, others = labelled & (folds == fold), labelled & (folds != fold)
        yes, no = others & positive, others & ~positive
        if ours.any() and yes.any() and no.any():
            weights = _log_shares(counts, yes) - _log_shares(counts, no)
            found[ours] = counts[ours] @ weights + np.log(yes.sum() / no.sum())
    return found


def _presence(answers: Sequence[str]) -> sparse.csr_matrix:
    numbers: dict[str, int] = {}
    rows, columns = [], []
    for i, answer in enumerate(answers):
        for word in sorted(set(_WORD.findall(answer.casefold()))):
            rows.append(i)
            columns.append(numbers.setdefault(word, len(numbers)))
    shape = (len(answers), max(1, len(numbers)))
    return sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape)


def _log_shares(
    counts: sparse.csr_matrix, chosen: Bool[np.ndarray, " n"]
) -> Float[np.ndarray, " words"]:
    total = np.asarray(counts[chosen].sum(axis=0)).ravel() + 1.0
    return np.log(total / total.sum())
