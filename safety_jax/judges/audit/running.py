"""Runs judges over labelled and perturbed rows, one after another."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np

from safety_jax.data.folds import part_of
from safety_jax.judges import crossed
from safety_jax.judges.audit import findings, labels, words
from safety_jax.judges.audit.findings import Effect, JudgeAudit
from safety_jax.judges.audit.perturbations import REWORDED
from safety_jax.judges.inputs import ScoreInput
from safety_jax.judges.judge import Conversation, JudgeCard, Score, clusters_of
from safety_jax.judges.ledger import Ledger
from safety_jax.judges.planned import PlannedJudge
from safety_jax.judges.scoring import ToJudge, judge_all, judge_by_each
from safety_jax.maths.detection import Resampled


@dataclasses.dataclass(frozen=True)
class Audited:
    """The rows of an audit.

    Attributes:
        truths: the label of each row; None if it is neither yes nor no, and without labels.
        groups: by column, the value of each row.
        sample: indices of the rows to perturb.
        changed: by change, these rows after it.
        rewords: whether to run judges with reworded forms, too.
    """

    items: Sequence[ScoreInput]
    truths: Sequence[bool | None]
    groups: Mapping[str, Sequence[str]]
    sample: Sequence[int]
    changed: Mapping[str, Sequence[Conversation | None]]
    rewords: bool

    @property
    def conversations(self) -> list[Conversation]:
        return [item.conversation for item in self.items]


@dataclasses.dataclass(frozen=True)
class AuditSettings:
    """The settings of an audit.

    Attributes:
        means: the meaning of a positive label, a key of `labels.MEANINGS`; "" without labels.
        bins: of the calibration.
        rows_per_write: between two writes of the ledger.
    """

    means: str
    resamples: int
    seed: int
    bins: int
    rows_per_write: int


def audit_each(
    judges: Mapping[str, PlannedJudge], rows: Audited, ledger: Ledger, settings: AuditSettings
) -> list[JudgeAudit]:
    """Every judge's audit; combinations after their parts, one model in memory at a time."""
    conversations = rows.conversations
    by = Resampled(clusters_of(conversations), settings.resamples, settings.seed)
    lists = [conversations, *([c for c in some if c] for some in rows.changed.values())]
    titles = ["", *rows.changed]
    found: list[JudgeAudit] = []
    parts: list[dict[str, list[Score]]] = [{} for _ in lists]
    for name, planned in judges.items():
        one = dataclasses.replace(planned, load=functools.cache(planned.load))
        to_judge = [ToJudge(c, ledger, t) for c, t in zip(lists, titles, strict=True)]
        if one.combination is None:
            scored = judge_by_each({name: one}, to_judge, rows=settings.rows_per_write, leave=False)
            for known, scores in zip(parts, scored, strict=True):
                known |= scores
        else:
            for known in parts:
                known[name] = one.combination.combine(known)
        reworded = _reworded(name, one, rows, ledger, settings)
        found.append(_audit(name, one, [k[name] for k in parts], reworded, rows, by, settings))
    return found


def _reworded(
    name: str, one: PlannedJudge, rows: Audited, ledger: Ledger, settings: AuditSettings
) -> list[Score] | None:
    """Scores of the sample by the judge with a reworded form; None if it has none."""
    other = one.reworded
    if other is None or not rows.rewords:
        return None
    return judge_all(
        other.card,
        lambda: other.make(one.load()),
        [rows.items[i].conversation for i in rows.sample],
        ledger,
        rows=settings.rows_per_write,
        title=f"{name}: {REWORDED}",
        leave=False,
    )


def _audit(
    name: str,
    one: PlannedJudge,
    scores: Sequence[Sequence[Score]],
    reworded: Sequence[Score] | None,
    rows: Audited,
    by: Resampled,
    settings: AuditSettings,
) -> JudgeAudit:
    """The findings from one judge's scores of all rows and of each change."""
    card, plain = one.card, scores[0]
    before = [plain[i] for i in rows.sample]
    places = np.zeros(len(rows.items), bool)
    places[list(rows.sample)] = True
    sampled = by.among(places)
    effects: list[Effect] = []
    for (change, some), found in zip(rows.changed.items(), scores[1:], strict=True):
        after = iter(found)
        moved = [None if one is None else next(after) for one in some]
        moved = _by_same_judge(card, [rows.items[i].conversation for i in rows.sample], some, moved)
        effects.append(findings.effect(change, card, before, moved, sampled))
    if reworded is not None:
        effects.append(findings.effect(REWORDED, card, before, reworded, sampled))
    fits = labels.fits(card, settings.means)
    answers = [item.conversation.response for item in rows.items]
    lengths = [len(answer.split()) for answer in answers]
    return JudgeAudit(
        name=name,
        card=card,
        agreements=findings.agreements(
            card,
            plain,
            rows.truths,
            lengths,
            words.evidence(answers, rows.truths, by.clusters, settings.seed),
            rows.groups,
            by,
        )
        if fits
        else (),
        effects=tuple(effects),
        confidence=findings.confidence(
            card,
            plain,
            rows.truths,
            by.clusters,
            bins=settings.bins,
            log_odds=one.log_odds,
        )
        if fits
        else None,
    )


def _by_same_judge(
    card: JudgeCard,
    before: Sequence[Conversation],
    after: Sequence[Conversation | None],
    scores: Sequence[Score | None],
) -> list[Score | None]:
    """The scores of changed conversations without those that another judge gave: a cross-fitted
    judge reads an answer under another prompt by the model of that prompt's part, which may have
    been trained on the answer."""
    if card.kind != crossed.KIND:
        return list(scores)
    parts = len(card.settings["parts"])
    return [
        score
        if other is not None
        and part_of(one.prompt, parts=parts) == part_of(other.prompt, parts=parts)
        else None
        for one, other, score in zip(before, after, scores, strict=True)
    ]
