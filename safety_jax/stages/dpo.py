"""Stage `dpo`: learning from preferred and rejected answers, by DPO or one of its relatives.

Pairs -> examples of two sides; reference log-probabilities, once; the loop that all stages share.
"""

import dataclasses
import functools
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from jax.sharding import Mesh
from ml_collections import ConfigDict

from safety_jax.base import compilation, files, trees
from safety_jax.base.errors import ConfigError
from safety_jax.data import corpus as corpora
from safety_jax.data import encode, loader, pairs, tokenizer
from safety_jax.maths import losses
from safety_jax.models import llama
from safety_jax.models.folders import hf_config
from safety_jax.models.folders import hub as folders
from safety_jax.report import model_card, plots
from safety_jax.stages import assemble, devices, results
from safety_jax.training import metrics, policy, preference, reference, workdir
from safety_jax.training import step as steps

REFERENCES = ("cached", "live", "none")


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
        objective = make_objective(config.dpo)
        mesh = devices.build_mesh(config)
        model_folder = folders.resolve(config.model.path)
        model = hf_config.read_config(model_folder)
        llama.shardings(model, mesh)
        data = read_corpus(config, model_folder, model)
        sides = data.training.chosen.lengths, data.training.rejected.lengths
        total = assemble.budgeted_steps(
            config.train, len(data.training), assemble.flops_per_example(config, model, *sides)
        )
        size = config.train.batch_size
        batches = make_loader(config, mesh, data.training, size, steps=total, seed=config.seed)
        if primary:
            write_skipped(data, place)
            introduce(config, data, batches, model, mesh)

        # ---- what is trained, against which reference, and how one step goes
        trained, trainable, frozen = assemble.build_policy(config, model, model_folder, mesh)
        origin = start_of(config, trained, trainable)
        known = know_reference(config, trained, origin, frozen, data, mesh)
        live = config.dpo.reference == "live"
        still = preference.Frozen(frozen, jax.tree.map(jnp.copy, origin) if live else None)
        loss = preference.make_loss(
            trained,
            objective,
            nll_weight=config.dpo.nll_weight,
            live=live,
            batch_size=config.train.batch_size,
        )
        state, step = assemble.make_step(
            config,
            trainable,
            trained.shardings(),
            mesh,
            total,
            loss=loss,
            count=preference.count,
        )
        put = preference.place_on(mesh, batches, data.training, known[0], batches.most_segments)
        evaluate = None
        if data.evaluation is not None:
            held_out = make_loader(config, mesh, data.evaluation, size, steps=None, seed=None)
            evaluate = preference.make_evaluate(
                steps.evaluator(loss, preference.count, mesh),
                still,
                held_out,
                preference.place_on(
                    mesh, held_out, data.evaluation, known[1], held_out.most_segments
                ),
                data.evaluation,
                config.dpo.beta,
            )

        # ---- training, and what is handed back
        say = tqdm.tqdm.write if primary else lambda text: None
        watch = preference.PairWatch(
            data.training, config.dpo.beta, preference.Collapse(say), evaluate is not None
        )
        fitted = assemble.fit(
            config,
            place,
            state,
            still,
            batches,
            step=step,
            put=put,
            evaluate=evaluate,
            rows=lambda batch: preference.rows_of(data.training, batch.examples),
            flops_per_token=trained.flops_per_token(np.concatenate(sides)),
            compiled=compiled,
            watch=watch,
            mesh=mesh,
        )
        if fitted is None:
            return
        results.export(config, trained, fitted.weights, frozen, place)
        if primary:
            report(config, place, data, batches, trained, fitted, began)
            print(f"exported step {fitted.chosen} to {place.export}", flush=True)


# ---------------------------------------------------------------------------- what is learned


def make_objective(group: ConfigDict) -> preference.PairObjective:
    """The objective that the config's `dpo` group names, with its numbers.

    Raises:
        ConfigError: an unknown name, or a number outside its range.
    """
    beta, smoothing, margin = group.beta, group.smoothing, group.margin
    bind = functools.partial
    known = {
        "sigmoid": bind(losses.dpo, beta=beta),
        "conservative": bind(losses.conservative, beta=beta, smoothing=smoothing),
        "robust": bind(losses.robust, beta=beta, smoothing=smoothing),
        "hinge": bind(losses.hinge, beta=beta),
        "ipo_sum": bind(losses.ipo_sum, beta=beta),
        "ipo_mean": bind(losses.ipo_mean, beta=beta),
        "sigmoid_mean": bind(losses.dpo_mean, beta=beta),
        "simpo": bind(losses.simpo, beta=beta, margin=margin),
        "safe": bind(losses.safe_dpo, beta=beta, margin=margin),
    }
    if group.objective not in known:
        raise ConfigError(f"dpo.objective {group.objective!r}: expected {', '.join(known)}")
    if group.reference not in REFERENCES:
        raise ConfigError(f"dpo.reference {group.reference!r}: expected {', '.join(REFERENCES)}")
    if group.reference == "none" and group.objective != "simpo":
        raise ConfigError(
            f"dpo.objective {group.objective} compares with a reference; set dpo.reference=cached "
            "or live, only simpo can do without"
        )
    if not beta > 0:
        raise ConfigError(f"dpo.beta is {beta}; expected more than 0")
    if not 0 <= smoothing < 0.5:
        raise ConfigError(f"dpo.smoothing is {smoothing}; expected 0 or more, below 0.5")
    if group.nll_weight < 0:
        raise ConfigError(f"dpo.nll_weight is {group.nll_weight}; expected 0 or more")
    return known[group.objective]


def read_corpus(
    config: ConfigDict, model_folder: Path, model: llama.LlamaConfig
) -> corpora.PairCorpus:
    """What the config's `data` group names, as token ids.

    Raises:
        ConfigError: the objective needs labels that the data does not have.
    """
    data, own = config.data, config.model.tokenizer
    found = corpora.read_pairs(
        train=tuple(data.train),
        evaluation=data.eval,
        eval_rows=data.eval_rows,
        prefer=data.prefer,
        bad_rows=data.bad_rows,
        template=data.template,
        max_length=data.max_length,
        overlong_prompt=data.overlong_prompt,
        tokens=tokenizer.load_tokenizer(folders.resolve(own) if own else model_folder),
        vocabulary_size=model.vocabulary_size,
        seed=config.seed,
    )
    if config.dpo.objective == "safe" and found.training.unsafe is None:
        raise ConfigError(
            "dpo.objective safe needs to know which answers are unsafe; expected PKU-SafeRLHF's "
            "columns or chosen_unsafe and rejected_unsafe in every row of data.train"
        )
    return found


def make_loader(
    config: ConfigDict,
    mesh: Mesh,
    data: pairs.Pairs,
    batch_size: int,
    *,
    steps: int | None,
    seed: int | None,
) -> loader.Loader:
    return assemble.make_loader(
        config, mesh, data.chosen, data.rejected, batch_size=batch_size, steps=steps, seed=seed
    )


def write_skipped(data: corpora.PairCorpus, place: workdir.Workdir) -> None:
    """`skipped.jsonl`: every row that could not be used, and why."""
    if data.skipped:
        lines = [json.dumps(dataclasses.asdict(row), ensure_ascii=False) for row in data.skipped]
        files.write(place.path / "skipped.jsonl", "\n".join(lines) + "\n")


def introduce(
    config: ConfigDict,
    data: corpora.PairCorpus,
    batches: loader.Loader,
    model: llama.LlamaConfig,
    mesh: Mesh,
) -> None:
    """Prints what is about to be learned, and by what; the first pair with its scored tokens."""
    print(corpora.describe_pairs(data, config.data.prefer))
    print(
        f"{batches.steps:,} steps of {config.train.batch_size} pairs, in at most "
        f"{batches.microbatches} microbatches of {config.train.rows_per_microbatch} packed double "
        f"rows; {batches.padding_share:.1%} padding"
    )
    print(assemble.describe_model(config, llama.parameters(model), model.max_positions, mesh))
    colour = sys.stdout.isatty()
    marked = "green" if colour else "[[ ]]"
    for name, side in (("chosen", data.training.chosen), ("rejected", data.training.rejected)):
        shown = encode.preview(side, 0, data.tokenizer, colour=colour)
        print(f"the first pair, {name}, scored tokens {marked}:\n{shown}\n", flush=True)


# ---------------------------------------------------------------------------- reference


def start_of(
    config: ConfigDict, trained: policy.Policy, trainable: trees.Tree
) -> trees.Tree | None:
    """The trainable tree the reference has; None where that adds nothing to the base."""
    fresh_adapters = trained.adapter is not None and not config.model.adapter
    return None if fresh_adapters else trainable


def know_reference(
    config: ConfigDict,
    trained: policy.Policy,
    start: trees.Tree | None,
    frozen: trees.Tree,
    data: corpora.PairCorpus,
    mesh: Mesh,
) -> tuple[preference.Sides | None, preference.Sides | None]:
    """The reference's log-probabilities of training and held-out pairs, where they are cached."""
    if config.dpo.reference != "cached":
        return None, None
    cache = reference.ReferenceCache(
        reference_root(config.dpo.reference_folder), facts(config, trained)
    )
    score = reference.make_score(trained, mesh)

    def known(name: str, sides: pairs.Pairs | None) -> preference.Sides | None:
        if sides is None:
            return None
        batches = make_loader(config, mesh, sides, reference.PAIRS_PER_SHARD, steps=None, seed=None)
        return reference.logprobs(cache, sides, batches, score, start, frozen, mesh, name=name)

    return known("training", data.training), known("held out", data.evaluation)


def reference_root(folder: str) -> Path:
    return Path(folder) if folder else files.cache_home("reference")


def facts(config: ConfigDict, trained: policy.Policy) -> dict[str, Any]:
    """What reference log-probabilities depend on, beside the tokens."""
    model = config.model
    pretrained, adapter = model.init == "pretrained", model.adapter
    fingerprint = folders.shared_fingerprint
    return {
        "weights": fingerprint(trained.folder) if pretrained else f"seed {config.seed}",
        "model": repr(trained.config),
        "adapter": fingerprint(folders.resolve(adapter)) if adapter else None,
        "template": config.data.template,
        # A frozen base is stored in this type; weights that are trained are float32.
        "parameter_dtype": model.parameter_dtype if trained.adapter else "float32",
        "compute_dtype": model.compute_dtype,
    }


# ---------------------------------------------------------------------------- results


def report(
    config: ConfigDict,
    place: workdir.Workdir,
    data: corpora.PairCorpus,
    batches: loader.Loader,
    trained: policy.Policy,
    fitted: assemble.Fitted,
    began: float,
) -> None:
    """Plots and model card."""
    place.plots.mkdir(exist_ok=True)
    title = place.path.name
    plots.loss(place.metrics, place.plots / "loss.png", title)
    plots.rewards(place.metrics, place.plots / "rewards.png", title)
    notes = list(config.dpo.protocol_notes)
    alarms = [row["step"] for row in metrics.read(place.metrics) if "alarms/chosen_collapse" in row]
    if alarms:
        notes.insert(
            0,
            f"ALARM: from step {min(alarms)} the reward of chosen answers fell while margins rose; "
            "the policy may have lost the answers it should learn",
        )
    chosen = data.training.chosen.counts
    results.write_card(
        config,
        place,
        trained,
        batches,
        fitted,
        began,
        summary=f"{config.model.path} after preference optimisation ({config.dpo.objective}, "
        f"β = {config.dpo.beta:g}) on {len(data.training):,} pairs.",
        sources=[
            model_card.CardSource(
                s.source, s.spec, s.used, s.share, s.skipped, data.files.get(s.source)
            )
            for s in data.mixture.shares
        ],
        counts={
            "pairs trained on": len(data.training),
            "pairs held out": 0 if data.evaluation is None else len(data.evaluation),
            f"left out by data.prefer={config.data.prefer}": data.left_out,
            "rows skipped": len(data.skipped),
            "prompts cut": chosen.cut_prompts,
            "chosen answers cut": chosen.cut_answers,
            "rejected answers cut": data.training.rejected.counts.cut_answers,
        },
        prompt=data.prompt,
        notes=tuple(notes),
        plots=("plots/loss.png", "plots/rewards.png"),
    )
