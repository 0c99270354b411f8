"""The folder of a run: who may write it, and for which config.

    runs/sit-500/
      config.json        the config, nothing else; two runs are the same when these are
      environment.json   per start: command, versions, commit, see `environment.py`
      identity.json      hashes of what the run reads, see `identity.py`
      metrics.jsonl · checkpoints/ · plots/ · export/ · README.md   written by others, see `Workdir`

Starting again with the same config continues the run. Another config is refused, because the
checkpoints in the folder belong to the first one; only keys in `config_record.FREE` may differ.
Other content behind the same names (data, weights, tokenizer, template) is refused, too.
"""

import contextlib
import dataclasses
import fcntl
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from ml_collections import ConfigDict

from safety_jax.base import files, hosts, supervisor, trees
from safety_jax.base.errors import ConfigError, few
from safety_jax.training import config_record, environment, identity

_LOCK = ".lock"
_OURS = (_LOCK, supervisor.FOLDER)  # may stand in a folder where no run has begun
_FILES = ("config.json", "environment.json", "metrics.jsonl", "judgements.jsonl", "steps.jsonl")
_NAMED_KEYS = 3  # a message names this many differing keys and counts the others


@dataclasses.dataclass(frozen=True)
class Workdir:
    """Paths inside the folder of a run, and the lock on it; `close` lets others in."""

    path: Path
    config: dict[str, Any]
    continued: bool  # an earlier start with this config was here
    _lock: IO[str] | None

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def export(self) -> Path:
        return self.path / "export"

    @property
    def plots(self) -> Path:
        return self.path / "plots"

    @property
    def card(self) -> Path:
        return self.path / "README.md"

    def environment(self) -> list[dict[str, Any]]:
        """One entry for each start, oldest first; the last is this one's."""
        return environment.starts(self.path / "environment.json")

    def remember(self, contents: Mapping[str, str]) -> None:
        """Checks that the run still reads what it began with; call this before using the contents.

        Every process must call this. A start that left no results binds no later one.

        Args:
            contents: hashes (or other short texts) by name; a name consists of a config key and a
                file, such as `data.train rows.jsonl`.

        Raises:
            ConfigError: an earlier start read something else under one of the names.
        """
        if changed := self._compare(contents, keep_changes=False):
            raise identity.refuse(self.path, changed)

    def note(self, contents: Mapping[str, str]) -> list[str]:
        """As `remember`, but allows changes and returns those since the last start, in words."""
        return self._compare(contents, keep_changes=True)

    def _compare(self, contents: Mapping[str, str], *, keep_changes: bool) -> list[str]:
        def compare() -> list[str]:
            there = identity.known(self.path)
            changed = identity.changes(there, contents)
            merged = {**there, **contents}
            if merged != there and (keep_changes or not changed):
                files.write(self.path / identity.FILE, files.canonical(merged))
            return changed

        return hosts.first_says(compare)

    def settle(self, name: str, value: str) -> str:
        """The value that the first start of this run recorded under a name; `value` if this is the
        first.

        For values that depend on time, such as the date that a chat template writes.
        """
        settled = hosts.first_says(lambda: identity.known(self.path).get(name, value))
        self.remember({name: settled})
        return settled

    def close(self) -> None:
        if self._lock is not None:
            self._lock.close()

    def __enter__(self) -> "Workdir":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            hosts.first_says(lambda: None)  # process 0 gets here once it has written everything
        self.close()


def prepare(
    path: str | Path, config: ConfigDict | Mapping[str, Any], primary: bool = True
) -> Workdir:
    """Creates the folder of a run, or opens it again, and locks it.

    Args:
        path: the folder; empty, missing, or of an earlier start with the same config.
        config: the whole config; JSON values.
        primary: this process writes; exactly one process of a run does.

    Raises:
        ConfigError: the folder cannot be written, holds something else, belongs to another config,
            or is in use.
    """
    path = files.expand(path).absolute()
    plain = config_record.recorded(config)
    lock, continued = _open(path, plain) if primary else (None, False)
    # The other processes wait here, and then see what process 0 has written.
    known, continued = hosts.first_says(lambda: [plain, continued])
    if plain != known or not (path / "config.json").exists():
        there, here = trees.flatten(known), trees.flatten(plain)
        changed = [key for key in sorted(there | here) if there.get(key) != here.get(key)]
        raise ConfigError(
            f"config.{changed[0]} is not the same as on process 0; start all with one command"
            if changed
            else f"--workdir {path} has no config.json here, but process 0 wrote one; expected a "
            "folder on a disk that all hosts share"
        )
    return Workdir(path, plain, continued, lock)


def _open(path: Path, plain: dict[str, Any]) -> tuple[IO[str], bool]:
    """Makes or opens the folder; returns its lock, and whether it has a run of this config."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        _check_ours(path)
        lock = _acquire(path)
        try:
            continued = _check_config(path, plain)
            _tidy(path)
            if not _has_results(path) and not any(path.glob("responses/*/*")):
                (path / identity.FILE).unlink(missing_ok=True)
            files.write(path / "config.json", files.canonical(plain))
            environment.record_start(path / "environment.json")
        except BaseException:
            lock.close()
            raise
    except OSError as error:
        raise ConfigError(
            f"--workdir {path}: {error.strerror or error}; expected a folder that can be written"
        ) from error
    return lock, continued


def _tidy(path: Path) -> None:
    """Removes half-written files of a killed start. Leaves alone what others write: folders with a
    lock of their own (steps of a recipe), hidden folders, and checkpoints, which clean up
    themselves."""
    for folder, below, names in os.walk(path):
        below[:] = [
            name
            for name in below
            if not name.startswith(".")
            and name != "checkpoints"
            and not os.path.exists(os.path.join(folder, name, _LOCK))
        ]
        for name in names:
            if name.endswith(files.PART):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(folder, name))


def _check_ours(path: Path) -> None:
    names = sorted(entry.name for entry in path.iterdir())
    others = [name for name in names if name not in _OURS and not name.endswith(files.PART)]
    for name in (*_FILES, identity.FILE):
        if (path / name).exists() and not (path / name).is_file():
            raise ConfigError(
                f"--workdir {path}: {name} is not a file; remove it, or use another --workdir"
            )
    if others and "config.json" not in others:
        raise ConfigError(
            f"--workdir {path} holds {others[0]} but no config.json, so it is not the folder of a "
            "run; nothing in it was touched; choose an empty or a new folder"
        )


def _check_config(path: Path, config: dict[str, Any]) -> bool:
    """Whether the folder has a run of this config; a ConfigError if it has one of another."""
    file = path / "config.json"
    if not file.exists():
        return False
    earlier = files.read_object(file, ConfigError, environment.ADVICE)
    found = config_record.differences(earlier, config)
    if found and not _has_results(path):
        return False  # a start that left no results keeps nobody out
    stages = [one.get("stage") for one in (earlier, config)]
    if found and all(isinstance(one, str) for one in stages) and stages[0] != stages[1]:
        raise ConfigError(
            f"--workdir {path} has a run of stage {stages[0]}, and this is stage {stages[1]}; use "
            "another --workdir"
        )
    if found:
        raise ConfigError(
            f"--workdir {path} belongs to another config: {few(found, _NAMED_KEYS, '; ')}; use "
            "another --workdir"
        )
    return True


def _has_results(path: Path) -> bool:
    """Whether a start has left results that a later one continues from."""
    appended = [
        "metrics.jsonl",
        "judgements.jsonl",
        "steps.jsonl",
        "samples.jsonl",
        "rounds/*/*samples.jsonl",  # evaluation_samples.jsonl, too: round 0 has no other
        "responses/*/*.jsonl",
        "runs/*/metrics.jsonl",
    ]
    written = (file for pattern in appended for file in path.glob(pattern))
    if any(file.stat().st_size > 0 for file in written):
        return True
    checkpoints = path / "checkpoints"
    return checkpoints.is_dir() and any(checkpoints.iterdir())


def _acquire(path: Path) -> IO[str]:
    """Locks the folder until the process ends, in whatever way.

    This is a POSIX lock: unlike with `flock`, forked data workers, which may outlive a killed run,
    do not inherit it, and it holds between the machines of an NFS mount.
    """
    lock = open(path / _LOCK, "a+")
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.seek(0)
        holder = lock.read().strip() or "another process"
        lock.close()
        raise ConfigError(
            f"--workdir {path} is being written by {holder}; wait for it or use another --workdir"
        ) from error
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    lock.flush()
    return lock
