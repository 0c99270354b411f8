"""The first half of stage `evaluate`: models answer sets, and tasks of lm-evaluation-harness.

Adapters over one base may answer in one batch, where each alone would leave lanes idle
(`evaluate_batches`); the files are the same as if each had answered alone.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from safety_jax.base import files, hosts
from safety_jax.evaluation.answers import dialogues, generate, responses
from safety_jax.evaluation.answers.responses import Response
from safety_jax.evaluation.harness import lm_eval_tasks, task_results
from safety_jax.evaluation.harness.loglikelihood import RequestLimits
from safety_jax.evaluation.sets.items import CONVERSATION, Set
from safety_jax.models.decoding import layout
from safety_jax.models.execution import float_type
from safety_jax.models.model import Model
from safety_jax.stages import answering, evaluate_batches, groups, texts
from safety_jax.stages.evaluate_plan import EvaluationPlan
from safety_jax.training import workdir

CHUNK_TOKENS = 128  # positions of a row whose logits exist at once when tasks are scored
RESPONSES, TASKS = "responses", "tasks"

Files = Mapping[str, Mapping[str, responses.Responses]]  # by model and set


def answer(
    config: ConfigDict, place: workdir.Workdir, plan: EvaluationPlan, primary: bool
) -> dict[str, dict[str, list[Response]]]:
    """Answers of every model, generated or read from files, by set."""
    found = {
        name: {set_name: list(rows) for set_name, rows in by.items()}
        for name, by in plan.read.items()
    }
    kept = {name: open_files(config, place, plan, name, primary) for name in plan.opened}
    dtype = float_type("model.parameter_dtype", config.model.parameter_dtype)
    with answering.Speakers(dtype) as speakers:
        for names in evaluate_batches.over_one_base(plan.opened):
            for one_set in plan.sets:
                for batch in evaluate_batches.together(config, plan, kept, one_set, names):
                    model = speakers.load_several([plan.opened[name] for name in batch.places])
                    fill(config, plan, kept, one_set, batch.names, model)
            for name in names:
                finish(config, place, plan, kept, name, speakers, primary)
    found |= {
        name: {set_name: file.all() for set_name, file in by.items()} for name, by in kept.items()
    }
    return {name: found[name] for name in plan.models}


def open_files(
    config: ConfigDict, place: workdir.Workdir, plan: EvaluationPlan, name: str, primary: bool
) -> dict[str, responses.Responses]:
    """A model's files, by set."""
    return {
        one_set.name: responses.Responses(
            generate.place(place.path / RESPONSES, name, one_set.name),
            one_set,
            plan.asked[name][one_set.name].protocol,
            blocks=one_set.blocks(config.sample.prompts_per_write),
            writes=primary,
        )
        for one_set in plan.sets
    }


def finish(
    config: ConfigDict,
    place: workdir.Workdir,
    plan: EvaluationPlan,
    kept: Files,
    name: str,
    speakers: answering.Speakers,
    primary: bool,
) -> None:
    """Completes a model's answers and its results of tasks; reads its weights only if any are
    missing."""
    left = [one_set for one_set in plan.sets if kept[name][one_set.name].done < len(one_set.items)]
    unasked = hosts.first_says(lambda: bool(unfinished(place, plan, name)))
    if not left and not unasked:
        return
    model = speakers.load(plan.opened[name])
    for one_set in left:
        if one_set.by_likelihood:
            asked, file = plan.asked[name][one_set.name], kept[name][one_set.name]
            title, limits = f"{name}, {one_set.name}", request_limits(config, plan, name)
            generate.choose(file, one_set, asked.ids, asked.choices, model, limits, title)
        else:
            fill(config, plan, kept, one_set, [name], model)
    if unasked:
        run_tasks(config, place, plan, name, model, primary)


def fill(
    config: ConfigDict,
    plan: EvaluationPlan,
    kept: Files,
    one_set: Set,
    names: list[str],
    model: Model,
) -> None:
    """Generates the missing answers to a set, of one model or of several that answer together."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    title, setup = f"{names[0]}{more}, {one_set.name}", plan.asked[names[0]][one_set.name].setup
    with layout.lent(model) as speaker:
        asked = {name: plan.asked[name][one_set.name] for name in names}
        if one_set.kind == CONVERSATION:
            talkers = [
                dialogues.Talker(kept[name][one_set.name], one.word, one.room)
                for name, one in asked.items()
            ]
            dialogues.fill(talkers, one_set, speaker, setup, seed=config.seed, title=title)
        else:
            speakers = [
                generate.Speaker(kept[name][one_set.name], one.ids, one.begun)
                for name, one in asked.items()
            ]
            generate.fill(speakers, one_set, speaker, setup, seed=config.seed, title=title)


# ---------------------------------------------------------------------------- tasks


def request_limits(config: ConfigDict, plan: EvaluationPlan, name: str) -> RequestLimits:
    """How much a model reads at a time when it scores texts."""
    return RequestLimits(
        longest=config.data.max_length or plan.opened[name].config.max_positions,
        tokens_per_batch=groups.tokens_per_batch(config, jax.default_backend()),
        chunk_tokens=CHUNK_TOKENS,
    )


def run_tasks(
    config: ConfigDict,
    place: workdir.Workdir,
    plan: EvaluationPlan,
    name: str,
    model: Model,
    primary: bool,
) -> None:
    """Runs the tasks that a model has not finished, one after another, and writes the results of
    each, so that a kill loses one task at most."""
    asked, opened = next(iter(plan.asked[name].values())), plan.opened[name]
    for task in hosts.first_says(lambda: unfinished(place, plan, name)):
        found = lm_eval_tasks.run_tasks(
            model,
            (task,),
            request_limits(config, plan, name),
            asked.setup.pace,
            asked.setup.eos_ids,
            plan.tasks.asking,
            texts.rules(config),
        )
        if primary:
            protocol = plan.tasks.protocol(task, opened.weights_sha256, opened.tokenizer_sha256)
            path = task_file(place, name, task)
            task_results.write(path, protocol, opened.config_sha256, found)


def task_file(place: workdir.Workdir, name: str, task: str) -> Path:
    """The file of a model's results of a task."""
    return place.path / TASKS / files.file_name(name) / files.file_name(task, ".json")


def unfinished(place: workdir.Workdir, plan: EvaluationPlan, name: str) -> list[str]:
    """The tasks without stored results of a model."""
    return [task for task in plan.tasks.names if read_task(place, plan, name, task) is None]


def read_task(
    place: workdir.Workdir, plan: EvaluationPlan, name: str, task: str
) -> dict[str, Any] | None:
    """The stored results of a model's task; None if there are none."""
    opened = plan.opened[name]
    protocol = plan.tasks.protocol(task, opened.weights_sha256, opened.tokenizer_sha256)
    return task_results.read(task_file(place, name, task), protocol, opened.config_sha256)


def read_tasks(place: workdir.Workdir, plan: EvaluationPlan, name: str) -> dict[str, Any] | None:
    """The stored results of all of a model's tasks; None if there are none."""
    found = [read_task(place, plan, name, task) for task in plan.tasks.names]
    known = [one for one in found if one is not None]
    return task_results.together(known) if known and len(known) == len(found) else None
