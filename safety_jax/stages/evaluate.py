"""Stage `evaluate`: models answer sets, judges score the answers, and one report compares them.

responses/MODEL/SET.jsonl    every answer and what it depends on; a killed run resumes from these
judgements/MODEL/SET.jsonl   every score
preferences/MODEL/SET.jsonl  optional: every comparison of answers with the baseline's
report.html, report.md, report.json, plots/   the report
tasks/MODEL/TASK.json        optional: results of lm-evaluation-harness
for_people.csv               optional: answers for people to label
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from safety_jax.base import compilation
from safety_jax.evaluation.answers import generate, responses, stored_scores
from safety_jax.evaluation.answers.responses import Response
from safety_jax.evaluation.harness import task_results
from safety_jax.evaluation.measures import (
    assemble,
    attacks,
    choice_letters,
    counts,
    known_answers,
    people,
    stereotypes,
    win_rates,
)
from safety_jax.evaluation.measures.counts import Block
from safety_jax.evaluation.results.comparisons import Preference
from safety_jax.evaluation.results.report import Report
from safety_jax.evaluation.sets.items import ANSWER, CHOICE, CLOSED, CONVERSATION, Set
from safety_jax.judges.judge import Score
from safety_jax.report import evaluation as reports
from safety_jax.stages import evaluate_answers, texts
from safety_jax.stages.evaluate_plan import EvaluationPlan, has, make_plan
from safety_jax.training import workdir

JUDGEMENTS, PREFERENCES = "judgements", "preferences"


def run(config: ConfigDict, folder: str) -> None:
    """Runs the stage; called again, it continues where it stopped.

    Raises:
        UserError: any error that the user can fix.
    """
    primary = jax.process_index() == 0
    compilation.keep(config.log.compilation_cache)
    with workdir.prepare(folder, config, primary) as place:
        config = texts.dated(config, place)
        plan = make_plan(config, place.path.name)
        changed = place.note(identity(plan))
        if primary:
            print(plan.describe(), flush=True)
            for line in changed:
                print(f"note: changed since the last start, so made again: {line}", flush=True)
        answers = evaluate_answers.answer(config, place, plan, primary)
        judged = judge(config, place, plan, answers, primary)
        preferences = prefer(config, place, plan, judged, primary)
        if primary:
            report = describe(config, place, plan, answers, judged, preferences)
            reports.write(report, place.path)
            print(f"{reports.tables(report)}\n{place.path / 'report.html'}", flush=True)


def identity(plan: EvaluationPlan) -> dict[str, str]:
    """Hashes of what answers and scores depend on. They may change between starts: answers and
    scores made under others are not reused."""
    found = {f"evaluate.sets {one_set.name}": one_set.items_sha256 for one_set in plan.sets}
    for name, opened in plan.opened.items():
        found[f"evaluate.models {name}"] = opened.weights_sha256
        found[f"evaluate.models {name}, config"] = opened.config_sha256
        found[f"evaluate.models {name}, tokenizer"] = opened.tokenizer_sha256
    return found | {f"score.judges {name}": card.protocol() for name, card in plan.cards.items()}


def judge(
    config: ConfigDict,
    place: workdir.Workdir,
    plan: EvaluationPlan,
    answers: Mapping[str, Mapping[str, Sequence[Response]]],
    primary: bool,
) -> dict[str, list[tuple[Block, list[str]]]]:
    """By model, its judged answers to each set, with the letters chosen in multiple choice."""
    sets = {one_set.name: one_set for one_set in plan.sets}
    judged = {
        model: {name: found for name, found in by.items() if sets[name].kind not in CLOSED}
        for model, by in answers.items()
    }
    scores = generate.judge(
        plan.planned,
        judged,
        sets,
        place.path / JUDGEMENTS,
        rows=config.score.rows_per_write,
        writes=primary,
    )
    blocks: dict[str, list[tuple[Block, list[str]]]] = {}
    for model, by_set in answers.items():
        blocks[model] = []
        for name, found in by_set.items():
            own = dict(scores.get((model, name), {}))
            own |= {
                n: stored_scores.scores(c, found) for n, c in plan.stored.items() if has(c, found)
            }
            blocks[model].append(make_block(plan, model, sets[name], found, own))
    return blocks


def make_block(
    plan: EvaluationPlan,
    model: str,
    one_set: Set,
    found: Sequence[Response],
    scores: Mapping[str, list[Score]],
) -> tuple[Block, list[str]]:
    """A model's answers to a set with their scores."""
    asked = plan.asked.get(model, {}).get(one_set.name)
    protocol = asked.protocol.of(one_set) if asked else responses.recorded(found, one_set)
    read: list[str] = []
    choice: dict[str, Any] = {}
    correct: list[bool] = []
    if one_set.kind == CHOICE:
        read = [
            choice_letters.read(r.turn.answer, i.choices, i.by_likelihood)
            for r, i in zip(found, one_set.items, strict=True)
        ]
        right = [item.reference for item in one_set.items]
        choices = [item.choices for item in one_set.items]
        choice = choice_letters.measure(read, right, choices, one_set.clusters)
        if any(item.stereotype for item in one_set.items):
            choice |= stereotypes.measure(read, one_set.items, one_set.clusters)
        correct = [a == b for a, b in zip(read, right, strict=True)]
    elif one_set.kind == ANSWER:
        texts, right = [r.turn.answer for r in found], [item.reference for item in one_set.items]
        choice = known_answers.measure(texts, right, one_set.clusters)
        correct = [known_answers.right(a, b) for a, b in zip(texts, right, strict=True)]
    block = Block(
        model=model,
        set=one_set,
        protocol=protocol or counts.UNKNOWN,
        answers=[response.turn.answer for response in found],
        finishes=[response.ending for response in found],
        scores=scores,
        cards={name: plan.cards[name] for name in scores},
        choice=choice,
        correct=correct,
    )
    return block, read


def prefer(
    config: ConfigDict,
    place: workdir.Workdir,
    plan: EvaluationPlan,
    judged: Mapping[str, Sequence[tuple[Block, list[str]]]],
    primary: bool,
) -> list[Preference]:
    """Every model's answers compared with the baseline's, if a pairwise judge is named."""
    if plan.preference is None:
        return []
    return win_rates.compare(
        plan.preference,
        {model: attacks.plain([block for block, _ in found]) for model, found in judged.items()},
        plan.choice.baseline,
        place.path / PREFERENCES,
        force=plan.choice.force,
        rows=config.score.rows_per_write,
        writes=primary,
    )


# ---------------------------------------------------------------------------- report


def describe(
    config: ConfigDict,
    place: workdir.Workdir,
    plan: EvaluationPlan,
    answers: Mapping[str, Mapping[str, Sequence[Response]]],
    judged: Mapping[str, Sequence[tuple[Block, list[str]]]],
    preferences: Sequence[Preference],
) -> Report:
    """The report, with people's labels if they are given; writes the sheet for people to label."""
    blocks = {model: [block for block, _ in found] for model, found in judged.items()}
    unlabelled = (*CLOSED, CONVERSATION)  # a sheet cannot show the turns before an answer
    open_ended = [b for found in blocks.values() for b in found if b.set.kind not in unlabelled]
    told: list[str] = []
    if config.evaluate.sheet_answers:
        told = people.export(place.path, open_ended, config.evaluate.sheet_answers, config.seed)
    given = tuple(config.evaluate.labels)
    said = people.read(given, place.path, open_ended, "evaluate.labels") if given else None
    results = {name: evaluate_answers.read_tasks(place, plan, name) for name in plan.opened}
    side_by_side = dataclasses.asdict(plan.preference.card) if plan.preference else {}
    done = {name: found for name, found in results.items() if found}
    material = assemble.Material(
        sets=plan.sets,
        cards=plan.cards,
        blocks=blocks,
        responses=answers,
        letters={
            model: {block.set.name: read for block, read in found}
            for model, found in judged.items()
        },
        models=plan.describe_models(),
        people=said,
        tasks={
            name: task_results.blocks(found, name, [one_set.name for one_set in plan.sets])
            for name, found in done.items()
        },
        facts={
            "seed": config.seed,
            "config": place.config,
            "tasks": {name: task_results.figures(found) for name, found in done.items()},
            "preference": side_by_side,
            **place.environment()[-1],
        },
        preferences=preferences,
        notes=[
            *plan.notes,
            *told,
            *(note for name, found in done.items() for note in task_results.notes(found, name)),
        ],
    )
    return assemble.report(material, plan.choice)
