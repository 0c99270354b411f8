"""Figures of a round: rewards, choices, diversity, lengths, distance to the start, alarms."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from safety_jax.judges.judge import JudgeCard, Score
from safety_jax.maths import clusters, statistics
from safety_jax.raft.round_files import Candidate
from safety_jax.raft.selection import Selection

HISTOGRAM_BINS = 30


@dataclasses.dataclass(frozen=True)
class AlarmLimits:
    """When a round raises an alarm, compared with the first round.

    Attributes:
        diversity: distinct-2 falls below this share of the first round's.
        length: the mean length of chosen answers exceeds this multiple of the first round's.
    """

    diversity: float
    length: float


def distinct(texts: Sequence[str], n: int) -> float:
    """Distinct-n: the share of distinct word n-grams among all (Li et al., arXiv 1510.03055).

    It depends on the amount of text: compare only rounds of the same size.
    """
    grams = [
        gram
        for words in map(str.split, texts)
        for gram in zip(*(words[i:] for i in range(n)), strict=False)
    ]
    return len(set(grams)) / len(grams) if grams else 0.0


def measure_rewards(
    card: JudgeCard, scores: Sequence[Sequence[Score]], choices: Sequence[Selection]
) -> dict[str, Any]:
    """The ranking judge's preference: mean, best of C, mean of the selected, and histogram."""
    rows = [[card.preference(score) for score in row] for row in scores]
    known = [[value for value in row if value is not None] for row in rows]
    every = [value for row in known for value in row]
    chosen = [
        value
        for row, choice in zip(rows, choices, strict=True)
        if choice.index is not None and (value := row[choice.index]) is not None
    ]
    counts, edges = np.histogram(every, HISTOGRAM_BINS) if every else (np.zeros(0), np.zeros(0))
    return {
        "reward/mean": _mean(every),
        "reward/best_of_candidates": _mean(max(row) for row in known if row),
        "reward/selected": _mean(chosen),
        "reward/histogram": {
            "edges": [float(x) for x in edges],
            "counts": [int(x) for x in counts],
        },
        "unscored_share": 1 - len(every) / max(sum(map(len, rows)), 1),
    }


def measure_choices(choices: Sequence[Selection]) -> dict[str, Any]:
    """How many prompts had no acceptable candidate, and why candidates were not eligible."""
    none = sum(choice.index is None for choice in choices)
    low, high = statistics.wilson(none, len(choices))
    verdicts = [verdict for choice in choices for verdict in choice.verdicts if verdict]
    total = sum(len(choice.verdicts) for choice in choices)
    return {
        "prompts": len(choices),
        "prompts_without_choice": none,
        "prompts_without_choice_share": none / len(choices),
        "prompts_without_choice_95": [low, high],
        **{
            f"candidates/{verdict.replace(' ', '_')}_share": verdicts.count(verdict) / total
            for verdict in sorted(set(verdicts))
        },
    }


def measure_texts(
    candidates: Sequence[Sequence[Candidate]], choices: Sequence[Selection]
) -> dict[str, float | None]:
    """Diversity of all candidates; mean lengths of all and of the chosen, in tokens."""
    sampled = [[c for c in row if c.ids] for row in candidates]
    answers = [[c.turn.answer for c in row] for row in sampled]
    texts = [text for row in answers for text in row]
    chosen = [
        row[choice.index]
        for row, choice in zip(candidates, choices, strict=True)
        if choice.index is not None
    ]
    return {
        "distinct_1": distinct(texts, 1),
        "distinct_2": distinct(texts, 2),
        "unique_share": _mean(len(set(row)) / len(row) for row in answers if row),
        "length/candidates": _mean(len(c.ids) for row in sampled for c in row),
        "length/selected": _mean(len(c.ids) for c in chosen if c.ids),
        "unfinished_share": _mean(float(not c.finished) for row in sampled for c in row),
        "reference_selected_share": _mean(float(c.finish == "reference") for c in chosen),
    }


def measure_distance(
    candidates: Sequence[Sequence[Candidate]], log_ratios: Sequence[np.ndarray]
) -> dict[str, float | None]:
    """KL(p || p0) to the model at the start, estimated on the candidates: the mean of log p/p0 per
    answer and per token. Candidates are sampled at the run's temperature; if that is not 1, the
    estimate is a measure of drift rather than the KL."""
    rows = [
        (float(ratio), len(candidate.ids))
        for row, ratios in zip(candidates, log_ratios, strict=True)
        for candidate, ratio in zip(row, ratios, strict=True)
        if candidate.ids
    ]
    total, tokens = math.fsum(ratio for ratio, _ in rows), sum(count for _, count in rows)
    return {
        "kl_to_start": total / len(rows) if rows else None,
        "kl_to_start_per_token": total / tokens if tokens else None,
    }


def measure_answers(
    card: JudgeCard, scores: Sequence[Score], prompts: Int[np.ndarray, " n"]
) -> dict[str, Any]:
    """The mean score and, if the judge has a threshold, the share of safe answers with its 95%
    interval; unscored answers are counted and left out.

    Args:
        prompts: the number of each answer's prompt. A file of pairs may have a prompt several
            times; greedy answers to it are equal, so the interval counts prompts.
    """
    values = [score.value for score in scores if score.value is not None]
    found: dict[str, Any] = {"answers": len(scores), "unscored": len(scores) - len(values)}
    found["mean"] = _mean(values)
    verdicts = [card.is_unsafe(score) for score in scores]
    known = [verdict for verdict in verdicts if verdict is not None]
    if known:
        told = np.array([verdict is not None for verdict in verdicts])
        low, high = clusters.share(~np.array(known, bool), prompts[told])
        found["safe"] = known.count(False)
        found["safe_share"] = known.count(False) / len(known)
        found["safe_share_95"] = [low, high]
    return found


def alarms(first: Mapping[str, Any], now: Mapping[str, Any], limits: AlarmLimits) -> list[str]:
    """Warnings of signs of reward hacking; empty if there are none."""
    found = []
    before, after = first.get("distinct_2"), now.get("distinct_2")
    if before and after is not None and after < limits.diversity * before:
        found.append(
            f"diversity has collapsed: distinct-2 is {after:.3f}, {before:.3f} in the first round; "
            "read the selected answers, lower the learning rate or raise raft.kl_weight"
        )
    before, after = first.get("length/selected"), now.get("length/selected")
    if before and after is not None and after > limits.length * before:
        found.append(
            f"answers have grown: the selected ones have {after:.0f} tokens, {before:.0f} in the "
            "first round; the judge may prefer long answers"
        )
    return found


def _mean(values: Iterable[float]) -> float | None:
    known = list(values)
    return math.fsum(known) / len(known) if known else None
