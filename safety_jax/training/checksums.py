"""Checksums of finished checkpoints: a flipped bit would otherwise change a model unnoticed.

    checkpoints.sha256/20.json     {"state/ocdbt.process_0/d/1f2e…": "5891b5b522d5df08…", …}

They are computed in the background once a checkpoint is complete. They lie beside the checkpoints,
not inside, because Orbax owns that folder. A checkpoint without checksums (the run was killed
before they were written) is trusted.
"""

import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from safety_jax.base import files
from safety_jax.base.errors import CheckpointError


class Checksums:
    """Checksums of the checkpoints in a folder. Only process 0 uses them: it sees all files."""

    def __init__(self, checkpoints: Path):
        self._checkpoints = checkpoints
        self._folder = checkpoints.with_name(f"{checkpoints.name}.sha256")
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checksums")
        self._running: list[Future[None]] = []

    def add(self, step: int) -> None:
        """Computes the checksums of a complete checkpoint in the background."""
        self._running = [one for one in self._running if not one.done()]
        self._running.append(self._pool.submit(self._note, step))

    def close(self) -> None:
        """Waits until all checksums are on disk."""
        self._pool.shutdown(wait=True)

    def differing(self, step: int, item: str = "") -> str | None:
        """A file of a checkpoint that has changed since it was written; None if none has, or if
        the checkpoint has no checksums.

        Args:
            item: the folder in it to look at; "" for all of it.
        """
        for one in self._running:
            one.result()
        try:
            noted = files.read_object(self._folder / f"{step}.json", CheckpointError, "remove it")
        except FileNotFoundError:
            return None
        found = self._sums(step, item)
        for name in sorted(noted.keys() | found.keys()):
            if name.startswith(item) and noted.get(name) != found.get(name):
                return name
        return None

    def forget_removed(self) -> None:
        """Removes the checksums of checkpoints that are gone. Another one of the same step would
        count as damaged if the run were killed before it has checksums of its own."""
        for old in self._folder.glob("*.json"):
            if not (self._checkpoints / old.stem).exists():
                old.unlink(missing_ok=True)

    def set_aside(self, step: int) -> Path:
        """Moves a damaged checkpoint to where somebody may inspect it; returns that folder."""
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
            self.forget_removed()
        except OSError:  # superseded meanwhile, or the disk is full, which the next save will tell
            return

    def _sums(self, step: int, item: str = "") -> dict[str, str]:
        root = self._checkpoints / str(step)
        found = sorted(path for path in (root / item).rglob("*") if path.is_file())
        return {str(path.relative_to(root)): files.sha256(path) for path in found}
