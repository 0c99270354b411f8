"""Stage `sft`: instruction tuning, with safety demonstrations mixed in when the config asks.

Sources -> records -> examples; folder -> base and adapters; one loop; export and model card.
"""

import sys
import time
from pathlib import Path

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from safety_jax.base import compilation
from safety_jax.data import corpus as corpora
from safety_jax.data import encode, loader, tokenizer
from safety_jax.models import llama
from safety_jax.models.folders import hf_config
from safety_jax.models.folders import hub as folders
from safety_jax.report import model_card, plots
from safety_jax.stages import assemble, devices, results
from safety_jax.training import likelihood, placement, policy, workdir
from safety_jax.training import step as steps


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
        mesh = devices.build_mesh(config)
        put = placement.place_on(mesh, config.train.rows_per_microbatch)
        model_folder = folders.resolve(config.model.path)
        model = hf_config.read_config(model_folder)
        llama.shardings(model, mesh)
        data = read_corpus(config, model_folder, model)
        total = assemble.budgeted_steps(
            config.train,
            len(data.training),
            assemble.flops_per_example(config, model, data.training.lengths),
        )
        size = config.train.batch_size
        batches = assemble.make_loader(
            config, mesh, data.training, batch_size=size, steps=total, seed=config.seed
        )
        if primary:
            introduce(config, data, batches, model, mesh)

        # ---- what is trained, and how one step goes
        trained, trainable, frozen = assemble.build_policy(config, model, model_folder, mesh)
        loss, count = likelihood.make_loss(trained), steps.trained_tokens
        state, step = assemble.make_step(
            config, trainable, trained.shardings(), mesh, total, loss=loss, count=count
        )
        evaluate = None
        if data.evaluation is not None:
            held_out = assemble.make_loader(
                config, mesh, data.evaluation, batch_size=size, steps=None, seed=None
            )
            measure = steps.evaluator(loss, count, mesh)
            evaluate = placement.make_evaluate(measure, frozen, held_out, put)

        # ---- training, and what is handed back
        fitted = assemble.fit(
            config,
            place,
            state,
            frozen,
            batches,
            step=step,
            put=put,
            evaluate=evaluate,
            rows=lambda batch: [data.training.where[i] for i in batch.examples],
            flops_per_token=trained.flops_per_token(data.training.lengths),
            compiled=compiled,
            watch=None,
            mesh=mesh,
        )
        if fitted is None:
            return
        results.export(config, trained, fitted.weights, frozen, place)
        if primary:
            report(config, place, data, batches, trained, fitted, began)
            print(f"exported step {fitted.chosen} to {place.export}", flush=True)


def read_corpus(config: ConfigDict, model_folder: Path, model: llama.LlamaConfig) -> corpora.Corpus:
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


def introduce(
    config: ConfigDict,
    data: corpora.Corpus,
    batches: loader.Loader,
    model: llama.LlamaConfig,
    mesh: Mesh,
) -> None:
    """Prints what is about to be learned, and by what; the first row with its trained tokens."""
    print(corpora.describe(data))
    print(
        f"{batches.steps:,} steps of {config.train.batch_size} rows, in at most "
        f"{batches.microbatches} microbatches of {config.train.rows_per_microbatch} packed rows; "
        f"{batches.padding_share:.1%} padding"
    )
    print(assemble.describe_model(config, llama.parameters(model), model.max_positions, mesh))
    colour = sys.stdout.isatty()
    marked = "green" if colour else "[[ ]]"
    shown = encode.preview(data.training, 0, data.tokenizer, colour=colour)
    print(f"the first row, trained tokens {marked}:\n{shown}\n", flush=True)


def report(
    config: ConfigDict,
    place: workdir.Workdir,
    data: corpora.Corpus,
    batches: loader.Loader,
    trained: policy.Policy,
    fitted: assemble.Fitted,
    began: float,
) -> None:
    """Plot and model card."""
    place.plots.mkdir(exist_ok=True)
    plots.loss(place.metrics, place.plots / "loss.png", place.path.name)
    safety = next((s.used for s in data.mixture.shares if s.source == "safety"), 0)
    results.write_card(
        config,
        place,
        trained,
        batches,
        fitted,
        began,
        summary=f"{config.model.path} after supervised fine-tuning on "
        f"{len(data.training):,} rows, {safety:,} safety demonstrations drawn for the mix.",
        sources=[
            model_card.CardSource(
                s.source, s.spec, s.used, s.share, s.skipped, data.files.get(s.source)
            )
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
        notes=tuple(config.sft.protocol_notes),
        plots=("plots/loss.png",),
    )
