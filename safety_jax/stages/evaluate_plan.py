"""The plan of a run of stage `evaluate`: reads and checks everything but weights."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from safety_jax.base.errors import ConfigError
from safety_jax.data.control import control_tokens
from safety_jax.data.text_rules import SKIP
from safety_jax.evaluation.answers import existing, stored_scores
from safety_jax.evaluation.answers.responses import Response
from safety_jax.evaluation.harness import lm_eval_tasks
from safety_jax.evaluation.harness.task_results import Wanted
from safety_jax.evaluation.measures import assemble
from safety_jax.evaluation.measures.counts import Resampling
from safety_jax.evaluation.sets import reading, subsets
from safety_jax.evaluation.sets.items import CHOICE, CONVERSATION, Set
from safety_jax.judges import registry
from safety_jax.judges.guards import specs
from safety_jax.judges.judge import JudgeCard
from safety_jax.judges.planned import PlannedJudge
from safety_jax.models.folders.model_folder import ModelFolder
from safety_jax.stages import answering, devices, evaluate_prompts, groups, sweep_record

# NAME=PLACE; a comma ends a place only if another name follows.
_NEXT = re.compile(r",(?=[\w.-]+=)")
_NAME = re.compile(r"[\w.-]+")
PREFERENCE = "preference"  # name of the pairwise judge


@dataclasses.dataclass(frozen=True)
class EvaluationPlan:
    """Everything that is known before weights are read.

    Attributes:
        opened, asked: models that answer, and what they are asked, by model and set.
        read: answers read from files, by model and set.
        planned: judges that read answers.
        stored: cards of judges whose scores are columns beside the answers.
        tasks: of lm-evaluation-harness, for the models that answer.
        preference: the pairwise judge; None without one.
        notes: sentences on how many prompts were left out and why, and on what else a reader of the
            report should know.
    """

    mesh: Mesh
    sets: Sequence[Set]
    opened: Mapping[str, ModelFolder]
    asked: evaluate_prompts.Asked
    read: Mapping[str, Mapping[str, Sequence[Response]]]
    planned: Mapping[str, PlannedJudge]
    stored: Mapping[str, JudgeCard]
    tasks: Wanted
    choice: assemble.ReportChoice
    models: Mapping[str, str]
    preference: PlannedJudge | None
    notes: Sequence[str]

    @property
    def cards(self) -> dict[str, JudgeCard]:
        return {name: one.card for name, one in self.planned.items()} | dict(self.stored)

    def describe(self) -> str:
        """A message to the user: the sets, the models and the judges."""
        lines = [
            f"sets ({len(self.sets)}), with their prompts:",
            *_listed({s.name: _size(s) for s in self.sets}),
        ]
        lines += [f"models ({len(self.models)}):", *_listed(self.models)]
        lines += [f"judges ({len(self.cards)}): {', '.join(self.cards) or 'none'}", *self.notes]
        if self.preference:
            lines.append(f"answers side by side, in both orders: {self.preference.card.model}")
        return "\n".join(lines)

    def describe_models(self) -> dict[str, dict[str, Any]]:
        """See `results.report.Report`."""
        facts: dict[str, dict[str, Any]] = {}
        for name, path in self.models.items():
            facts[name] = {"path": path}
            if name not in self.opened:
                facts[name] |= {"answers": "read from files", "sets": list(self.read[name])}
                continue
            facts[name]["weights_sha256"] = self.opened[name].weights_sha256
            for asked in self.asked[name].values():
                facts[name].setdefault("template", asked.protocol.template)
                facts[name].setdefault("decoding", dict(asked.protocol.decoding))
        return facts


def _listed(facts: Mapping[str, str]) -> list[str]:
    """A line each, with the names in one column."""
    width = max(map(len, facts), default=0)
    return [f"  {name:<{width}}  {fact}" for name, fact in facts.items()]


def _size(one_set: Set) -> str:
    if one_set.kind == CONVERSATION:
        talks = len({item.talk.talk for item in one_set.items if item.talk})
        return f"{talks} conversations of {len(one_set.items)} turns"
    return (
        f"{one_set.prompts} x {one_set.answers} answers"
        if one_set.answers > 1
        else str(one_set.prompts)
    )


def make_plan(config: ConfigDict, title: str) -> EvaluationPlan:
    """Reads sets and existing answers, opens models and judges.

    Raises:
        ConfigError, DataError, CheckpointError: any of them cannot be used.
    """
    group = config.evaluate
    tasks = plan_tasks(config)
    models, others = plan_models(config)
    sets = reading.read_sets(tuple(group.sets), group.data, "evaluate.sets", config.seed)
    read = {
        name: existing.read_existing(spec, sets, "evaluate.responses", group.match)
        for name, spec in others.items()
    }
    mesh = devices.build_mesh(config)
    opened = {name: answering.open_speaker(config, path, mesh) for name, path in models.items()}
    left, kept, asked, told = plan_prompts(config, mesh, sets, read, opened)
    left = [
        one_set if one_set.kind == CHOICE else one_set.repeated(config.answer.candidates)
        for one_set in left
    ]
    planned, cards = plan_judges(config, mesh, left, others, kept)
    everyone = {**models, **others}
    judges = {name: one.card for name, one in planned.items()} | cards
    return EvaluationPlan(
        mesh=mesh,
        sets=left,
        opened=opened,
        asked=asked,
        read=kept,
        planned=planned,
        stored=cards,
        tasks=tasks,
        choice=assemble.check(report_choice(config, title), list(everyone), judges),
        models=everyone,
        preference=plan_preference(config, mesh),
        notes=[
            *told,
            *answering.other_bases(opened),
            *answering.other_templates(opened, config.data.template),
        ],
    )


def plan_models(config: ConfigDict) -> tuple[dict[str, str], dict[str, str]]:
    """By name, the folders of models that answer, and the files with existing answers.

    Raises:
        ConfigError: neither is given, a name is given twice, or files are given while each prompt
            is to be answered several times.
    """
    models = sweep_record.spread(named(config.evaluate.models, "evaluate.models"))
    others = named(config.evaluate.responses, "evaluate.responses")
    both = set(models) & set(others)
    if both or not {**models, **others}:
        what = f"both name {min(both)!r}" if both else "are both empty"
        raise ConfigError(
            f"evaluate.models and evaluate.responses {what}; expected NAME=FOLDER,NAME=FOLDER with "
            "a name of its own for each"
        )
    if config.answer.candidates > 1 and others:
        raise ConfigError(
            f"answer.candidates is {config.answer.candidates}, but evaluate.responses hold one "
            "answer to each prompt; set it to 1, or leave them out"
        )
    return models, others


def report_choice(config: ConfigDict, title: str) -> assemble.ReportChoice:
    """The config's choices for the report."""
    group = config.evaluate
    return assemble.ReportChoice(
        title=title,
        baseline=group.baseline,
        safety=group.safety,
        helpfulness=group.helpfulness,
        margin_share=group.margin_share,
        margin_score=group.margin_score,
        force=group.force,
        how=Resampling(group.resamples, config.seed),
    )


def plan_prompts(
    config: ConfigDict,
    mesh: Mesh,
    sets: Sequence[Set],
    read: Mapping[str, Mapping[str, Sequence[Response]]],
    opened: Mapping[str, ModelFolder],
) -> tuple[
    Sequence[Set], Mapping[str, Mapping[str, Sequence[Response]]], evaluate_prompts.Asked, list[str]
]:
    """Sets, existing answers and prompts, without the prompts that are left out for all models, and
    notes on these."""
    told = [
        line.removeprefix("warning: ")
        for one_set in sets
        if not one_set.plain
        for line in one_set.remarks
    ]
    told += [
        f"{one_set.name}: {one_set.formless} prompts are left out: they cannot be put in the "
        "requested form."
        for one_set in sets
        if one_set.formless and not one_set.plain
    ]
    told += [
        f"{one_set.name}: {one_set.unusable} rows are left out by bad_rows=skip: they cannot be "
        "used."
        for one_set in sets
        if one_set.unusable and not one_set.plain
    ]
    if config.data.special_text == SKIP:
        before = sum(len(one_set.items) for one_set in sets)
        tokens = [control_tokens(one.tokenizer) for one in opened.values()]
        sets, read = subsets.keep(sets, read, subsets.without_special(sets, tokens))
        if count := before - sum(len(one_set.items) for one_set in sets):
            told.append(f"{count} prompts are left out: they contain the text of a special token.")
    asked = {name: evaluate_prompts.ask(config, one, sets, mesh) for name, one in opened.items()}
    sets, read, fitting, overlong = evaluate_prompts.fit(config, sets, read, asked)
    told += [
        f"{name}: {count} prompts are left out for all models: with its answer, they are too long "
        "for one of them."
        for name, count in overlong.items()
    ]
    return sets, read, fitting, told


def named(text: str, key: str) -> dict[str, str]:
    """`base=FOLDER,sit=FOLDER` by name.

    Raises:
        ConfigError: a part that is not NAME=PLACE, or a name that is given twice.
    """
    found: dict[str, str] = {}
    for part in filter(None, _NEXT.split(text)):
        name, equals, place = part.partition("=")
        if not (equals and place and _NAME.fullmatch(name)):
            raise ConfigError(
                f"{key}: {part!r}; expected NAME=FOLDER,NAME=FOLDER, a name of letters, digits and "
                ". _ -"
            )
        if name in found:
            raise ConfigError(f"{key}: the name {name!r} is given twice; give each its own name")
        found[name] = place
    return found


def plan_judges(
    config: ConfigDict,
    mesh: Mesh,
    sets: Sequence[Set],
    others: Mapping[str, str],
    read: Mapping[str, Mapping[str, Sequence[Response]]],
) -> tuple[dict[str, PlannedJudge], dict[str, JudgeCard]]:
    """Judges that read answers, and cards of those whose scores are in the files."""
    rows = config.score.judges.to_dict() | registry.named(tuple(config.evaluate.judges))
    beside = {name: row for name, row in rows.items() if row.get("kind") == stored_scores.KIND}
    reading = {name: row for name, row in rows.items() if name not in beside}
    planned = registry.plan(reading, groups.judge_resources(config, mesh)) if reading else {}
    files: dict[str, str] = {}
    for spec in others.values():
        files |= existing.existing_files(spec, sets, "evaluate.responses")
    cards = {name: stored_scores.card(name, row, files) for name, row in beside.items()}
    for card in cards.values():
        # Raises now, before anything is judged, if no answer has the column.
        if not any(has(card, found) for by_set in read.values() for found in by_set.values()):
            stored_scores.scores(
                card, [r for by_set in read.values() for f in by_set.values() for r in f]
            )
    return planned, cards


def plan_preference(config: ConfigDict, mesh: Mesh) -> PlannedJudge | None:
    """The pairwise judge, if one is named.

    Raises:
        ConfigError, CheckpointError: the model cannot be one.
    """
    group = config.evaluate
    if not group.preference:
        return None
    row = {
        "kind": PREFERENCE,
        "path": group.preference,
        "max_tokens": 0,
        "min_verdict_probability": group.preference_probability,
    }
    return specs.preferring(PREFERENCE, row, groups.judge_resources(config, mesh))


def plan_tasks(config: ConfigDict) -> Wanted:
    """Tasks of lm-evaluation-harness.

    Raises:
        ConfigError: tasks are named, but the harness is not installed or does not know them, or
            prompts are to be skipped.
    """
    group = config.evaluate
    if group.tasks:
        lm_eval_tasks.check_tasks(tuple(group.tasks))
        if config.data.special_text == SKIP:
            raise ConfigError(
                "data.special_text is skip, but evaluate.tasks cannot leave prompts out; set it to "
                "text or error, or name no tasks"
            )
    asking = lm_eval_tasks.Asking(
        num_fewshot=group.task_shots,
        limit=group.task_examples or None,
        chat=config.data.template == "chat",
        system="",
        seed=config.seed,
        bootstrap=group.resamples,
    )
    names = tuple(group.tasks)
    made_by = {name: lm_eval_tasks.definition(name) for name in names}
    return Wanted(names, asking, config.model.to_dict(), made_by)


def has(card: JudgeCard, found: Sequence[Response]) -> bool:
    """Whether any answer has this judge's column."""
    return any(card.settings["column"] in response.stored for response in found)
