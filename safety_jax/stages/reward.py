"""Stage `reward`: training a judge, from pairs, ratings or labels.

Answers -> examples; trunk and head; the loop that all stages share; and what the judge is worth on
held-out rows, beside what counting words alone would reach.
"""

import dataclasses
import functools
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from safety_jax.base import compilation, files, trees
from safety_jax.base import mesh as meshes
from safety_jax.base.errors import ConfigError
from safety_jax.data import encode, judged, loader, tokenizer
from safety_jax.data import judge_corpus as corpora
from safety_jax.judges.planned import DESCRIPTION
from safety_jax.maths import reward_losses
from safety_jax.models.encoders import heads
from safety_jax.models.execution import Execution, float_type
from safety_jax.models.folders import hub as folders
from safety_jax.report import model_card, plots
from safety_jax.stages import assemble, devices, results
from safety_jax.training import judge_model as models
from safety_jax.training import judge_quality, workdir
from safety_jax.training import judge_watch as watching
from safety_jax.training import judging as losses
from safety_jax.training import step as steps

# What a kind calls its output, and what `transformers` calls the task.
OUTPUTS = {
    "pairs": ("reward", "regression"),
    "cost": ("cost", "regression"),
    "regression": ("rating", "regression"),
    "binary": ("unsafe", "multi_label_classification"),
}
DIRECTIONS = ("higher is safer", "higher is more harmful", "higher is better")


def run(config: ConfigDict, folder: str) -> None:
    """Runs the stage from config to exported folder; called again, it goes on where it stopped.

    Raises:
        UserError: anything that the user can put right.
    """
    began = time.perf_counter()
    primary = jax.process_index() == 0
    compilation.keep(config.log.compilation_cache)
    compiled = compilation.Counter()
    with workdir.prepare(folder, config, primary) as place:
        # ---- devices, sizes, data: what can be wrong is found before weights are read
        assemble.check_values(config)
        objective = make_objective(config.reward)
        mesh = devices.build_mesh(config)
        model_folder = folders.resolve(config.model.path)
        label, problem = OUTPUTS[config.reward.kind]
        scorer, own_head = models.read_scorer(
            model_folder, init=config.model.init, label=label, problem=problem
        )
        heads.shardings(scorer, mesh)
        wording, data = read_corpus(config, model_folder, scorer)
        total = assemble.total_steps(config.train, len(data.training))
        batches = make_loader(config, mesh, scorer, data.training, steps=total, seed=config.seed)
        if primary:
            introduce(config, data, batches, scorer, own_head, mesh, place)

        # ---- what is trained, and how one step goes
        trained, trainable, frozen = build(
            config, scorer, model_folder, mesh, own_head=own_head, typed=wording.frame.types
        )
        size = config.train.batch_size
        loss = losses.make_loss(trained, objective, batch_size=size)
        state, step = assemble.make_step(
            config,
            trainable,
            trained.shardings(),
            mesh,
            total,
            loss=loss,
            count=losses.count,
        )
        measure = None
        if data.evaluation is not None:
            held_out = make_loader(config, mesh, scorer, data.evaluation, steps=None, seed=None)
            measure = watching.make_measure(
                steps.evaluator(loss, losses.count, mesh),
                config.reward.kind,
                frozen,
                held_out,
                losses.place_on(mesh, held_out, data.evaluation),
                data.evaluation,
            )

        # ---- training, and what is handed back
        fitted = assemble.fit(
            config,
            place,
            state,
            frozen,
            batches,
            step=step,
            put=losses.place_on(mesh, batches, data.training),
            evaluate=None if measure is None else lambda w: judge_quality.evaluation(measure(w)),
            rows=lambda batch: [data.training.where[i] for i in batch.examples],
            flops_per_token=trained.flops_per_token(
                np.concatenate([side.lengths for side in data.training.sides])
            ),
            compiled=compiled,
            watch=watching.JudgeWatch(config.reward.kind, data.training),
            mesh=mesh,
        )
        if fitted is None:
            return
        trained.export(place.export, fitted.weights, frozen, config.checkpoint.export_dtype)
        held = None if measure is None else measure(fitted.weights)
        if primary:
            report(config, place, data, batches, trained, fitted, held, began)
            print(f"exported step {fitted.chosen} to {place.export}", flush=True)


# ---------------------------------------------------------------------------- what is learned


def make_objective(group: ConfigDict) -> losses.JudgeObjective:
    """The objective that the config's `reward` group names, with its numbers.

    Raises:
        ConfigError: an unknown name, or a number outside its range.
    """
    bind = functools.partial
    known: dict[str, losses.JudgeObjective] = {
        "pairs": bind(reward_losses.bradley_terry, margin=group.margin, centring=group.centring),
        "cost": bind(reward_losses.cost, regularization=group.regularization),
        "regression": reward_losses.regression,
        "binary": reward_losses.classification,
    }
    if group.kind not in known:
        raise ConfigError(f"reward.kind {group.kind!r}: expected one of {', '.join(known)}")
    if group.direction not in DIRECTIONS:
        raise ConfigError(
            f"reward.direction {group.direction!r}: expected one of {', '.join(DIRECTIONS)}"
        )
    if group.kind in ("cost", "binary") and group.direction != DIRECTIONS[1]:
        raise ConfigError(
            f"reward.direction {group.direction!r}: a judge of kind {group.kind} scores harm; "
            f"expected {DIRECTIONS[1]!r}"
        )
    for name in ("margin", "centring", "regularization"):
        if group[name] < 0:
            raise ConfigError(f"reward.{name} is {group[name]}; expected 0 or more")
    return known[group.kind]


def read_corpus(
    config: ConfigDict, model_folder: Path, scorer: heads.Scorer
) -> tuple[judged.Wording, corpora.JudgeCorpus]:
    """How texts are worded, and what the config's `data` group names, as token ids."""
    data, own = config.data, config.model.tokenizer
    tokens = tokenizer.load_tokenizer(folders.resolve(own) if own else model_folder)
    wording = judged.wording(
        data.template, tokens, takes_pairs=scorer.pairs, append_eos=data.append_eos
    )
    return wording, corpora.read(
        config.reward.kind,
        train=tuple(data.train),
        evaluation=data.eval,
        eval_rows=data.eval_rows,
        prefer=data.prefer,
        bad_rows=data.bad_rows,
        wording=wording,
        max_length=data.max_length,
        overlong_prompt=data.overlong_prompt,
        tokens=tokens,
        vocabulary_size=scorer.config.vocabulary_size,
        seed=config.seed,
    )


def make_loader(
    config: ConfigDict,
    mesh: Mesh,
    scorer: heads.Scorer,
    data: judged.JudgedAnswers,
    *,
    steps: int | None,
    seed: int | None,
) -> loader.Loader:
    """Batches for training, or with `steps` and `seed` None, one ordered pass over everything.

    Where the trunk cannot keep examples of a row apart, a row has one, and is as long as the
    longest example.
    """
    packing = config.data.packing and models.packs(scorer)
    longest = max(int(side.lengths.max()) for side in data.sides)
    row_tokens = config.data.row_tokens or config.data.max_length
    return loader.Loader(
        *data.sides,
        batch_size=config.train.batch_size,
        row_tokens=row_tokens if packing else -(-longest // ROW_MULTIPLE) * ROW_MULTIPLE,
        rows_per_microbatch=config.train.rows_per_microbatch,
        packing=packing,
        steps=steps,
        seed=seed,
        prefetch_steps=config.data.prefetch_steps,
        rows_here=meshes.rows_here(mesh, config.train.rows_per_microbatch),
    )


ROW_MULTIPLE = 8  # rows of one example are a multiple of this, what matrix units like


def introduce(
    config: ConfigDict,
    data: corpora.JudgeCorpus,
    batches: loader.Loader,
    scorer: heads.Scorer,
    own_head: bool,
    mesh: Mesh,
    place: workdir.Workdir,
) -> None:
    """Prints what is about to be learned, and by what; the first answers. Notes skipped rows."""
    if data.skipped:
        lines = [json.dumps(dataclasses.asdict(row), ensure_ascii=False) for row in data.skipped]
        files.write(place.path / "skipped.jsonl", "\n".join(lines) + "\n")
    print(corpora.describe(data, config.reward.kind, config.data.prefer))
    print(
        f"{batches.steps:,} steps of {config.train.batch_size} examples, in at most "
        f"{batches.microbatches} microbatches of {config.train.rows_per_microbatch} rows; "
        f"{batches.padding_share:.1%} padding"
    )
    print(
        assemble.describe_model(config, heads.parameters(scorer), scorer.max_tokens, mesh)
        + ("; the folder's head goes on" if own_head else "; a fresh head")
    )
    colour = sys.stdout.isatty()
    names = ("chosen", "rejected") if len(data.training.sides) == 2 else ("answer",)
    for name, side in zip(names, data.training.sides, strict=True):
        shown = encode.preview(side, 0, data.tokenizer, colour=colour)
        print(f"the first example, {name} {'green' if colour else '[[ ]]'}:\n{shown}\n", flush=True)


def build(
    config: ConfigDict,
    scorer: heads.Scorer,
    folder: Path,
    mesh: Mesh,
    *,
    own_head: bool,
    typed: bool,
) -> tuple[models.Trainee, trees.Tree, trees.Tree]:
    """The judge, its trainable and its frozen tree, as the `model` and `lora` groups say."""
    adapter = None
    if config.lora.rank > 0:
        targets = heads.targets(scorer, tuple(config.lora.targets))
        adapter = assemble.adapter_settings(config, targets)
    execution = Execution.build(
        mesh,
        window=scorer.window,
        compute_dtype=float_type("model.compute_dtype", config.model.compute_dtype),
        backend=config.model.attention,
        remat=config.model.remat,
    )
    return models.build(
        scorer,
        execution,
        folder,
        own_head=own_head,
        typed=typed,
        init=config.model.init,
        base_dtype=float_type("model.parameter_dtype", config.model.parameter_dtype),
        adapter=adapter,
        initialization=config.lora.initialization,
        key=jax.random.key(config.seed),
    )


# ---------------------------------------------------------------------------- results


def report(
    config: ConfigDict,
    place: workdir.Workdir,
    data: corpora.JudgeCorpus,
    batches: loader.Loader,
    trained: models.Trainee,
    fitted: assemble.Fitted,
    held: judge_quality.Held | None,
    began: float,
) -> None:
    """Results, plots, the judge's own card, and the model card."""
    place.plots.mkdir(exist_ok=True)
    kind, title = config.reward.kind, place.path.name
    plots.loss(place.metrics, place.plots / "loss.png", title, "loss, a training example")
    drawn = ["plots/loss.png"]
    found: judge_quality.QualityReport = {}
    if held is not None:
        found = judge_quality.report(held, known(kind, data.training)) | {"step": fitted.chosen}
        print(judge_quality.describe(found))
        if "calibration" in found:
            bins = {
                name: found["calibration"][name] for name in ("confidence", "accuracy", "count")
            }
            plots.reliability(**bins, target=place.plots / "calibration.png", title=title)
            drawn.append("plots/calibration.png")
    files.write(place.path / "results.json", json.dumps(found, indent=1) + "\n")
    facts = judge_facts(config, data, found)
    files.write(place.export / DESCRIPTION, json.dumps(facts, indent=1) + "\n")
    results.write_card(
        config,
        place,
        trained,
        batches,
        fitted,
        began,
        summary=f"A judge of kind {kind} on {config.model.path}, trained on "
        f"{len(data.training):,} examples; {config.reward.direction}.",
        sources=[
            model_card.CardSource(
                s.source, s.spec, s.used, s.share, s.skipped, data.files.get(s.source)
            )
            for s in data.mixture.shares
        ],
        counts={
            "examples trained on": len(data.training),
            "examples held out": 0 if data.evaluation is None else len(data.evaluation),
            "left out by data.prefer": data.left_out,
            "rows skipped": len(data.skipped),
            "answers cut": sum(side.counts.cut_answers for side in data.training.sides),
        },
        prompt=data.prompt,
        notes=tuple(config.reward.protocol_notes),
        plots=tuple(drawn),
        task=model_card.CLASSIFICATION,
        results=baselines(found),
    )


def known(kind: str, data: judged.JudgedAnswers) -> judge_quality.Held:
    """Training examples without scores: what is known of them before any judge."""
    blank = np.zeros((len(data), len(data.sides) + 1))
    return judge_quality.held(kind, blank, np.arange(len(data)), data)


def baselines(found: judge_quality.QualityReport) -> dict[str, float]:
    """What stands beside the judge's own numbers on its card."""
    rows = {}
    for name, values in found.get("baselines", {}).items():
        for metric, key in (("accuracy", "value"), ("mse", "mse")):
            if key in values:
                rows[f"{metric} of: {name}"] = values[key]
    correlation = found.get("length_correlation", {})
    return rows | {f"correlation with length, {name}": v for name, v in correlation.items()}


def judge_facts(
    config: ConfigDict,
    data: corpora.JudgeCorpus,
    found: judge_quality.QualityReport,
) -> dict[str, Any]:
    """`judge.json`: what a number of this judge means, and how a conversation becomes its input."""
    kind = config.reward.kind
    return {
        "kind": kind,
        "label": OUTPUTS[kind][0],
        "direction": config.reward.direction,
        # Where safe and unsafe part: even odds, or a cost's change of sign.
        "threshold": 0.0 if kind in ("binary", "cost") else None,
        "template": config.data.template,
        "max_length": config.data.max_length,
        "append_eos": config.data.append_eos,
        "precision": config.model.compute_dtype,
        "temperature": found.get("calibration", {}).get("temperature"),
        "temperature_fitted_on": found.get("calibration", {}).get("temperature_fitted_on"),
        "held_out": found.get("held_out", 0),
        "accuracy": found.get("accuracy", {}).get("value"),
        "trained_on": dict(data.files),
    }
