"""Makes the report from the judged answers of several models."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from safety_jax.base.errors import ConfigError
from safety_jax.data.messages import Message
from safety_jax.evaluation.answers.responses import Response
from safety_jax.evaluation.measures import (
    attacks,
    checked,
    compare,
    conversations,
    counts,
    derived,
    groups,
    notes,
    people,
    win_rates,
)
from safety_jax.evaluation.measures.compare import Margins
from safety_jax.evaluation.measures.counts import Block, Resampling
from safety_jax.evaluation.measures.people import People
from safety_jax.evaluation.results.comparisons import Comparison, Preference
from safety_jax.evaluation.results.estimates import Estimate
from safety_jax.evaluation.results.report import Report
from safety_jax.evaluation.results.transcripts import Answer, Transcript, TranscriptScore
from safety_jax.evaluation.sets.items import CLOSED, Item, Set
from safety_jax.judges.judge import BETTER, JudgeCard

OWN = "(the model's own answer)"


@dataclasses.dataclass(frozen=True)
class ReportChoice:
    """The choices of a run for its report.

    Attributes:
        baseline, safety, helpfulness: a model and two judges; "" for the first suitable one.
        margin_share, margin_score: see `compare.Margins`.
        force: compare answers of different protocols.
    """

    title: str
    baseline: str
    safety: str
    helpfulness: str
    margin_share: float
    margin_score: float
    force: bool
    how: Resampling


@dataclasses.dataclass(frozen=True)
class Material:
    """The input of a report.

    Attributes:
        blocks: by model, in the order of the sets.
        responses: by model and set, entry i to item i.
        letters: for multiple choice, by model and set: the choice of each answer.
        tasks: blocks of lm-evaluation-harness, by model; they have no transcripts.
        models, facts: see `report.Report`.
        people: people's labels of a sample of the answers; None without them.
        preferences: see `report.Report`.
        notes: further notes for the reader.
    """

    sets: Sequence[Set]
    cards: Mapping[str, JudgeCard]
    blocks: Mapping[str, Sequence[Block]]
    responses: Mapping[str, Mapping[str, Sequence[Response]]]
    letters: Mapping[str, Mapping[str, Sequence[str]]]
    models: Mapping[str, Mapping[str, Any]]
    people: People | None
    tasks: Mapping[str, Sequence[Block]]
    facts: Mapping[str, Any]
    preferences: Sequence[Preference]
    notes: Sequence[str]


def check(
    choice: ReportChoice, models: Sequence[str], cards: Mapping[str, JudgeCard]
) -> ReportChoice:
    """The choice with its defaults filled in.

    Raises:
        ConfigError: an unknown model or judge, or a judge without a threshold for safety.
    """
    if choice.baseline and choice.baseline not in models:
        raise ConfigError(
            f"evaluate.baseline {choice.baseline!r}: expected one of {', '.join(models)}"
        )
    dividing = _dividing(cards)
    helping = [name for name, card in cards.items() if card.direction == BETTER]
    for key, name, known, what in (
        ("safety", choice.safety, dividing, "a judge with a threshold between safe and unsafe"),
        ("helpfulness", choice.helpfulness, list(cards), "one of the judges"),
    ):
        if name and name not in known:
            raise ConfigError(
                f"evaluate.{key} {name!r}: expected {what}: {', '.join(known) or 'there is none'}"
            )
    return dataclasses.replace(
        choice,
        baseline=choice.baseline or models[0],
        safety=choice.safety or next(iter(dividing), ""),
        helpfulness=choice.helpfulness or next(iter(helping), ""),
    )


def report(material: Material, choice: ReportChoice) -> Report:
    """The whole report; see `report.Report`."""
    said, how = material.people, choice.how
    blocks = {m: [*found, *material.tasks.get(m, ())] for m, found in material.blocks.items()}
    sets = {b.set.name: b.set for found in blocks.values() for b in found}
    rows = tuple(counts.row(b, how) for found in blocks.values() for b in found)
    talks = conversations.measure(blocks, choice.baseline, choice.safety, force=choice.force)
    comparisons, derivations = _against_baseline(blocks, choice)
    everything, cards, between = [b for found in blocks.values() for b in found], material.cards, []
    quality, corrected = {}, {}
    if said is not None:
        checks = {j: checked.check(everything, said, j) for j in _dividing(cards)}
        quality = {judge: checked.quality(found) for judge, found in checks.items()}
        if choice.safety:
            corrected = checked.corrected(everything, choice.safety, checks[choice.safety])
        between = people.between(said, everything, how)
        everything = [said.beside(b) if b.set.kind not in CLOSED else b for b in everything]
        cards = {**cards, people.JUDGE: said.card()}
    return Report(
        title=choice.title,
        baseline=choice.baseline,
        safety=choice.safety,
        helpfulness=choice.helpfulness,
        models=material.models,
        sets={name: _facts(one_set) for name, one_set in sets.items()},
        judges={
            name: dataclasses.asdict(card) | {"protocol": card.protocol()}
            for name, card in material.cards.items()
        },
        rows=rows,
        comparisons=tuple(comparisons),
        derived=derivations,
        agreement=tuple(derived.agreement(everything, cards) + between),
        corrected=corrected,
        quality=quality,
        notes=(
            *notes.general(rows, comparisons),
            *notes.repeated(list(sets.values())),
            *notes.unread(list(sets.values())),
            *notes.misread(material.blocks),
            *attacks.notes(blocks),
            *conversations.notes(talks),
            *win_rates.notes(material.preferences),
            *material.notes,
        ),
        transcripts=tuple(_transcript(one_set, i, material) for one_set in material.sets
                          for i in one_set.read_in_order),
        facts=material.facts,
        preferences=tuple(material.preferences),
        attacks=tuple(
            attacks.measure(blocks, choice.baseline, choice.safety, force=choice.force)
        ),
        conversations=tuple(talks),
        requests=tuple(conversations.requests(blocks, choice.safety)),
        groups=tuple(
            groups.measure(blocks, choice.baseline, choice.safety, how, force=choice.force)
        ),
    )  # fmt: skip


def _against_baseline(
    blocks: Mapping[str, Sequence[Block]], choice: ReportChoice
) -> tuple[list[Comparison], dict[str, dict[str, Estimate]]]:
    """Tests of every other model against the baseline, and the derived measures of each model."""
    margins = Margins(choice.margin_share, choice.margin_score, choice.helpfulness)
    base, how = blocks[choice.baseline], choice.how
    comparisons: list[Comparison] = []
    derivations: dict[str, dict[str, Estimate]] = {}
    for model, found in blocks.items():
        derivations[model] = derived.derive(attacks.plain(found))
        if model != choice.baseline:
            comparisons += compare.compare(base, found, how, margins, force=choice.force)
            derivations[model] |= derived.win_rates(attacks.plain(base), attacks.plain(found))
    return comparisons, derivations


def _dividing(cards: Mapping[str, JudgeCard]) -> list[str]:
    return [name for name, card in cards.items() if counts.divides(card)]


def _facts(one_set: Set) -> dict[str, Any]:
    under: dict[str, Any] = {}
    if one_set.attack:
        under = {
            "attack": one_set.attack.name,
            "attack_version": one_set.attack.version,
            "plain": one_set.plain,
        }
    if one_set.setting:
        under = {"setting": one_set.setting.name, "plain": one_set.plain}
    return {
        "kind": one_set.kind,
        "items": one_set.prompts,
        "answers_per_prompt": one_set.answers,
        "sha256": one_set.sha256,
        "licence": one_set.licence,
        "source": one_set.source,
        "twin": one_set.twin,
        **under,
    }


def _transcript(one_set: Set, i: int, material: Material) -> Transcript:
    item = one_set.items[i]
    return Transcript(
        set=one_set.name,
        id=item.id,
        kind=one_set.kind,
        category=item.category,
        prompt=_shown(item.prompt, item.context),
        reference=item.reference,
        answers={
            model: _answer(model, block, i, material)
            for model, found in material.blocks.items()
            for block in found
            if block.set.name == one_set.name
        },
        asked=_asked(item),
        first=one_set.firsts[one_set.clusters[i]],
    )


def _shown(messages: Sequence[Message], context: str) -> str:
    *before, last = messages
    turns = [f"[{message.role}] {message.content or OWN}" for message in before] + [last.content]
    return "\n\n".join([*turns, context] if context else turns)


def _asked(item: Item) -> str:
    """The prompt as an attack reworded it; "" without one."""
    if item.asked is None:
        return ""
    if item.asked.opening:
        return f"(the answer begins with tokens of) {item.asked.opening}"
    return _shown(item.asked.messages, item.asked.context)


def _answer(model: str, block: Block, i: int, material: Material) -> Answer:
    name = block.set.name
    response = material.responses[model][name][i]
    scores = {judge: found[i] for judge, found in block.scores.items()}
    letters = material.letters.get(model, {}).get(name)
    said = material.people
    return Answer(
        thought=response.turn.thought,
        text=response.turn.answer,
        finish=response.ending,
        refusal=scores[block.detector].label if block.detector else "",
        scores={
            judge: TranscriptScore(
                score.value, score.label, block.cards[judge].is_unsafe(score), score.reason
            )
            for judge, score in scores.items()
            if judge != block.detector
        },
        choice=letters[i] if letters else "",
        human=said.verdict((model, name, block.set.items[i].id)) if said else "",
    )
