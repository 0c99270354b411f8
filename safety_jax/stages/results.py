"""What every training stage hands back: the exported folder, and the model card."""

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import jax
from ml_collections import ConfigDict

from safety_jax.base import files, trees
from safety_jax.data import loader
from safety_jax.models.execution import Execution
from safety_jax.models.folders import hub as folders
from safety_jax.models.folders import peft
from safety_jax.report import model_card
from safety_jax.stages.assemble import Fitted, sizes
from safety_jax.training import metrics, policy, workdir


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


@runtime_checkable
class Exported(Protocol):
    """What a card says of a model in training, policy or judge."""

    @property
    def run(self) -> Execution: ...
    @property
    def folder(self) -> Path: ...
    @property
    def adapter(self) -> peft.LoraConfig | None: ...


def write_card(
    config: ConfigDict,
    place: workdir.Workdir,
    trained: Exported,
    batches: loader.Loader,
    fitted: Fitted,
    began: float,
    *,
    summary: str,
    sources: list[model_card.CardSource],
    counts: dict[str, int],
    prompt: str,
    notes: tuple[str, ...],
    plots: tuple[str, ...],
    task: str = model_card.GENERATION,
    results: Mapping[str, float | int | str] | None = None,
) -> None:
    """The model card in the run's folder and in `export/`, from what the run left behind.

    Args:
        task: see `card.Card`; judges are exported whole.
        results: more of them.
    """
    # From the file, not from memory: a finished run that is started again measures nothing anew.
    rows = metrics.read(place.metrics)
    evaluations = {row.pop("step"): row for row in rows if config.checkpoint.best_metric in row}
    figures = {
        "exported step": fitted.chosen,
        "steps": batches.steps,
        "tokens": fitted.tokens,
        "padding share": batches.padding_share,
        "seconds of this start": time.perf_counter() - began,
        "recompilations": fitted.recompilations,
        **evaluations.get(fitted.chosen, {}),
        **(results or {}),
    }
    write_facts(
        config,
        place,
        trained,
        summary=summary,
        sources=sources,
        counts=counts,
        prompt=prompt,
        notes=notes,
        plots=plots,
        task=task,
        results=figures,
    )


def write_facts(
    config: ConfigDict,
    place: workdir.Workdir,
    trained: Exported,
    *,
    summary: str,
    sources: list[model_card.CardSource],
    counts: dict[str, int],
    prompt: str,
    notes: tuple[str, ...],
    plots: tuple[str, ...],
    task: str,
    results: Mapping[str, float | int | str],
) -> None:
    """The model card with these results, see `write_card`."""
    start = place.environment()[-1]
    mesh = trained.run.mesh
    pretrained = config.model.init == "pretrained"
    facts = model_card.ModelCard(
        title=place.path.name,
        summary=summary,
        stage=config.stage,
        base=config.model.path,
        base_sha256=folders.fingerprint(trained.folder) if pretrained else None,
        library="peft" if trained.adapter and task == model_card.GENERATION else "transformers",
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
            "mesh": sizes(mesh),
            "attention": config.model.attention,
            "compute": config.model.compute_dtype,
        },
        notes=notes,
        versions=start["versions"],
        commit=start["commit"],
        plots=plots,
    )
    files.write(place.card, model_card.render(facts))
    inside = dataclasses.replace(facts, export=".", plots=())
    files.write(place.export / "README.md", model_card.render(inside))
