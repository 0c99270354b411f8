"""Training stages from config to exported folder: `sft`, `dpo`, `kto`, `orpo` and `reward`.

Each stage file only makes the `Task` of its method from a config. Their common part is here and,
below the config, in `training/run.py`.
"""

import dataclasses
import functools
import hashlib
import json
import sys
import time
from collections.abc import Callable

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from safety_jax.base import compilation, files, terminal
from safety_jax.data.corpora import Corpus
from safety_jax.data.examples import fingerprint, preview
from safety_jax.data.loader import Loader
from safety_jax.models.folders import hub
from safety_jax.stages import devices, fits, groups, results, texts
from safety_jax.training import run as skeleton
from safety_jax.training import workdir
from safety_jax.training.run import Fitted
from safety_jax.training.task import Finished, Task

MakeTask = Callable[[ConfigDict, Mesh], Task]


def run(config: ConfigDict, folder: str, make_task: MakeTask) -> bool:
    """Runs a training stage; called again, it continues where it stopped. False if asked to stop.

    Args:
        make_task: reads and checks the data, and everything of the model but its weights.

    Raises:
        UserError: any error that the user can fix.
    """
    began = time.perf_counter()
    primary = jax.process_index() == 0
    compilation.keep(config.log.compilation_cache)
    compiled = compilation.Counter()
    with workdir.prepare(folder, config, primary) as place:
        config = texts.dated(config.copy_and_resolve_references(), place)
        mesh = devices.build_mesh(config)
        task = make_task(config, mesh)
        place.remember(identity(config, task.corpus))
        fits.fill(config, task, mesh, place)
        fitted = skeleton.run(
            task,
            groups.settings(config),
            place,
            mesh,
            compiled,
            key=jax.random.fold_in(jax.random.key(config.seed), 1),
            introduce=functools.partial(introduce, config, place, task) if primary else None,
        )
        if fitted is None:
            return False
        hand_back(config, task, fitted, place, began)
        if primary:
            print(f"exported step {fitted.step} to {place.export}", flush=True)
    return True


def hand_back(
    config: ConfigDict, task: Task, fitted: Fitted, place: workdir.Workdir, began: float
) -> None:
    """Writes the results of a finished run: the exported folder, plots, the model card.

    Args:
        began: `time.perf_counter()` when this process started the run.
    """
    results.export(config, task, fitted, place)
    if jax.process_index() == 0:
        place.plots.mkdir(exist_ok=True)
        finished = Finished(place.path, place.metrics, place.export, fitted.step, fitted.held_out)
        results.write_card(config, place, task, task.account(finished), fitted, began)


def identity(config: ConfigDict, corpus: Corpus) -> dict[str, str]:
    """Hashes of what the run reads: its rows as token ids, their labels, its base, its adapter."""
    found = {f"data.train {name}": sha256 for name, sha256 in corpus.files.items()}
    # Tokens and labels cover the rest: other sources, the template, and how rows are read.
    for examples, what in ((corpus.training, "to train on"), (corpus.evaluation, "held out")):
        if examples is None:
            continue
        found[f"tokens {what}"] = fingerprint(examples.sides)
        if examples.targets is not None:
            found[f"labels {what}"] = hashlib.sha256(examples.targets.tobytes()).hexdigest()
    return found | groups.model_identity(config, hub.resolve(config.model.path))


def introduce(config: ConfigDict, place: workdir.Workdir, task: Task, batches: Loader) -> None:
    """Prints the data, the batches, the model and the first example; writes skipped rows."""
    corpus = task.corpus
    if corpus.skipped:
        lines = [json.dumps(dataclasses.asdict(row), ensure_ascii=False) for row in corpus.skipped]
        files.write(place.path / "skipped.jsonl", "\n".join(lines) + "\n")
    print(corpus.describe(task.unit))
    print(
        f"{batches.steps:,} steps of {config.train.batch_size} {task.unit}, in at most "
        f"{batches.microbatches} microbatches of {batches.rows_per_microbatch} rows; "
        f"{batches.padding_share:.1%} padding"
    )
    if batches.shared is not None:
        print(batches.shared)
    print(task.about_model)
    colour = terminal.has_colour(sys.stdout)
    marked = "green" if colour else "[[ ]]"
    for name, side in zip(task.sides, corpus.training.sides, strict=True):
        shown = preview(side, 0, corpus.tokenizer, colour=colour)
        print(f"the first {name}, trained tokens {marked}:\n{shown}\n", flush=True)
