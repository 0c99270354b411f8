"""Stage `sft`: instruction tuning, with safety demonstrations mixed in when the config asks.

Sources -> records -> examples; folder -> base and adapters; one loop; export and model card.
"""

import contextlib
import dataclasses
import math
import sys
import time
from pathlib import Path

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from safety_jax import compilation, feed, loop, metrics, objectives, optim, policy, trees, workdir
from safety_jax import corpus as corpora
from safety_jax import mesh as meshes
from safety_jax import step as steps
from safety_jax.batch import Tokens
from safety_jax.checkpoint import Checkpoints, abstract
from safety_jax.data import encode, loader, tokenizer
from safety_jax.errors import ConfigError
from safety_jax.journal import Journal
from safety_jax.models import folder as folders
from safety_jax.models import hf_config, llama, lora, peft
from safety_jax.report import card, plots

BEST_METRIC = "eval/loss"


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
        check_values(config)
        mesh = meshes.build(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
        put = feed.place_on(mesh, config.train.rows_per_microbatch)
        model_folder = folders.resolve(config.model.path)
        model = hf_config.read_config(model_folder)
        llama.shardings(model, mesh)
        data = read_corpus(config, model_folder, model)
        total = total_steps(config.train, len(data.training))
        batches = make_loader(config, data.training, steps=total, seed=config.seed)
        if primary:
            introduce(config, data, batches, model, mesh)

        # ---- what is trained, and how one step goes
        rate, optimizer = make_optimizer(config.optim, total)
        trained, trainable, frozen = build_policy(config, model, model_folder, mesh)
        loss = make_loss(trained)
        where = steps.shardings(trainable, trained.shardings(), optimizer, mesh)
        dropout_key = jax.random.fold_in(jax.random.key(config.seed), 1)
        state = steps.initialize(trainable, optimizer, dropout_key, where)
        step = steps.make(loss, steps.trained_tokens, optimizer, rate, where)
        evaluate = None
        if data.evaluation is not None:
            held_out = make_loader(config, data.evaluation, steps=None, seed=None)
            measure = steps.evaluator(loss, steps.trained_tokens)
            evaluate = feed.make_evaluate(measure, frozen, held_out, put)

        # ---- training, from where an earlier start left off
        cadence = loop.Cadence(
            total_steps=total,
            log_every_steps=config.log.every_steps,
            eval_every_steps=config.log.eval_every_steps,
            save_every_steps=config.checkpoint.every_steps,
        )
        stream = iter(batches)
        with contextlib.ExitStack() as stack:
            saved = stack.enter_context(
                Checkpoints(place.checkpoints, config.checkpoint.keep_last, BEST_METRIC)
            )
            state = loop.resume(saved, state, stream)
            done = int(state.step)
            writer = metrics.Writer(
                place.path, done, config.log.tensorboard, config.log.wandb, place.config, primary
            )
            progress = metrics.Progress(total, done, primary)
            stack.enter_context(contextlib.closing(writer))
            stack.enter_context(contextlib.closing(progress))
            journal = Journal(
                writer=writer,
                progress=progress,
                rate=metrics.Rate(
                    trained.flops_per_token(data.training.lengths), metrics.peak_of(mesh.devices)
                ),
                compiled=compiled,
                cadence=cadence,
                steps_per_epoch=batches.steps_per_epoch,
                tokens=batches.tokens_until(done),
            )
            result = loop.train(
                state,
                frozen,
                stream,
                step=step,
                place=put,
                evaluate=evaluate,
                rows=lambda batch: [data.training.where[i] for i in batch.examples],
                on_step=journal.on_step,
                on_evaluation=journal.on_evaluation,
                checkpoints=saved,
                best_metric=BEST_METRIC,
                cadence=cadence,
            )
            if result.interrupted:
                progress.print(
                    f"stopped by SIGTERM and saved at step {int(result.state.step)} of {total}; "
                    "run the same command to go on"
                )
                return

            # ---- what is handed back
            chosen, weights = choose(config.checkpoint.export, saved, result.state)
            export(config, trained, weights, frozen, place)
            if primary:
                report(config, place, data, batches, trained, journal, chosen, began)
                progress.print(f"exported step {chosen} to {place.export}")


def check_values(config: ConfigDict) -> None:
    """Refuses values that would only be looked at hours later, or never.

    Raises:
        ConfigError: names key, value and what is expected.
    """
    for key, value in (
        ("log.every_steps", config.log.every_steps),
        ("log.eval_every_steps", config.log.eval_every_steps),
        ("checkpoint.every_steps", config.checkpoint.every_steps),
        ("checkpoint.keep_last", config.checkpoint.keep_last),
        ("train.chunk_tokens", config.train.chunk_tokens),
    ):
        if value < 1:
            raise ConfigError(f"{key} is {value}; expected at least 1")
    if config.lora.rank < 0:
        raise ConfigError(f"lora.rank is {config.lora.rank}; expected 0 (all weights) or more")
    if not 0 <= config.lora.dropout < 1:
        raise ConfigError(f"lora.dropout is {config.lora.dropout}; expected 0 or more, below 1")
    if config.checkpoint.export not in ("last", "best"):
        raise ConfigError(f"checkpoint.export {config.checkpoint.export!r}: expected last or best")
    policy.float_type("checkpoint.export_dtype", config.checkpoint.export_dtype)


# ---------------------------------------------------------------------------- data


def read_corpus(config: ConfigDict, model_folder: Path, model: llama.Config) -> corpora.Corpus:
    """What the config's `data` group names, as token ids."""
    data, own = config.data, config.model.tokenizer
    tokens = tokenizer.load_tokenizer(folders.resolve(own) if own else model_folder)
    return corpora.read(
        train=tuple(data.train),
        safety=data.safety,
        safety_rows=data.safety_rows,
        evaluation=data.eval,
        eval_rows=data.eval_rows,
        template=data.template,
        train_on=data.train_on,
        max_length=data.max_length,
        overlong_prompt=data.overlong_prompt,
        tokens=tokens,
        vocabulary_size=model.vocabulary_size,
        seed=config.seed,
    )


def make_loader(
    config: ConfigDict, examples: encode.Examples, *, steps: int | None, seed: int | None
) -> loader.Loader:
    """Batches for training, or with `steps` and `seed` None, one ordered pass for validation."""
    return loader.Loader(
        examples,
        batch_size=config.train.batch_size,
        row_tokens=config.data.row_tokens or config.data.max_length,
        rows_per_microbatch=config.train.rows_per_microbatch,
        packing=config.data.packing,
        steps=steps,
        seed=seed,
        prefetch_steps=config.data.prefetch_steps,
        process=jax.process_index(),
        processes=jax.process_count(),
    )


def introduce(
    config: ConfigDict,
    data: corpora.Corpus,
    batches: loader.Loader,
    model: llama.Config,
    mesh: Mesh,
) -> None:
    """Prints what is about to be learned, and by what; the first row with its trained tokens."""
    weights = sum(math.prod(p.shape) for p in llama.parameters(model).values())
    shape = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    print(corpora.describe(data))
    print(
        f"{batches.steps:,} steps of {config.train.batch_size} rows, in at most "
        f"{batches.microbatches} microbatches of {config.train.rows_per_microbatch} packed rows; "
        f"{batches.padding_share:.1%} padding"
    )
    print(f"{weights:,} weights on {mesh.size} {mesh.devices.flat[0].device_kind} as {shape}")
    if config.data.max_length > model.max_positions:
        print(
            f"warning: data.max_length {config.data.max_length} is more than the "
            f"{model.max_positions} positions the model was made for"
        )
    colour = sys.stdout.isatty()
    marked = "green" if colour else "[[ ]]"
    shown = encode.preview(data.training, 0, data.tokenizer, colour=colour)
    print(f"the first row, trained tokens {marked}:\n{shown}\n", flush=True)


# ---------------------------------------------------------------------------- training


def build_policy(
    config: ConfigDict, model: llama.Config, folder: Path, mesh: Mesh
) -> tuple[policy.Policy, trees.Tree, trees.Tree]:
    """The policy, its trainable and its frozen tree, as the `model` and `lora` groups say."""
    adapter = None
    if config.lora.rank > 0:
        adapter = peft.Settings(
            rank=config.lora.rank,
            alpha=config.lora.alpha,
            dropout=config.lora.dropout,
            targets=lora.targets(tuple(config.lora.targets)),
            rslora=config.lora.rslora,
            base_name=config.model.path,
            dtype="float32",
        )
    execution = policy.execution(
        model,
        mesh,
        compute_dtype=config.model.compute_dtype,
        backend=config.model.attention,
        remat=config.model.remat,
    )
    return policy.build(
        model,
        execution,
        folder,
        init=config.model.init,
        base_dtype=policy.float_type("model.parameter_dtype", config.model.parameter_dtype),
        adapter=adapter,
        initialization=config.lora.initialization,
        start_from=folders.resolve(config.model.adapter) if config.model.adapter else None,
        chunk_tokens=config.train.chunk_tokens,
        key=jax.random.key(config.seed),
    )


def make_loss(trained: policy.Policy) -> steps.Loss:
    """Sums over one microbatch; the step divides them by the batch's trained tokens."""

    def loss(trainable: trees.Tree, frozen: trees.Tree, tokens: Tokens, key: jax.Array | None):
        sums = objectives.sft(trained.token_logprobs(trainable, frozen, tokens, key))
        return {"loss": sums.loss, "mean_token_accuracy": sums.correct}

    return loss


def make_optimizer(group: ConfigDict, total: int):
    """The learning-rate schedule and AdamW of the config's `optim` group."""
    rate = optim.schedule(
        group.schedule,
        learning_rate=group.learning_rate,
        warmup_steps=group.warmup_steps,
        total_steps=total,
    )
    optimizer = optim.adamw(
        rate,
        beta1=group.beta1,
        beta2=group.beta2,
        epsilon=group.epsilon,
        weight_decay=group.weight_decay,
        clip_norm=group.clip_norm,
    )
    return rate, optimizer


def total_steps(train: ConfigDict, examples: int) -> int:
    """`train.max_steps`, or `train.epochs` in steps.

    Raises:
        ConfigError: neither is positive.
    """
    if train.max_steps > 0:
        return train.max_steps
    if train.epochs <= 0:
        raise ConfigError(
            f"train.max_steps {train.max_steps} and train.epochs {train.epochs}: set one above 0"
        )
    return math.ceil(train.epochs * loader.steps_per_epoch(examples, train.batch_size))


# ---------------------------------------------------------------------------- results


def choose(which: str, saved: Checkpoints, state: steps.State) -> tuple[int, trees.Tree]:
    """The step to export and its weights: the last, or the best by validation loss."""
    last = int(state.step)
    best = saved.best()
    if which == "last" or best is None or best == last:
        return last, state.trainable
    restored, _, _ = saved.restore(best, abstract(state))
    return best, restored.trainable


def export(
    config: ConfigDict,
    trained: policy.Policy,
    weights: trees.Tree,
    frozen: trees.Tree,
    place: workdir.Workdir,
) -> None:
    """`export/`: adapters or the full model; `merged/` beside adapters when the config asks."""
    dtype = config.checkpoint.export_dtype
    own = config.model.tokenizer
    trained.export(place.export, weights, frozen, dtype)
    if config.checkpoint.export_merged and trained.adapter is not None:
        trained.export_merged(place.path / "merged", weights, frozen, dtype)
    if own and jax.process_index() == 0:
        for target in (place.export, place.path / "merged"):
            if target.is_dir():
                folders.copy_matching(folders.resolve(own), folders.TOKENIZER_FILES, target)


def report(
    config: ConfigDict,
    place: workdir.Workdir,
    data: corpora.Corpus,
    batches: loader.Loader,
    trained: policy.Policy,
    journal: Journal,
    chosen: int,
    began: float,
) -> None:
    """Plot and model card, from what the run left behind."""
    place.plots.mkdir(exist_ok=True)
    title = place.path.name
    plots.loss(place.metrics, place.plots / "loss.png", title)
    # From the file, not from memory: a finished run that is started again measures nothing anew.
    rows = metrics.read(place.metrics)
    evaluations = {row.pop("step"): row for row in rows if BEST_METRIC in row}
    start = place.environment()[-1]
    safety = next((s.used for s in data.mixture.shares if s.source == "safety"), 0)
    mesh = trained.run.mesh
    pretrained = config.model.init == "pretrained"
    facts = card.Card(
        title=title,
        summary=f"{config.model.path} after supervised fine-tuning on "
        f"{len(data.training):,} rows, {safety:,} safety demonstrations drawn for the mix.",
        stage="sft",
        base=config.model.path,
        base_sha256=folders.fingerprint(trained.folder) if pretrained else None,
        library="transformers" if trained.adapter is None else "peft",
        export="export",
        command=start["command"],
        config=place.config,
        sources=[
            card.Source(s.source, s.spec, s.used, s.share, s.skipped, data.files.get(s.source))
            for s in data.mixture.shares
        ],
        counts={
            "rows trained on": len(data.training),
            "rows held out": 0 if data.evaluation is None else len(data.evaluation),
            "prompts cut": data.training.counts.cut_prompts,
            "answers cut": data.training.counts.cut_answers,
            **data.training.counts.skipped,
        },
        prompt=data.prompt,
        results={
            "exported step": chosen,
            "steps": batches.steps,
            "tokens": journal.tokens,
            "padding share": batches.padding_share,
            "seconds of this start": time.perf_counter() - began,
            "recompilations": journal.recompilations(),
            **evaluations.get(chosen, {}),
        },
        hardware={
            "device": mesh.devices.flat[0].device_kind,
            "devices": str(mesh.size),
            "mesh": " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items()),
            "attention": config.model.attention,
            "compute": config.model.compute_dtype,
        },
        notes=tuple(config.sft.protocol_notes),
        versions=start["versions"],
        commit=start["commit"],
        plots=("plots/loss.png",),
    )
    workdir.write(place.card, card.render(facts))
    inside = dataclasses.replace(facts, export=".", plots=())
    workdir.write(place.export / "README.md", card.render(inside))
