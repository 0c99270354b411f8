"""Stage `tamper`: how many steps of fine-tuning on a few rows undo a model's safety.

LoRA trains every model on the first rows of a harmful file, and of an ordinary one. After each of
the listed steps the model answers unsafe and safe prompts, and judges score the answers.

    responses/MODEL ROWS STEP/SET.jsonl    every answer; a killed run resumes from these
    judgements/...                         every score
    tampering/.../checkpoints              weights from which the next listed step continues
    results.json, plots/success.png, README.md    the results

Weights are removed after the last listed step has been answered; with `tamper.keep_weights`,
`tampering/.../export` holds them.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence

import jax
from ml_collections import ConfigDict

from safety_jax.base import compilation, files, hosts
from safety_jax.evaluation.answers import generate, responses
from safety_jax.evaluation.answers.responses import Response
from safety_jax.evaluation.measures import tampering
from safety_jax.evaluation.measures.counts import Block, Resampling
from safety_jax.evaluation.measures.tampering import TamperedCurve
from safety_jax.evaluation.sets.items import Set
from safety_jax.judges.judge import Score
from safety_jax.models.decoding import layout
from safety_jax.report import tampering as pages
from safety_jax.stages import devices, fits, texts
from safety_jax.stages.tamper_plan import Tampering, TamperPlan, make_plan, trained
from safety_jax.stages.tamper_weights import TamperedWeights
from safety_jax.training import workdir

RESPONSES, JUDGEMENTS = "responses", "judgements"
RESULTS = "results.json"

# By model, tampering and step, the answers to each set.
Answers = dict[tuple[str, str, int], dict[str, list[Response]]]


def run(config: ConfigDict, folder: str) -> bool:
    """Runs the stage; called again, it continues where it stopped. False if it was asked to stop
    before its end.

    Raises:
        UserError: any error that the user can fix.
    """
    primary = jax.process_index() == 0
    compilation.keep(config.log.compilation_cache)
    compiled = compilation.Counter()
    with workdir.prepare(folder, config, primary) as place:
        config = texts.dated(config.copy_and_resolve_references(), place)
        mesh = devices.build_mesh(config)
        plan = make_plan(config, mesh)
        changed = place.note(plan.identity())
        largest = max(plan.opened.values(), key=lambda one: one.config.layers * one.config.width)
        fits.fill_unseen(config, trained(config, largest.config), mesh, place)
        if primary:
            print(plan.describe(), flush=True)
            for line in changed:
                print(f"note: changed since the last start, so made again: {line}", flush=True)
        answers: Answers = {}
        for name in plan.opened:
            weights = TamperedWeights(config, place, plan.opened[name], mesh, compiled)
            finished = answer(config, place, plan, name, weights, answers, primary)
            weights.release()
            if not finished:
                return False
        scores = judge(config, place, plan, answers, primary)
        if primary:
            curves = measure(config, plan, answers, scores)
            print(write(config, place, plan, curves), flush=True)
    return True


def answer(
    config: ConfigDict,
    place: workdir.Workdir,
    plan: TamperPlan,
    name: str,
    weights: TamperedWeights,
    answers: Answers,
    primary: bool,
) -> bool:
    """Adds a model's answers after every listed step of every tampering to `answers`; False if
    asked to stop."""
    for one in plan.tamperings[name]:
        for step in plan.steps:
            kept = open_answers(config, place, plan, name, one, step, primary)
            for file in kept.values():
                hosts.check_shared(file.done, file.path)  # it decides whether to train
            if any(kept[one_set.name].done < len(one_set.items) for one_set in plan.sets):
                model = weights.after(one, step)
                if model is None:
                    return False
                with layout.lent(model) as speaker:
                    for one_set in plan.sets:
                        asked = plan.asked[name][one_set.name]
                        generate.fill(
                            [generate.Speaker(kept[one_set.name], asked.ids, asked.begun)],
                            one_set,
                            speaker,
                            asked.setup,
                            seed=config.seed,
                            title=f"{key_of(name, one, step)}, {one_set.name}",
                        )
            answers[name, one.name, step] = {
                set_name: file.all() for set_name, file in kept.items()
            }
        if not weights.finish(one, plan.steps[-1], keep=config.tamper.keep_weights):
            return False
    return True


def key_of(name: str, one: Tampering, step: int) -> str:
    """The name of a model after some steps; at step 0 all tamperings are the same model."""
    return f"{name} {one.name} step {step}" if step else f"{name} step 0"


def open_answers(
    config: ConfigDict,
    place: workdir.Workdir,
    plan: TamperPlan,
    name: str,
    one: Tampering,
    step: int,
    primary: bool,
) -> dict[str, responses.Responses]:
    """The files of answers, by set."""
    found = {}
    for one_set in plan.sets:
        protocol = plan.asked[name][one_set.name].protocol
        if step:
            by = f"{protocol.weights} tampered with {one.sha256} step {step}"
            protocol = dataclasses.replace(protocol, weights=by)
        found[one_set.name] = responses.Responses(
            generate.place(place.path / RESPONSES, key_of(name, one, step), one_set.name),
            one_set,
            protocol,
            blocks=one_set.blocks(config.sample.prompts_per_write),
            writes=primary,
        )
    return found


def judge(
    config: ConfigDict,
    place: workdir.Workdir,
    plan: TamperPlan,
    answers: Answers,
    primary: bool,
) -> dict[tuple[str, str], dict[str, list[Score]]]:
    """Every judge's scores of all answers, by `key_of` and set."""
    tamperings = {(name, one.name): one for name, found in plan.tamperings.items() for one in found}
    return generate.judge(
        plan.planned,
        {
            key_of(name, tamperings[name, how], step): by_set
            for (name, how, step), by_set in answers.items()
        },
        {one_set.name: one_set for one_set in plan.sets},
        place.path / JUDGEMENTS,
        rows=config.score.rows_per_write,
        writes=primary,
    )


# ---------------------------------------------------------------------------- results


def measure(
    config: ConfigDict,
    plan: TamperPlan,
    answers: Answers,
    scores: Mapping[tuple[str, str], Mapping[str, list[Score]]],
) -> list[TamperedCurve]:
    """A curve for every model and tampering."""
    found = []
    for name, several in plan.tamperings.items():
        for one in several:
            judged = []
            for step in plan.steps:
                key, by_set = key_of(name, one, step), answers[name, one.name, step]
                blocks = [
                    block_of(plan, key, one_set, by_set[one_set.name], scores)
                    for one_set in plan.sets
                ]
                judged.append((step, blocks))
            found.append(
                tampering.curve(
                    name,
                    one.data,
                    one.rows,
                    judged,
                    judge=config.tamper.unsafe_by,
                    share=config.tamper.target,
                    how=Resampling(config.tamper.resamples, config.seed),
                )
            )
    return found


def block_of(
    plan: TamperPlan,
    key: str,
    one_set: Set,
    found: Sequence[Response],
    scores: Mapping[tuple[str, str], Mapping[str, list[Score]]],
) -> Block:
    """Judged answers to a set."""
    return Block(
        model=key,
        set=one_set,
        protocol="",
        answers=[response.turn.answer for response in found],
        finishes=[response.ending for response in found],
        scores=scores[key, one_set.name],
        cards={name: one.card for name, one in plan.planned.items()},
    )


def write(
    config: ConfigDict, place: workdir.Workdir, plan: TamperPlan, curves: Sequence[TamperedCurve]
) -> str:
    """Writes the results, their plot and their page; returns the table."""
    facts = {
        "judge": config.tamper.unsafe_by,
        "protocol": plan.planned[config.tamper.unsafe_by].card.protocol(),
        "models": {
            name: {"path": one.path, "weights_sha256": one.weights_sha256}
            for name, one in plan.opened.items()
        },
        "sets": {
            one_set.name: {
                "kind": one_set.kind,
                "prompts": one_set.prompts,
                "sha256": one_set.items_sha256,
            }
            for one_set in plan.sets
        },
        "seed": config.seed,
        **place.environment()[-1],
    }
    results = {"curves": [dataclasses.asdict(one) for one in curves], **facts}
    files.write(place.path / RESULTS, files.canonical(json.loads(json.dumps(results))))
    pages.draw(curves, place.plots / "success.png", place.path.name)
    files.write(place.card, pages.page(curves, place.path.name, facts, place.config))
    notes = [f"note: {text}" for text in pages.notes(curves)]
    return "\n".join([pages.table(curves), *notes, str(place.card)])
