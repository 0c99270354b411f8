"""Judges score conversations block by block, so that a kill loses at most one block."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import tqdm

from safety_jax.base import hosts
from safety_jax.base.errors import NotFiniteError
from safety_jax.judges.judge import (
    NOT_FINITE,
    Conversation,
    Judge,
    JudgeCard,
    Score,
    unscored,
)
from safety_jax.judges.ledger import Ledger
from safety_jax.judges.planned import PlannedJudge


@dataclasses.dataclass(frozen=True)
class ToJudge:
    """Conversations, the ledger of their scores, and the title of their progress bar."""

    conversations: Sequence[Conversation]
    ledger: Ledger
    title: str


def judge_by_each(
    planned: Mapping[str, PlannedJudge],
    groups: Sequence[ToJudge],
    *,
    rows: int,
    leave: bool = True,
) -> list[dict[str, list[Score]]]:
    """For each group, the scores of every judge by name; one judge is in memory at a time.

    Args:
        planned: combinations after their parts.
        rows, leave: see `judge_all`.
    """
    found: list[dict[str, list[Score]]] = [{} for _ in groups]
    for name, one in planned.items():
        load = functools.cache(one.load)
        for group, scores in zip(groups, found, strict=True):
            if one.combination is not None:
                scores[name] = one.combination.combine(scores)
                continue
            scores[name] = judge_all(
                one.card,
                load,
                group.conversations,
                group.ledger,
                rows=rows,
                title=f"{name}: {group.title}" if group.title else name,
                leave=leave,
            )
    return found


def judge_all(
    card: JudgeCard,
    load: Callable[[], Judge],
    conversations: Sequence[Conversation],
    ledger: Ledger,
    *,
    rows: int,
    title: str,
    leave: bool = True,
) -> list[Score]:
    """The score of every conversation; those in the ledger are not computed again.

    A block that lacks a score is scored as a whole. So the batches of rows, on which the last bits
    of their scores depend, do not depend on where a run was killed. A conversation without an
    answer is unscored, and no judge reads it: see `Conversation.missing`.

    Args:
        load: reads the judge's weights; called only if scores are missing.
        rows: of a block.
        leave: whether the progress bar stays on the screen.

    Raises:
        NotFiniteError: the judge's model computes numbers that are not finite.
    """
    count = len(conversations)
    scored = enumerate(conversations)
    done = hosts.first_says(lambda: [ledger.get(i, c, card) is not None for i, c in scored])
    blocks = [range(start, min(start + rows, count)) for start in range(0, count, rows)]
    todo = [list(block) for block in blocks if not all(done[i] for i in block)]
    if todo:
        judge = load()
        left = sum(map(len, todo))
        with tqdm.tqdm(
            total=count, initial=count - left, desc=title, unit="row",
            leave=leave, disable=jax.process_index() != 0,
        ) as progress:  # fmt: skip
            for block in todo:
                chosen = [conversations[i] for i in block]
                ledger.add(block, chosen, card, scores(judge, chosen))
                progress.update(len(block))
    found = [ledger.get(i, conversation, card) for i, conversation in enumerate(conversations)]
    return [score for score in found if score is not None]


def scores(judge: Judge, conversations: Sequence[Conversation]) -> list[Score]:
    """One score for each conversation, in order; unscored if it has no answer."""
    answered = [one for one in conversations if not one.missing]
    scores = judge.score(answered) if answered else []
    for one, score in zip(answered, scores, strict=True):
        if score.reason == NOT_FINITE:
            raise NotFiniteError(
                f"judge {judge.card.name} ({judge.card.model}): its output for {one.where} is not "
                f"finite, computing in {judge.card.precision}; its weights or its config.json are "
                "damaged, or the numbers overflow: compute in float32, or use another copy"
            )
    found = iter(scores)
    return [unscored(one.missing) if one.missing else next(found) for one in conversations]
