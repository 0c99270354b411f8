"""The results of every training stage: the exported folder and the model card."""

import dataclasses
import time
from collections.abc import Mapping, Sequence

import jax
from ml_collections import ConfigDict

from safety_jax.base import files, trees
from safety_jax.models import quantised
from safety_jax.models.folders import hub, tokenizer_files
from safety_jax.report import model_card
from safety_jax.stages import fits, groups, texts
from safety_jax.training import metrics, workdir
from safety_jax.training.run import Fitted
from safety_jax.training.task import Account, Learner, Task


def export(config: ConfigDict, task: Task, fitted: Fitted, place: workdir.Workdir) -> None:
    """Writes `export/`, adapters or the full model; and `merged/` if the config wants it beside
    adapters."""
    merged = not task.is_judge and config.checkpoint.export_merged
    loaded = fitted.loaded
    write(config, loaded.learner, fitted.weights, loaded.frozen, place, merged=merged)


def write(
    config: ConfigDict,
    learner: Learner,
    weights: trees.Tree,
    frozen: trees.Tree,
    place: workdir.Workdir,
    *,
    merged: bool,
) -> None:
    """Writes the folders of a trained model, each with the tokenizer of the run.

    Args:
        merged: adapters are also written as a full model.
    """
    dtype = config.checkpoint.export_dtype
    lost = {place.export: learner.export(place.export, weights, frozen, dtype)}
    if merged and learner.adapter is not None:
        target = place.path / "merged"
        lost[target] = learner.export_merged(target, weights, frozen, dtype)
    if jax.process_index() == 0:
        kernels = groups.held_kernels(config, learner.folder)
        for target, share in lost.items():
            if kernels != quantised.STORED and not (target / hub.ADAPTER).is_file():
                print(
                    f"note: {target}: the base, held in {kernels}, was dequantised and merged with "
                    f"the adapter, in {dtype}",
                    flush=True,
                )
            if share:
                print(
                    f"note: {target}: {share:.1%} of the weights that the adapter changes are "
                    f"unchanged after rounding to {dtype}; checkpoint.export_dtype=float32 keeps "
                    "all changes",
                    flush=True,
                )
        found = groups.tokenizer_folders(config, learner.folder)
        # A chat template may end answers with another token than the tokenizer's.
        chat = config.data.template == "chat"
        ends = texts.ends(config, tokenizer_files.load(found)) if chat else ()
        for target in lost:
            tokenizer_files.copy(found, target, ends)


def write_card(
    config: ConfigDict,
    place: workdir.Workdir,
    task: Task,
    account: Account,
    fitted: Fitted,
    began: float,
) -> None:
    """Writes the model card into the run's folder and into `export/`."""
    # From the file, not from memory: a finished run that is started again evaluates nothing.
    rows = metrics.read(place.metrics)
    evaluations = {row.pop("step"): row for row in rows if config.checkpoint.best_metric in row}
    figures = {
        "exported step": fitted.step,
        "steps": fitted.batches.steps,
        "tokens": fitted.tokens,
        "padding share": fitted.batches.padding_share,
        "seconds of this start": time.perf_counter() - began,
        "recompilations": fitted.recompilations,
        **evaluations.get(fitted.step, {}),
        **account.results,
        **({"warning": fitted.remark} if fitted.remark else {}),
    }
    corpus = task.corpus
    write_facts(
        config,
        place,
        fitted.loaded.learner,
        summary=account.summary,
        sources=[
            model_card.CardSource(
                s.source, s.spec, s.used, s.share, s.skipped, corpus.files.get(s.source)
            )
            for s in corpus.mixture.shares
        ],
        counts=corpus.counts(task.unit),
        prompt=corpus.prompt,
        notes=account.notes,
        plots=account.plots,
        task=model_card.CLASSIFICATION if task.is_judge else model_card.GENERATION,
        results=figures,
    )


def began_with(config: ConfigDict) -> str:
    """A sentence on the adapter that a run started from; "" without one."""
    adapter = config.model.get("adapter")
    return f" It began with the adapter `{adapter}`." if adapter else ""


def write_facts(
    config: ConfigDict,
    place: workdir.Workdir,
    learner: Learner,
    *,
    summary: str,
    sources: list[model_card.CardSource],
    counts: dict[str, int],
    prompt: str,
    notes: Sequence[str],
    plots: Sequence[str],
    task: str,
    results: Mapping[str, float | int | str],
) -> None:
    """Writes the model card with these results, see `write_card`."""
    start = place.environment()[-1]
    mesh = learner.execution.mesh
    pretrained = config.model.init == "pretrained"
    kernels = groups.held_kernels(config, learner.folder)
    facts = model_card.ModelCard(
        title=place.path.name,
        summary=f"{summary}{began_with(config)}",
        stage=config.stage,
        base=config.model.path,
        base_on_hub=not files.expand(config.model.path).exists(),
        base_sha256=hub.fingerprint(learner.folder) if pretrained else None,
        library="peft" if learner.adapter and task == model_card.GENERATION else "transformers",
        task=task,
        export="export",
        command=start["command"],
        config=place.config,
        sources=sources,
        counts=counts,
        prompt=prompt,
        results=dict(results),
        hardware={
            "device": mesh.devices.flat[0].device_kind,
            "devices": str(mesh.size),
            "mesh": groups.sizes(mesh),
            "attention": config.model.attention,
            "compute": config.model.compute_dtype,
            **({} if kernels == quantised.STORED else {"base": kernels}),
            "microbatches": str(fits.chosen(config)),
        },
        notes=tuple(notes),
        versions=start["versions"],
        commit=start["commit"],
        plots=tuple(plots),
    )
    files.write(place.card, model_card.render(facts))
    inside = dataclasses.replace(facts, export=".", plots=())
    files.write(place.export / "README.md", model_card.render(inside))
