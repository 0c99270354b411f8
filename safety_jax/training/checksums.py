"""Checksums of finished checkpoints, for a flipped bit would change a model without a word.

    checkpoints.sha256/20.json     {"state/ocdbt.process_0/d/1f2e…": "5891b5b522d5df08…", …}

They are made in the background, after a checkpoint is complete, and beside the checkpoints, which
Orbax keeps to itself. A checkpoint without them (a kill came first) is taken as it is.
"""

import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from safety_jax.base import files
from safety_jax.base.errors import CheckpointError


class Checksums:
    """Checksums of the checkpoints in a folder. Process 0 uses them: it sees the files of all."""

    def __init__(self, checkpoints: Path):
        self._checkpoints = checkpoints
        self._folder = checkpoints.with_name(f"{checkpoints.name}.sha256")
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checksums")
        self._running: list[Future[None]] = []

    def add(self, step: int) -> None:
        """Notes the checksums of a complete checkpoint, behind what else is done."""
        self._running = [one for one in self._running if not one.done()]
        self._running.append(self._pool.submit(self._note, step))

    def close(self) -> None:
        """Returns when all are on disk."""
        self._pool.shutdown(wait=True)

    def differing(self, step: int) -> str | None:
        """A file of a checkpoint that is not as it was written, or None; None as well where
        nothing was noted."""
        for one in self._running:
            one.result()
        try:
            noted = files.read_object(self._folder / f"{step}.json", CheckpointError, "remove it")
        except FileNotFoundError:
            return None
        found = self._sums(step)
        for name in sorted(noted.keys() | found.keys()):
            if noted.get(name) != found.get(name):
                return name
        return None

    def set_aside(self, step: int) -> Path:
        """Moves a damaged checkpoint out of the way, where somebody may look at it."""
        target = self._checkpoints.with_name(f"{self._checkpoints.name}.damaged") / str(step)
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(exist_ok=True)
        shutil.move(self._checkpoints / str(step), target)
        (self._folder / f"{step}.json").unlink(missing_ok=True)
        return target

    def _note(self, step: int) -> None:
        try:
            self._folder.mkdir(exist_ok=True)
            files.write(self._folder / f"{step}.json", files.line(self._sums(step)))
            for old in self._folder.glob("*.json"):  # of checkpoints that are gone
                if not (self._checkpoints / old.stem).exists():
                    old.unlink(missing_ok=True)
        except OSError:  # superseded meanwhile, or the disk is full, which the next save will tell
            return

    def _sums(self, step: int) -> dict[str, str]:
        root = self._checkpoints / str(step)
        found = sorted(path for path in root.rglob("*") if path.is_file())
        return {str(path.relative_to(root)): files.sha256(path) for path in found}
