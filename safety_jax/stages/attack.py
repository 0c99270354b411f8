"""Stage `attack`: GCG searches for adversarial suffixes, for use as `SET?attack=suffix:FILE`.

steps.jsonl     every step of every search; a killed run resumes from this file
suffix.txt      universal: the one suffix
suffixes.txt    individual: one for each row of the file
results.json    losses before and after by request, cost, and what the search depends on
README.md, plots/loss.png    the same as a page and a plot
"""

import dataclasses
import hashlib
import json
import statistics
from collections.abc import Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from safety_jax.base import compilation, files, hosts
from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data import prompts
from safety_jax.evaluation.search import gcg
from safety_jax.evaluation.search import goals as aims
from safety_jax.evaluation.search.gcg import Searcher, SearchPace, SearchSettings, Step
from safety_jax.evaluation.search.goals import Goal
from safety_jax.evaluation.sets import reading
from safety_jax.evaluation.sets.items import UNSAFE, Set
from safety_jax.models.execution import float_type
from safety_jax.models.folders.model_folder import ModelFolder
from safety_jax.report import searches
from safety_jax.stages import answering, devices, texts
from safety_jax.training import environment, workdir

STEPS, RESULTS = "steps.jsonl", "results.json"
UNIVERSAL = "universal"


def run(config: ConfigDict, folder: str) -> None:
    """Runs the stage; called again, it continues where it stopped.

    Raises:
        UserError: any error that the user can fix.
    """
    primary = jax.process_index() == 0
    compilation.keep(config.log.compilation_cache)
    with workdir.prepare(folder, config, primary) as place:
        config = texts.dated(config, place)
        one_set = read_set(config)
        mesh = devices.build_mesh(config)
        opened = answering.open_speaker(config, config.model.path, mesh)
        goals, start = read_goals(config, one_set, opened)
        place.remember(
            {
                f"attack.set {one_set.name}": one_set.items_sha256,
                "targets": _hash([goal.sought for goal in goals]),
                "model": opened.weights_sha256,
                "model, config": opened.config_sha256,
                "tokenizer": opened.tokenizer_sha256,
                "data.template": prompts.identified(config.data.template),
            }
        )
        # Everything has been checked; weights are read from here on.
        groups = [goals] if config.attack.mode == UNIVERSAL else [[goal] for goal in goals]
        searcher = make_searcher(config, opened, goals, start, together=max(map(len, groups)))
        if primary:
            print(f"{len(goals)} requests of {one_set.name}; {searcher.describe()}", flush=True)
        found = search(config, place, searcher, groups, primary)
        results = describe(config, one_set, opened, searcher, groups, found)
        if primary:
            write(config, place, one_set, found, results)


def make_searcher(
    config: ConfigDict,
    opened: ModelFolder,
    goals: Sequence[Goal],
    start: tuple[int, ...],
    together: int,
) -> Searcher:
    """Loads the model and lays the goals out; `together` is the size of the largest search."""
    allowed = aims.allowed_tokens(
        opened.tokenizer, opened.config.vocabulary_size, config.attack.tokens
    )
    dtype = float_type("model.parameter_dtype", config.model.parameter_dtype)
    model = opened.load(dtype)
    return Searcher(
        model, goals, start, allowed, read_settings(config), read_pace(config), together=together
    )


def search(
    config: ConfigDict,
    place: workdir.Workdir,
    searcher: Searcher,
    groups: Sequence[Sequence[Goal]],
    primary: bool,
) -> list[list[Step]]:
    """The steps of a search for each group of goals, including those that the file already has."""
    remedy = "remove the file to search again"
    lines = files.Lines(place.path / STEPS, writes=primary, remedy=remedy)
    known = hosts.first_says(lambda: [dataclasses.asdict(step) for step in lines.read(Step.parse)])
    # The file may hold more, if an earlier start asked for more steps.
    earlier = [step for step in map(Step.parse, known) if step.step <= config.attack.steps]

    def tell(step: Step, rate: float) -> None:
        if primary and step.step % config.log.every_steps == 0:
            print(progress_line(step, rate, config.attack.steps), flush=True)

    return [
        searcher.run(
            number, group, [step for step in earlier if step.search == number], lines, tell
        )
        for number, group in enumerate(groups)
    ]


def write(
    config: ConfigDict,
    place: workdir.Workdir,
    one_set: Set,
    found: Sequence[Sequence[Step]],
    results: dict[str, Any],
) -> None:
    """Writes the suffixes, the results, their plot and their page."""
    universal = config.attack.mode == UNIVERSAL
    suffixes = [gcg.best(steps).text for steps in found]
    name = "suffix.txt" if universal else "suffixes.txt"
    rows = suffixes if universal else by_row(one_set, suffixes, config.attack.start)
    files.write(place.path / name, "".join(f"{text}\n" for text in rows))
    files.write(place.path / RESULTS, files.canonical(results))
    searches.draw(found, place.plots / "loss.png", place.path.name)
    files.write(place.card, searches.card(results, place.path.name, name))
    print(f"{searches.summary(results)}\n{place.path / name}", flush=True)


def progress_line(step: Step, rate: float, steps: int) -> str:
    """A message about a step."""
    return (
        f"search {step.search + 1}, step {step.step}/{steps}: loss {step.loss:.4f}, "
        f"{step.reached} of {step.goals} targets reached, {rate:,.0f} candidates/s"
    )


def read_set(config: ConfigDict) -> Set:
    """The requests.

    Raises:
        ConfigError, DataError: this is not one set of unsafe prompts, or suffixes cannot be
            assigned to its rows.
    """
    group = config.attack
    found = reading.read_sets((group.set,), group.data, "attack.set", config.seed)
    if len(found) != 1 or found[0].kind != UNSAFE or found[0].attack:
        named = ", ".join(f"{one_set.name} ({one_set.kind})" for one_set in found)
        raise ConfigError(
            f"attack.set {group.set}: {named}; expected one set of the kind {UNSAFE}, without "
            "attack="
        )
    one_set = found[0]
    if group.mode != UNIVERSAL and any(item.row is None for item in one_set.items):
        raise ConfigError(
            f"attack.mode is {group.mode}, but a row of {one_set.name}'s file makes several "
            f"prompts, and suffixes are kept by row; expected {UNIVERSAL}, or a file with one "
            "prompt a row"
        )
    return one_set


def read_goals(
    config: ConfigDict, one_set: Set, opened: ModelFolder
) -> tuple[list[Goal], tuple[int, ...]]:
    """The goals of the search, and the suffix to start from.

    Raises:
        DataError: an example is longer than the model can read.
    """
    template = "bare" if one_set.framed and config.data.template != "chat" else config.data.template
    worded = prompts.load_template(template, opened.tokenizer, texts.rules(config))
    goals, start = aims.read_goals(
        one_set.items, worded, opened.tokenizer, config.attack.start, "attack.start"
    )
    longest = config.data.max_length or opened.config.max_positions
    for goal in goals:
        if (count := goal.tokens(len(start))) > longest:
            raise DataError(
                f"{goal.where}: request, suffix and target have {count} tokens; expected at most "
                f"{longest}, shorten attack.start, raise data.max_length or leave the row out"
            )
    return goals, start


def read_settings(config: ConfigDict) -> SearchSettings:
    group = config.attack
    return SearchSettings(
        steps=group.steps,
        candidates=group.candidates,
        top_k=group.top_k,
        progressive=group.progressive and group.mode == UNIVERSAL,
        stop_when_reached=group.stop_when_reached,
        max_evaluations=group.max_evaluations,
        seed=config.seed,
    )


def read_pace(config: ConfigDict) -> SearchPace:
    group = config.attack
    return SearchPace(group.row_tokens, group.tokens_per_batch, group.chunk_tokens)


def by_row(one_set: Set, suffixes: Sequence[str], start: str) -> list[str]:
    """A suffix for each row of the set's file; the start for rows that were not searched."""
    found = dict(zip([item.row for item in one_set.items], suffixes, strict=True))
    return [found.get(row, start) for row in range(one_set.rows or len(one_set.items))]


def describe(
    config: ConfigDict,
    one_set: Set,
    opened: ModelFolder,
    searcher: Searcher,
    groups: Sequence[Sequence[Goal]],
    found: Sequence[Sequence[Step]],
) -> dict[str, Any]:
    """`results.json`. Computes losses, so every process must call it."""
    requests = []
    for group, steps in zip(groups, found, strict=True):
        best = gcg.best(steps)
        before, after = (searcher.slopes(group, ids)[:2] for ids in (searcher.start, best.ids))
        requests += [
            {
                "id": goal.id,
                "where": goal.where,
                "target": goal.sought,
                "suffix": best.text,
                "step": best.step,
                "loss_before": float(before[0][i]),
                "loss": float(after[0][i]),
                "reached": bool(after[1][i]),
                "searched": i < best.goals,
            }
            for i, goal in enumerate(group)
        ]
    steps = [step for one in found for step in one]
    # The median, because the first step compiles.
    rates = [step.evaluations / step.seconds for step in steps if step.tried and step.seconds]
    return {
        "mode": config.attack.mode,
        "set": one_set.name,
        "set_sha256": one_set.items_sha256,
        "source": one_set.source,
        "model": opened.path,
        "weights": opened.weights_sha256,
        "tokenizer": opened.tokenizer_sha256,
        "template": config.data.template,
        "settings": dataclasses.asdict(searcher.settings),
        "start": config.attack.start,
        "requests": requests,
        "searches": len(found),
        "steps": sum(step.step > 0 for step in steps),
        "evaluations": sum(step.evaluations for step in steps),
        "candidates_per_second": statistics.median(rates) if rates else None,
        "versions": environment.versions(),
    }


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
