"""The candidate suffixes of a step: a function of seed, search, step and gradients."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from transformers import PreTrainedTokenizerBase

from safety_jax.evaluation.search.goals import Goal, survive

ROUNDS = 4  # of draws, until enough candidates survive tokenization


def draw(
    suffix: Sequence[int],
    best: Int[np.ndarray, "S K"],
    count: int,
    seed: int,
    name: tuple[int, int, int],
) -> Int[np.ndarray, "count S"]:
    """Suffixes that differ from `suffix` in one position, by one of the best tokens there; position
    and token are uniform (arXiv 2307.15043, algorithm 1).

    Args:
        name: search, step and round, from which the draw is folded together with the seed.
    """
    key = np.array([seed, name[0]], np.uint64)
    counter = np.array([0, 0, name[2], name[1]], np.uint64)
    words = np.random.Philox(key=key, counter=counter).random_raw(2 * count)
    places = (words[:count] % np.uint64(best.shape[0])).astype(int)
    ranks = (words[count:] % np.uint64(best.shape[1])).astype(int)
    tried = np.tile(np.array(suffix, np.int32), (count, 1))
    tried[np.arange(count), places] = best[places, ranks]
    return tried


def propose(
    goal: Goal,
    suffix: Sequence[int],
    best: Int[np.ndarray, "S K"],
    count: int,
    seed: int,
    search: int,
    step: int,
    tokenizer: PreTrainedTokenizerBase,
) -> Int[np.ndarray, "n S"]:
    """At most `count` different suffixes that survive tokenization after the goal's request; fewer
    if the draws gave no more."""
    found: dict[tuple[int, ...], None] = {}
    for number in range(ROUNDS):
        drawn = draw(suffix, best, count, seed, (search, step, number))
        fresh = [ids for row in drawn if (ids := tuple(row.tolist())) not in found]
        fresh = [ids for ids in dict.fromkeys(fresh) if ids != tuple(suffix)]
        kept = survive(goal, fresh, tokenizer) if fresh else []
        found |= {ids: None for ids, lives in zip(fresh, kept, strict=True) if lives}
        if len(found) >= count:
            break
    return np.array(list(found)[:count], np.int32).reshape(-1, len(suffix))
