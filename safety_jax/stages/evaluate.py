"""Stage `evaluate`: models answer sets, judges judge, and one report compares them.

responses/MODEL/SET.jsonl    every answer and what it depends on; a killed run goes on from here
judgements/MODEL/SET.jsonl   every score as it came
report.html, report.md, report.json, plots/   what it all comes to
for_people.csv               where asked for: answers for people to label
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from safety_jax import compilation, policy, workdir
from safety_jax.evaluation import asking, assemble, letters, people, responses, stored
from safety_jax.evaluation.measures import Block
from safety_jax.evaluation.responses import Response
from safety_jax.evaluation.results import Report
from safety_jax.evaluation.sets import CHOICE, Set
from safety_jax.report import evaluation as reports
from safety_jax.scoring.judge import Score
from safety_jax.stages import answering
from safety_jax.stages.evaluate_plan import Plan, has, make_plan

RESPONSES, JUDGEMENTS = "responses", "judgements"


def run(config: ConfigDict, folder: str) -> None:
    """Runs the stage; called again, it goes on where it stopped.

    Raises:
        UserError: anything that the user can put right.
    """
    primary = jax.process_index() == 0
    compilation.keep(config.log.compilation_cache)
    with workdir.prepare(folder, config, primary) as place:
        plan = make_plan(config, place.path.name)
        if primary:
            print(plan.describe(), flush=True)
        answers = answer(config, place, plan, primary)
        judged = judge(config, place, plan, answers, primary)
        if primary:
            report = describe(config, place, plan, answers, judged)
            reports.write(report, place.path)
            print(f"{reports.tables(report)}\n{place.path / 'report.html'}", flush=True)


def answer(
    config: ConfigDict, place: workdir.Workdir, plan: Plan, primary: bool
) -> dict[str, dict[str, list[Response]]]:
    """Answers of every model to every set that it has any to; models are read one after the
    other."""
    found = {name: {of: list(rows) for of, rows in by.items()} for name, by in plan.read.items()}
    dtype = policy.float_type("model.parameter_dtype", config.model.parameter_dtype)
    for name, opened in plan.opened.items():
        files = {
            of.name: responses.Responses(
                asking.place(place.path / RESPONSES, name, of.name),
                of,
                plan.asked[name][of.name].protocol,
                block=config.sample.prompts_per_write,
                writes=primary,
            )
            for of in plan.sets
        }
        left = [of for of in plan.sets if files[of.name].done < len(of.items)]
        if left:
            weights, adapters = opened.load(plan.mesh, dtype)
            for of in left:
                asked = plan.asked[name][of.name]
                asking.fill(
                    files[of.name],
                    of,
                    asked.ids,
                    asked.setup,
                    weights,
                    adapters,
                    seed=config.seed,
                    block=config.sample.prompts_per_write,
                    title=f"{name}, {of.name}",
                )
            answering.release(weights, adapters)
        found[name] = {of: file.all() for of, file in files.items()}
    return {name: found[name] for name in plan.models}


def judge(
    config: ConfigDict,
    place: workdir.Workdir,
    plan: Plan,
    answers: Mapping[str, Mapping[str, Sequence[Response]]],
    primary: bool,
) -> dict[str, list[tuple[Block, list[str]]]]:
    """By model, its judged answers to each set, and of multiple choice the letters in them."""
    sets = {of.name: of for of in plan.sets}
    judged = {
        model: {name: found for name, found in by.items() if sets[name].kind != CHOICE}
        for model, by in answers.items()
    }
    scores = asking.judge(
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
            own |= {n: stored.scores(c, found) for n, c in plan.stored.items() if has(c, found)}
            blocks[model].append(make_block(plan, model, sets[name], found, own))
    return blocks


def make_block(
    plan: Plan,
    model: str,
    of: Set,
    found: Sequence[Response],
    scores: Mapping[str, list[Score]],
) -> tuple[Block, list[str]]:
    """A model's answers to a set with their scores."""
    asked = plan.asked.get(model, {}).get(of.name)
    protocol = asked.protocol.of(of) if asked else responses.recorded(found, of)
    read: list[str] = []
    choice: dict[str, Any] = {}
    if of.kind == CHOICE:
        read = [letters.read(r.text, i.choices) for r, i in zip(found, of.items, strict=True)]
        right = [item.reference for item in of.items]
        choice = letters.measure(read, right, [item.choices for item in of.items])
    block = Block(
        model=model,
        set=of,
        protocol=protocol or assemble.UNKNOWN,
        answers=[response.text for response in found],
        finishes=[response.finish for response in found],
        scores=scores,
        cards={name: plan.cards[name] for name in scores},
        choice=choice,
        correct=[r == item.reference for r, item in zip(read, of.items, strict=False)],
    )
    return block, read


# ---------------------------------------------------------------------------- what it comes to


def describe(
    config: ConfigDict,
    place: workdir.Workdir,
    plan: Plan,
    answers: Mapping[str, Mapping[str, Sequence[Response]]],
    judged: Mapping[str, Sequence[tuple[Block, list[str]]]],
) -> Report:
    """The report; with people's labels where they came back. A sheet for them goes out here."""
    blocks = {model: [block for block, _ in found] for model, found in judged.items()}
    open_ended = [b for found in blocks.values() for b in found if b.set.kind != CHOICE]
    if config.evaluate.sheet_answers:
        people.export(place.path, open_ended, config.evaluate.sheet_answers, config.seed)
    given = tuple(config.evaluate.labels)
    said = people.read(given, place.path, open_ended, "evaluate.labels") if given else None
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
        facts={"seed": config.seed, "config": place.config} | place.environment()[-1],
    )
    return assemble.report(material, plan.choice)
