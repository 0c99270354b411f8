"""Requests, targets and numbers of the GCG goldens, shared by the generator and the tests."""

import numpy as np

from tests.golden import cases, rows

FILE = cases.FOLDER / "gcg.npz"
# A head of its own with adapters on every projection; a tied one with multipliers of embeddings,
# residuals, attention and logits.
ADAPTED = "llama_grouped"
CASES = (ADAPTED, "granite")
TARGETS = rows.TARGETS["all_linear"]
START = (5, 6, 7, 8)
CANDIDATES = 7
FIRST = 3  # ids below are control tokens, which no suffix may hold
# Of the searches: so few tokens a place that every replacement is tried.
STEPS, TOP_K = 6, 6
# By name: requests (tokens before, behind and of the target), and whether they come in one by one.
SEARCHES = {
    "single": (((9, 3, 5),), False),
    "together": (((9, 3, 5), (5, 1, 7)), False),
    "progressive": (((9, 3, 1), (5, 1, 1), (7, 2, 1)), True),  # its targets are in the file
}


def goals(sizes: tuple[tuple[int, int, int], ...]) -> list[tuple[list[int], list[int], list[int]]]:
    """Ids before and behind the suffix and of the target, BOS in front."""
    random = cases.generator("gcg goals")
    made = []
    for size in sizes:
        before, after, target = (random.randint(FIRST, cases.VOCABULARY, n).tolist() for n in size)
        made.append(([1, *before], after, target))
    return made


def candidates() -> np.ndarray:
    """Suffixes [7, S], the start among them."""
    random = cases.generator("gcg candidates")
    drawn = random.randint(FIRST, cases.VOCABULARY, (CANDIDATES, len(START)))
    drawn[0] = START
    return drawn
