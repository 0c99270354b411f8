"""Which of two models answers better, by a judge that reads both answers side by side.

    preferences/MODEL/SET.jsonl   every score, two a prompt: the baseline's answer shown
                                  first, then the model's; a killed run resumes from this file

Each prompt is judged in both orders, because such judges have a position bias. An answer that is
preferred in both orders wins; if the verdict changes with the order it is a tie, and the report
says how often that happens. Only prompts that should be answered are compared: for those that
should be refused, "better" has no meaning.
"""

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from safety_jax.evaluation.answers import generate
from safety_jax.evaluation.answers.responses import THOUGHT
from safety_jax.evaluation.measures.compare import differs
from safety_jax.evaluation.measures.counts import Block, rate
from safety_jax.evaluation.results.comparisons import Preference
from safety_jax.evaluation.results.estimates import Estimate
from safety_jax.evaluation.sets.items import REFERENCE, SAFE
from safety_jax.judges import pairwise, scoring
from safety_jax.judges.judge import Conversation, Judge, Score, scored
from safety_jax.judges.ledger import Ledger
from safety_jax.judges.planned import PlannedJudge
from safety_jax.maths import clusters, statistics

HELPED = (SAFE, REFERENCE)  # kinds of sets whose prompts should be answered
TOGETHER = "all sets"
_MEASURE = "preferred answers"
_SAME = scored(0.5)  # of equal answers, which are not judged


@dataclasses.dataclass(frozen=True)
class PairwiseOutcome:
    """The judge's verdicts on one prompt.

    Attributes:
        id: of the item.
        after: the probability that the model's answer is better, shown after the baseline's.
        before: the probability that the baseline's answer is better, shown after the model's.
        alike: the answers are the same.
        prompt: names the prompt if it has several answers of a model; "" if it has one.
    """

    id: str
    after: Score
    before: Score
    alike: bool
    prompt: str = ""

    @property
    def scores(self) -> tuple[float, float] | None:
        """Probabilities that the model's answer is better, shown last and first; None if one of
        them is missing."""
        if self.after.value is None or self.before.value is None:
            return None
        return self.after.value, 1 - self.before.value

    @property
    def sides(self) -> tuple[bool, bool] | None:
        """Whether the model's answer is preferred, shown last and first; None if a score is missing
        or undecided."""
        found = self.scores
        if found is None or 0.5 in found:
            return None
        return found[0] > 0.5, found[1] > 0.5


def compare(
    planned: PlannedJudge,
    blocks: Mapping[str, Sequence[Block]],
    baseline: str,
    folder: Path,
    *,
    force: bool,
    rows: int,
    writes: bool,
) -> list[Preference]:
    """Every model against the baseline: set by set, then over several sets together.

    Args:
        planned: a judge made by `guards.specs.preferring`.
        blocks: by model.
        folder: of the files of scores.
        force: compare answers of different protocols, and mark them.
        rows: of a block, see `scoring.judge_all`.
    """
    load, judge = functools.cache(planned.load), planned.card.name
    found: list[Preference] = []
    for model in blocks:
        alone: list[Preference] = []
        everything: list[PairwiseOutcome] = []
        for one, other in _pairs(blocks[baseline], blocks[model]) if model != baseline else ():
            problem, name = differs((one, other), _MEASURE), one.set.name
            outcomes: list[PairwiseOutcome] = []
            if force or not problem:
                path = generate.place(folder, model, name)
                outcomes = _ask(planned, load, one, other, path, rows=rows, writes=writes)
            counted = count(judge, baseline, model, name, outcomes)
            forced, because = bool(problem) and force, "" if force else problem
            alone.append(dataclasses.replace(counted, forced=forced, refused_because=because))
            everything += [
                dataclasses.replace(o, id=f"{name}/{o.id}", prompt=f"{name}/{o.prompt or o.id}")
                for o in outcomes
            ]
        found += alone
        if sum(not one.refused_because for one in alone) > 1:
            together = count(judge, baseline, model, TOGETHER, everything)
            forced = any(one.forced for one in alone)
            found.append(dataclasses.replace(together, forced=forced))
    return found


def _pairs(first: Sequence[Block], second: Sequence[Block]) -> list[tuple[Block, Block]]:
    return [
        (one, other)
        for one in first
        for other in second
        if one.set.name == other.set.name and one.set.kind in HELPED
    ]


def _ask(
    planned: PlannedJudge,
    load: Callable[[], Judge],
    one: Block,
    other: Block,
    path: Path,
    *,
    rows: int,
    writes: bool,
) -> list[PairwiseOutcome]:
    """One outcome for each item; without a score if either model never finished its thought."""
    texts = list(zip(one.answers, other.answers, strict=True))
    ends = zip(one.finishes, other.finishes, strict=True)
    unfinished = [THOUGHT in both for both in ends]
    asked = [i for i, (x, y) in enumerate(texts) if unfinished[i] or x.strip() != y.strip()]
    conversations: list[Conversation] = []
    for i in asked:
        item, (x, y) = one.set.items[i], texts[i]
        prompt = item.conversation("").prompt
        for first, second in ((x, y), (y, x)):
            made = pairwise.comparison(prompt, first, second, item.where)
            conversations.append(dataclasses.replace(made, unfinished=unfinished[i]))
    path.parent.mkdir(parents=True, exist_ok=True)
    title = f"{planned.card.name}: {other.model} or {one.model}, {one.set.name}"
    scores = scoring.judge_all(
        planned.card, load, conversations, Ledger(path, writes), rows=rows, title=title
    )
    both = {i: (scores[2 * k], scores[2 * k + 1]) for k, i in enumerate(asked)}
    one_set = one.set
    return [
        PairwiseOutcome(
            item.id,
            *both.get(i, (_SAME, _SAME)),
            i not in both,
            one_set.firsts[one_set.clusters[i]],
        )
        for i, item in enumerate(one_set.items)
    ]


# ---------------------------------------------------------------------------- counts


def count(
    judge: str, first: str, second: str, name: str, outcomes: Sequence[PairwiseOutcome]
) -> Preference:
    """Counts the outcomes of a set."""
    known = [(one, both) for one in outcomes if (both := one.scores) is not None]
    wins = tuple(one.id for one, both in known if min(both) > 0.5)
    losses = tuple(one.id for one, both in known if max(both) < 0.5)
    decided = {*wins, *losses}
    asked = [one for one in outcomes if not one.alike]
    sides = [one.sides for one in asked]
    told = [(one, side) for one, side in zip(asked, sides, strict=True) if side is not None]
    missing = [one for one in outcomes if one.scores is None]
    return Preference(
        judge=judge,
        first=first,
        second=second,
        set=name,
        n=len(known),
        wins=wins,
        losses=losses,
        ties=tuple(one.id for one, _ in known if one.id not in decided),
        alike=sum(one.alike for one in outcomes),
        win_rate=_win_rate([sum(both) for _, both in known], _prompts([o for o, _ in known])),
        shown_first=_shown_first([side for _, side in told], _prompts([o for o, _ in told])),
        flips=rate(
            [None if side is None else side[0] != side[1] for side in sides], _prompts(asked)
        ),
        unscored=len(missing),
        reasons=dict(Counter(o.after.reason or o.before.reason for o in missing).most_common()),
        forced=False,
        refused_because="",
    )


def _prompts(outcomes: Sequence[PairwiseOutcome]) -> np.ndarray:
    """The number of each outcome's prompt."""
    names = [one.prompt or one.id for one in outcomes]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names], int)


def _win_rate(sums: Sequence[float], prompts: np.ndarray) -> Estimate:
    """The rate from sums of two probabilities: a sum above one is a win, of one half a win."""
    if not sums:
        return Estimate(None, None, None, 0)
    won = np.array([0.5 if total == 1 else float(total > 1) for total in sums])
    mean = float(won.sum()) / len(won)
    return Estimate(mean, *statistics.wilson_mean(mean, clusters.effective(won, prompts)), len(won))


def _shown_first(sides: Sequence[tuple[bool, bool]], prompts: np.ndarray) -> Estimate:
    """The share of comparisons that the answer shown first wins.

    For each prompt, these are the model's answer if it is preferred when shown first, and the
    baseline's if the model's is not preferred when shown last. So the share is one half plus half
    of the model's gain from being shown first, which is a paired difference over prompts.
    """
    if not sides:
        return Estimate(None, None, None, 0)
    last, before = (np.array(side) for side in zip(*sides, strict=True))
    found = clusters.change(last, before, prompts)
    value, low, high = (0.5 + part / 2 for part in (found.difference, found.low, found.high))
    return Estimate(value, low, high, len(sides))


def notes(found: Sequence[Preference]) -> list[str]:
    """Notes on position bias, missing scores and refused comparisons."""
    said = []
    # One for each model: the last is that of its sets together, if there are several.
    for one in {one.second: one for one in found if not one.refused_because}.values():
        place = f"{one.second} against {one.first}, {one.set}"
        shown = one.shown_first
        if shown.low is not None and shown.high is not None and not shown.low <= 0.5 <= shown.high:
            said.append(
                f"{place}: {one.judge} prefers the answer that it is shown first in "
                f"{shown.value:.0%} of its comparisons; only answers that it prefers in both "
                "orders count as wins or losses."
            )
        if one.unscored:
            said.append(
                f"{place}: {one.judge} left {one.unscored} of {one.n + one.unscored} comparisons "
                f"without an outcome ({next(iter(one.reasons))})."
            )
    refused = {one.refused_because for one in found if one.refused_because}
    return said + [f"Answers not compared side by side: {reason}." for reason in sorted(refused)]
