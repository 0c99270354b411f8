"""Resolves `auto`: rows of a microbatch, their length, rematerialisation.

The choice is made once (`training/fitting.py`), printed with its reason, and recorded in the run's
folder, so that a resumed run uses it whatever memory it finds. Each mesh has a choice of its own.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from safety_jax.base import memory
from safety_jax.base.errors import ConfigError
from safety_jax.base.memory import GIB
from safety_jax.data.prefixes import Shared
from safety_jax.stages import groups
from safety_jax.training import fitting
from safety_jax.training.fitting import Fit, FitEstimate, Needs, RowSettings
from safety_jax.training.footprint import FlopParts, TrainedModel
from safety_jax.training.task import Task
from safety_jax.training.workdir import Workdir

AUTO = "auto"


def wanted(config: ConfigDict) -> RowSettings:
    """The config's settings of rows; None for those that are `auto`."""
    data, rows, remat = config.data, config.train.rows_per_microbatch, config.model.remat
    return RowSettings(
        rows_per_microbatch=None if rows == AUTO else rows,
        row_tokens=data.row_tokens or None,
        remat=None if remat == AUTO else remat,
        most_row_tokens=data.max_length,
    )


def fill(config: ConfigDict, task: Task, mesh: Mesh, place: Workdir) -> None:
    """Replaces `auto` in the config, before the task reads it. Every process must call this."""
    _fill(config, wanted(config), _needs(config, task), task.model, mesh, place)


def fill_lanes(
    config: ConfigDict,
    runs: Sequence[tuple[ConfigDict, Task]],
    lanes: int,
    mesh: Mesh,
    place: Workdir,
) -> None:
    """As `fill`, for runs of which `lanes` are trained at a time: one choice for all their data."""
    found = [_needs(own, task) for own, task in runs]
    offsets = np.cumsum([0, *(len(one.lengths) for one in found)])
    needs = Needs(
        np.concatenate([one.lengths for one in found]),
        [batch + at for one, at in zip(found, offsets, strict=False) for batch in one.batches],
        max(one.longest for one in found),
        config.data.packing,
        functools.partial(_shared, found),
    )
    largest = max((task.model for _, task in runs), key=lambda model: model.adapter_weights)
    together = dataclasses.replace(
        largest,
        adapter_weights=lanes * largest.adapter_weights,
        sides=lanes * largest.sides,
    )
    _fill(config, wanted(config), needs, together, mesh, place)


def _shared(runs: Sequence[Needs], row_tokens: int) -> Shared | None:
    """How sides share rows in all runs, which agree on it (`prefixes.as_all`)."""
    found = [one.share(row_tokens) for one in runs]
    known = [one for one in found if one is not None]
    if len(known) < len(found):
        return None
    saved = float(np.mean([one.saved for one in known]))
    tokens = np.concatenate([one.tokens for one in known])
    return dataclasses.replace(known[0], tokens=tokens, saved=saved)


def copy(config: ConfigDict, to: ConfigDict) -> None:
    """Copies what `fill` chose into another config."""
    _put(to, chosen(config))


def _needs(config: ConfigDict, task: Task) -> Needs:
    """The batches that the run of a task will have."""
    sides = task.corpus.training.sides
    lengths = np.stack([side.lengths for side in sides], axis=1)
    held_out = task.corpus.evaluation
    others = [] if held_out is None else [side.lengths.max() for side in held_out.sides]
    return fitting.needs(
        lengths,
        int(max(lengths.max(), *others, 1)),
        config.train.batch_size,
        packing=config.data.packing and task.packs,
        seed=config.seed,
        share=functools.partial(task.share, sides),
    )


def fill_unseen(config: ConfigDict, model: TrainedModel, mesh: Mesh, place: Workdir) -> None:
    """As `fill`, before examples exist: they may be of any length up to that of rows."""
    asked = wanted(config)
    row_tokens = asked.row_tokens or asked.most_row_tokens
    lengths = np.full((config.train.batch_size, 1), (row_tokens + 1) // 2)
    needs = Needs(lengths, [np.arange(len(lengths))], row_tokens, config.data.packing)
    _fill(config, dataclasses.replace(asked, row_tokens=row_tokens), needs, model, mesh, place)


def _fill(
    config: ConfigDict,
    asked: RowSettings,
    needs: Needs,
    model: TrainedModel,
    mesh: Mesh,
    place: Workdir,
) -> None:
    if not asked.open:
        _put(config, fitting.given(asked))
        return
    room = memory.at_hand(list(mesh.devices.flat))
    choose = functools.partial(
        fitting.choose,
        asked,
        needs,
        model,
        FlopParts.of(mesh.shape),
        memory=room.bytes,
        platform=mesh.devices.flat[0].platform,
    )
    best = choose()
    name = f"rows on {groups.sizes(mesh)}"
    said = place.settle(name, str(best.fit))
    try:
        fit = fitting.agreed(asked, Fit.parse(said))
    except ValueError as error:
        raise ConfigError(
            f"{place.path / 'identity.json'}: {name} is {said!r}; expected a value like "
            f"{str(best.fit)!r}; restore the file, or use another --workdir"
        ) from error
    _put(config, fit)
    if jax.process_index() == 0:
        print(describe(fit, best, room))


def describe(fit: Fit, best: FitEstimate, room: memory.Room) -> str:
    """A message to the user: what was chosen, and why."""
    text = f"microbatches: {fit}"
    if fit != best.fit:
        return f"{text}, as at the start of this run"
    needed = f"{best.memory / GIB:.2f} GiB of {room.bytes / GIB:.2f} ({room.source}) by formula"
    if best.memory > room.bytes:
        return (
            f"{text}\nwarning: {needed}: even the smallest choice does not fit; lower "
            "data.max_length, raise mesh.fsdp or take a smaller model"
        )
    return f"{text}: {needed}; {best.empty:.1%} of the cells are padding"


def chosen(config: ConfigDict) -> Fit:
    """What `fill` chose."""
    return fitting.given(wanted(config))


def _put(config: ConfigDict, fit: Fit) -> None:
    with config.unlocked(), config.ignore_type():
        config.train.rows_per_microbatch = fit.rows_per_microbatch
        config.data.row_tokens = fit.row_tokens
        config.model.remat = fit.remat
