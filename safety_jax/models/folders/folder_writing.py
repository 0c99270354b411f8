"""Writing model folders: replacing an older export as a whole, copying files, JSON."""

import contextlib
import glob
import itertools
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safety_jax.base.errors import CheckpointError


@contextlib.contextmanager
def replacing(folder: Path, marker: str) -> Iterator[Path]:
    """Yields a new folder, which replaces `folder` if the block succeeds. If the block fails,
    `folder` does not change.

    An older export is replaced as a whole; it is recognised by the file `marker`.

    Raises:
        CheckpointError: the disk is full or not writable, or `folder` has other content.
    """
    folder = Path(os.path.abspath(folder))
    partial = folder.with_name(f".{folder.name}.partial")
    previous = folder.with_name(f".{folder.name}.previous")
    try:
        if folder.exists() and not (folder / marker).exists() and any(folder.iterdir()):
            raise CheckpointError(
                f"{folder} holds other files (no {marker}); choose an empty folder"
            )
        _tidy(folder, partial, previous)  # removes what a killed run left
        partial.mkdir(parents=True)
        yield partial
        if folder.exists():
            folder.rename(previous)
        partial.rename(folder)
    except OSError as error:
        raise CheckpointError(
            f"cannot write {folder}: {error.strerror or error}; free space or choose another folder"
        ) from error
    finally:
        _tidy(folder, partial, previous)


def _tidy(folder: Path, partial: Path, previous: Path) -> None:
    if previous.exists() and not folder.exists():
        previous.rename(folder)
    shutil.rmtree(previous, ignore_errors=True)
    shutil.rmtree(partial, ignore_errors=True)


def copy_matching(source: Path, patterns: tuple[str, ...], target: Path) -> None:
    """Copies files whose names match a pattern, which may name a folder within `source`; links are
    followed. A folder of such a name (LICENSES) is left out."""
    for name in matching(source, patterns):
        (target / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source / name, target / name)


def matching(folder: Path, patterns: tuple[str, ...]) -> list[str]:
    """Names of the files in a folder that match one of the patterns, in their order."""
    names = [sorted(glob.glob(pattern, root_dir=folder)) for pattern in patterns]
    return [name for name in itertools.chain(*names) if (folder / name).is_file()]


def write_json(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
