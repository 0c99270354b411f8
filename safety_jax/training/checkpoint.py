"""Checkpoints of a run: saved in the background, complete or absent, last and best kept.

A checkpoint holds a state (any pytree of plain jax arrays: trainable weights, optimizer state,
step, RNG key data), the state of the data iterator, and a few facts about the run. The base weights
of a LoRA run are not in it; they are known by path and hash.

    checkpoints/20/                       complete: this name appears by one rename
    checkpoints/30.orbax-checkpoint-tmp/  being written, or cut short: never read, removed at start

Built on Orbax's `CheckpointManager`, not on the `Checkpointer` of its v1 API. In 0.12.8 the latter
is a shell over the former that (1) is still named experimental, (2) replaces the manager's private
writer on each save, so that an error of an overlapping save is lost, (3) leaves one thread behind
per save, and (4) stores JSON dictionaries as arrays. The files on disk are the same.
"""

import contextlib
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from safety_jax.base import hosts
from safety_jax.base.errors import CheckpointError, few
from safety_jax.training.checksums import Checksums
from safety_jax.training.orbax_errors import Explain, raise_only

_NAMED_LEAVES = 4  # a message names this many differing leaves and counts the others


def abstract(state: Any) -> Any:
    """The same pytree, each array replaced by its shape, dtype and sharding: a restore target."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


class Checkpoints:
    """The checkpoints of one run, in one folder. Use from the main thread of every process.

    Args:
        folder: created if missing; unfinished checkpoints in it are removed.
        keep_last: how many of the latest checkpoints stay; at least 1.
        best_metric: name of the metric whose best checkpoint stays as well, for instance
            `eval/loss`; None keeps the latest only.
        highest: the highest value of the metric is the best, not the lowest.
        asynchronous: `save` returns once the state is in host memory; a thread writes it to disk.

    Raises:
        CheckpointError: the folder cannot be written, or a checkpoint's facts cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        keep_last: int,
        best_metric: str | None,
        highest: bool = False,
        asynchronous: bool = True,
    ):
        if keep_last < 1:
            raise CheckpointError(f"keep {keep_last} checkpoints: at least 1 is needed to resume")
        self.folder = Path(folder).absolute()
        self.keep_last = keep_last
        self.best_metric = best_metric
        self._sign = -1.0 if highest else 1.0
        self._saving: int | None = None
        self._begun: int | None = None  # the last step whose saving has begun
        raise_only()
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_Preserve(self),
            cleanup_tmp_directories=True,
            enable_async_checkpointing=asynchronous,
        )
        handlers = {
            "state": ocp.StandardCheckpointHandler(),
            "data": ocp.JsonCheckpointHandler(),
            "facts": ocp.JsonCheckpointHandler(),
        }
        with Explain(f"checkpoint folder {self.folder}", "choose another --workdir"):
            self._manager = ocp.CheckpointManager(
                self.folder, options=options, item_handlers=handlers
            )
        self._sums = Checksums(self.folder)
        if jax.process_index() == 0:
            self._sums.forget_removed()
        self._verified: set[int] = set()
        self._metrics: dict[int, float | None] = {}
        for step in self.steps():
            with contextlib.suppress(CheckpointError):  # `restore` reports it
                self._metrics[step] = self._read_metric(step)

    def save(
        self,
        step: int,
        state: Any,
        data_state: dict[str, Any],
        info: dict[str, Any],
        metric: float | None = None,
    ) -> bool:
        """Saves a checkpoint; waits first for the one being written, if any.

        The arrays of `state` may be donated or overwritten as soon as this returns.

        Args:
            step: optimizer steps done.
            state: pytree of jax arrays.
            data_state: `get_state()` of the data iterator; JSON.
            info: facts to keep beside the state, for instance metrics; JSON.
            metric: value of `best_metric` at this step, None if it was not measured.

        Returns:
            False if this step was saved before (nothing is written).

        Raises:
            CheckpointError: this checkpoint, or the one before it, could not be written.
        """
        if step in self.steps():
            return False
        self._metrics[step] = None
        self.note(step, metric)
        self._saving = self._begun = step
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            data=ocp.args.JsonSave(data_state),
            facts=ocp.args.JsonSave(
                {"info": info, "metric": {str(self.best_metric): self._metrics[step]}}
            ),
        )
        # Copying to the host is the purpose here; a guard around the training loop forbids it.
        with self._writing(step), jax.transfer_guard("allow"):
            self._manager.save(step, args=items, force=True)
        return True

    def note(self, step: int, metric: float | None) -> None:
        """Records `best_metric` at a step whose checkpoint may have been saved without it."""
        if self.best_metric is not None and metric is not None and math.isfinite(metric):
            self._metrics[step] = float(metric)

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints on disk, ascending."""
        self.wait()
        self._manager.reload()
        return sorted(self._manager.all_steps())

    def latest(self) -> int | None:
        """The last complete checkpoint that process 0 sees; other processes may see it later."""
        found = max(self.steps(), default=None)
        return hosts.first_says(lambda: found)

    def best(self) -> int | None:
        """The complete checkpoint with the best `best_metric`; of equal ones, the earliest."""
        found = self._best_of(self.steps())
        return hosts.first_says(lambda: found)

    def newest_intact(self) -> int | None:
        """The last checkpoint whose files are as they were written; None if there is none yet.

        Moves damaged ones to `checkpoints.damaged` and prints a warning.

        Raises:
            CheckpointError: there are checkpoints, and all are damaged.
        """
        aside = ""
        while (step := self.latest()) is not None:
            damage = self._damage(step)
            if damage is None:
                return step
            if jax.process_index() == 0:
                aside = str(self._sums.set_aside(step))
                print(
                    f"warning: checkpoint {self.folder / str(step)} is damaged ({damage} is not as "
                    f"it was written); it is now {aside}, and an earlier one is used",
                    flush=True,
                )
            hosts.first_says(lambda: None)  # the others look when it is gone
            self._manager.reload()
        if hosts.first_says(lambda: bool(aside)):
            raise CheckpointError(
                f"{self.folder}: every checkpoint is damaged, see {aside or self.folder}; run "
                "again to begin from the start, or use another --workdir"
            )
        return None

    def _damage(self, step: int) -> str | None:
        if step in self._verified:
            return None
        damage = hosts.first_says(lambda: self._sums.differing(step))
        if damage is None:
            self._verified.add(step)
        return damage

    def restore(self, step: int, target: Any) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """Reads a checkpoint onto the shardings of `target`; their mesh may differ from the saved.

        Args:
            step: one of `steps()`.
            target: pytree of `jax.ShapeDtypeStruct` with shardings, see `abstract`.

        Returns:
            (state, data_state, info) as they were saved.

        Raises:
            CheckpointError: there is no such checkpoint, it is damaged, or its leaves differ from
                those of `target` in name, shape or dtype.
        """
        self._check_exists(step)
        with self._reading(step):
            if (damage := self._damage(step)) is not None:
                raise ValueError(f"{damage} is not as it was written")
            saved = self._manager.item_metadata(step)["state"]
            # A damaged description reads as an empty one.
            if saved is None or not _leaves(saved.tree):
                raise ValueError("the description of its arrays is missing")
        _check_same_leaves(f"checkpoint {self.folder / str(step)}", _leaves(saved.tree), target)
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(target),
            data=ocp.args.JsonRestore(),
            facts=ocp.args.JsonRestore(),
        )
        with self._reading(step), jax.transfer_guard("allow"):
            restored = self._manager.restore(step, args=items)
            return restored["state"], restored["data"], restored["facts"]["info"]

    def wait(self) -> None:
        """Waits until no checkpoint is being written.

        Raises:
            CheckpointError: the last checkpoint could not be written.
        """
        step, self._saving = self._saving, None
        if step is not None:
            with self._writing(step):
                self._manager.wait_until_finished()
            if jax.process_index() == 0:
                self._verified.discard(step)
                self._sums.add(step)

    def close(self) -> None:
        """Waits, then ends threads and closes files."""
        try:
            self.wait()
        finally:
            self._sums.close()
            # Orbax may have several errors of one checkpoint, and raises one at a time.
            with self._writing(self._begun):
                self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_exists(self, step: int) -> None:
        steps = self.steps()
        if step not in steps:
            there = ", ".join(map(str, steps)) or "none"
            raise CheckpointError(f"{self.folder}: no checkpoint of step {step}; there: {there}")

    def _read_metric(self, step: int) -> float | None:
        with self._reading(step):
            try:
                facts = self._manager.restore(
                    step, args=ocp.args.Composite(facts=ocp.args.JsonRestore())
                )["facts"]
            except (FileNotFoundError, KeyError):
                # A kill while a superseded checkpoint was being removed leaves some of its files.
                # It is neither recent nor best, and the next save removes the rest.
                return None
            if self._metric_is_damaged(step):
                return None
            value = facts["metric"].get(str(self.best_metric))
            return float(value) if isinstance(value, int | float) else None

    def _metric_is_damaged(self, step: int) -> bool:
        """Whether the facts of a checkpoint have changed; its other files are large, and checked
        before they are used. Process 0 alone decides which checkpoint is the best."""
        damage = self._sums.differing(step, "facts") if jax.process_index() == 0 else None
        if damage is not None:
            print(
                f"warning: checkpoint {self.folder / str(step)} is damaged ({damage} is not as it "
                f"was written); whether it is the best by {self.best_metric} is unknown",
                flush=True,
            )
        return damage is not None

    def _best_of(self, steps: Iterable[int]) -> int | None:
        values = {step: self._metrics.get(step) for step in steps}
        measured = [(self._sign * v, step) for step, v in values.items() if v is not None]
        return min(measured)[1] if measured else None

    def _writing(self, step: int | None) -> Explain:
        return Explain(
            f"checkpoint {self.folder / str(step or '')} could not be written",
            "earlier checkpoints are intact; make room or choose another --workdir, then run again",
        )

    def _reading(self, step: int) -> Explain:
        return Explain(
            f"checkpoint {self.folder / str(step)} is damaged",
            "remove that folder and run again: an earlier checkpoint, or the start, is used",
        )


class _Preserve:
    """Tells Orbax which checkpoints to keep: the latest `keep_last` and the best."""

    def __init__(self, checkpoints: Checkpoints):
        self._checkpoints = checkpoints

    def should_preserve(self, checkpoints: list[Any], *, context: Any) -> list[bool]:
        del context
        steps = sorted(checkpoint.step for checkpoint in checkpoints)
        stay = {*steps[-self._checkpoints.keep_last :], self._checkpoints._best_of(steps)}
        return [checkpoint.step in stay for checkpoint in checkpoints]


def _leaves(tree: Any) -> dict[str, tuple[tuple[int, ...], str]]:
    """Name -> (shape, dtype); names are the path's keys joined by dots, as Orbax writes them."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): (tuple(leaf.shape), str(leaf.dtype))
        for path, leaf in leaves
    }


def _check_same_leaves(what: str, saved: dict[str, Any], target: Any) -> None:
    wanted = _leaves(target)
    differences = [
        *(f"{name} is missing" for name in wanted if name not in saved),
        *(f"{name} is not expected" for name in saved if name not in wanted),
        *(
            f"{name} is {_describe(saved[name])}, expected {_describe(wanted[name])}"
            for name in wanted
            if name in saved and saved[name] != wanted[name]
        ),
    ]
    if differences:
        raise CheckpointError(
            f"{what} is of another model or optimizer: {few(differences, _NAMED_LEAVES, '; ')}; "
            "use the run's own config, or another --workdir"
        )


def _describe(leaf: tuple[tuple[int, ...], str]) -> str:
    shape, dtype = leaf
    return f"{dtype}[{','.join(map(str, shape))}]"
