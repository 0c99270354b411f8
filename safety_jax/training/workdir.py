"""The folder of a run: who may write it, and for which config.

    runs/sit-500/
      config.json        the config, nothing else; two runs are the same when these are
      environment.json   per start: command, versions, commit
      identity.json      hashes of what the run reads, see `identity.py`
      metrics.jsonl · checkpoints/ · plots/ · export/ · README.md   written by others, see `Workdir`

Starting again with the same config continues the run. Another config is refused, because the
checkpoints there belong to the first one; only keys in `FREE` may differ. Other content behind the
same names (data, weights, tokenizer, template) is refused, too.
"""

import contextlib
import dataclasses
import datetime
import fcntl
import importlib.metadata
import json
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from ml_collections import ConfigDict

import safety_jax
from safety_jax.base import files, hosts, supervisor, trees
from safety_jax.base.errors import ConfigError
from safety_jax.data import source_spec
from safety_jax.training import identity

# Keys that may change between two starts of one run. They say where and how fast it runs, what it
# prints and what it keeps; the weights it arrives at are the same (but for the order of additions).
FREE = (
    r"mesh\..*",
    r"log\..*",
    r"checkpoint\..*",
    r"data\.prefetch_steps",
    r"model\.attention",
    r"model\.remat",
    r"train\.rows_per_microbatch",
    r"score\.(tokens_per_batch|rows_per_write|attention)",
    r"sample\.(lanes|prefill_tokens|bucket_tokens|chunk_steps)",
    r"raft\.(rounds|patience|judges_resident)",
    r"attack\.(steps|max_evaluations|row_tokens|tokens_per_batch|chunk_tokens)",
    # Answers and scores are kept by all that they depend on, so that more of them may be asked for.
    r"(evaluate|tamper)\..*",
    # Runs of a sweep have folders of their own, which hold them to what they are.
    r"sweep\..*",
)

_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "transformers")
_LOCK = ".lock"
_OURS = (_LOCK, supervisor.FOLDER)  # may stand in a folder where no run has begun
_FILES = ("config.json", "environment.json", "metrics.jsonl", "judgements.jsonl", "steps.jsonl")
_NAMED_KEYS = 3  # a message names this many differing keys, and counts the others
_ADVICE = "put the file back, or use another --workdir"


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
        """One entry a start, oldest first; the last is this one's."""
        return _starts(self.path / "environment.json")

    def remember(self, contents: Mapping[str, str]) -> None:
        """Holds the run to what it reads; call it before anything is made of that.

        Every process must call this. A start that came to nothing holds nobody to anything.

        Args:
            contents: hashes (or other short texts) by name; a name says which key of the config and
                which file, `data.train rows.jsonl`.

        Raises:
            ConfigError: an earlier start read something else under one of the names.
        """
        if changed := self._compare(contents, keep_changes=False):
            raise identity.refuse(self.path, changed)

    def note(self, contents: Mapping[str, str]) -> list[str]:
        """As `remember`, for a run that may go on: what changed since the last start, in words."""
        return self._compare(contents, keep_changes=True)

    def _compare(self, contents: Mapping[str, str], *, keep_changes: bool) -> list[str]:
        def compare() -> list[str]:
            there = identity.known(self.path)
            changed = identity.changes(there, contents)
            merged = {**there, **contents}
            if merged != there and (keep_changes or not changed):
                files.write(self.path / identity.FILE, canonical(merged))
            return changed

        return hosts.first_says(compare)

    def settle(self, name: str, value: str) -> str:
        """What the first start of this run said under a name: of this one, `value`.

        For what time decides, say the date that a chat template writes.
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
            hosts.first_says(lambda: None)  # when process 0 is here, all is written
        self.close()


def prepare(
    path: str | Path, config: ConfigDict | Mapping[str, Any], primary: bool = True
) -> Workdir:
    """Creates the folder of a run, or opens it again, and locks it.

    Args:
        path: the folder; empty, missing, or of an earlier start with the same config.
        config: the whole config; JSON values.
        primary: whether this process writes; exactly one process of a run does.

    Raises:
        ConfigError: the folder cannot be written, holds something else, belongs to another config,
            or is in use.
    """
    path = files.expand(path).absolute()
    plain = recorded(config)
    lock, continued = _open(path, plain) if primary else (None, False)
    # The others wait for this, and see what process 0 has made.
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
    """Makes or opens the folder: the lock on it, and whether a run with this config was here."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        _check_ours(path)
        lock = _acquire(path)
        try:
            continued = _check_config(path, plain)
            _tidy(path)
            if not _has_results(path) and not any(path.glob("responses/*/*")):
                (path / identity.FILE).unlink(missing_ok=True)
            files.write(path / "config.json", canonical(plain))
            _record_start(path / "environment.json")
        except BaseException:
            lock.close()
            raise
    except OSError as error:
        raise ConfigError(
            f"--workdir {path}: {error.strerror or error}; expected a folder that can be written"
        ) from error
    return lock, continued


def _tidy(path: Path) -> None:
    """Removes what a kill left half written, but for what others write: folders with a lock of
    their own (steps of a recipe), hidden ones, and checkpoints, which see to it themselves."""
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


def canonical(value: Any) -> str:
    """JSON with sorted keys, for files that are compared."""
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """`optim.learning_rate 0.0001 there, 0.0002 here` for each key that matters and differs."""
    old, new = trees.flatten(there), trees.flatten(here)
    found = []
    for key in sorted(old.keys() | new.keys()):
        values = [json.dumps(flat[key]) if key in flat else "absent" for flat in (old, new)]
        if values[0] != values[1] and not any(re.fullmatch(rule, key) for rule in FREE):
            found.append(f"{key} {values[0]} there, {values[1]} here")
    return found


def recorded(config: ConfigDict | Mapping[str, Any]) -> dict[str, Any]:
    """The config as it is written down and compared: tuples become lists, URLs lose their secrets.

    So a run whose signed URL was signed anew goes on; that it reads the same is seen by content,
    see `identity.py`.
    """
    plain = config.to_dict() if isinstance(config, ConfigDict) else dict(config)
    for key, value in trees.flatten(plain).items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"config.{key}={value!r} cannot be recorded: {error}; expected a finite number, a "
                "string, a boolean or a tuple of them"
            ) from error
    return _without_secrets(json.loads(canonical(plain)))


def _without_secrets(value: Any) -> Any:
    if isinstance(value, str):
        return source_spec.public(value)
    if isinstance(value, list):
        return [_without_secrets(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_secrets(item) for key, item in value.items()}
    return value


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
    """Whether a run with this config was here; False if none was."""
    file = path / "config.json"
    if not file.exists():
        return False
    found = differences(_read_json(file), config)
    if found and not _has_results(path):
        return False  # a start that failed before its first checkpoint keeps nobody out
    if found:
        more = len(found) - _NAMED_KEYS
        listed = "; ".join(found[:_NAMED_KEYS]) + (f"; and {more} more" if more > 0 else "")
        raise ConfigError(
            f"--workdir {path} belongs to another config: {listed}; use another --workdir"
        )
    return True


def _has_results(path: Path) -> bool:
    """Whether a start has left something that a later one goes on from."""
    appended = [
        "metrics.jsonl",
        "judgements.jsonl",
        "steps.jsonl",
        "rounds/*/samples.jsonl",
        "responses/*/*.jsonl",
        "runs/*/metrics.jsonl",
    ]
    written = (file for pattern in appended for file in path.glob(pattern))
    if any(file.stat().st_size > 0 for file in written):
        return True
    checkpoints = path / "checkpoints"
    return checkpoints.is_dir() and any(checkpoints.iterdir())


def _read_json(file: Path) -> dict[str, Any]:
    return files.read_object(file, ConfigError, _ADVICE)


def _starts(file: Path) -> list[dict[str, Any]]:
    starts = _read_json(file).get("starts")
    if not isinstance(starts, list) or not all(isinstance(start, dict) for start in starts):
        raise ConfigError(f"{file}: expected the starts of this run; {_ADVICE}, or remove it")
    return starts


def _acquire(path: Path) -> IO[str]:
    """Locks the folder until the process ends, however it ends.

    A POSIX lock: unlike `flock` it is not inherited by forked data workers, which may outlive a
    killed run, and it holds between the machines of an NFS mount.
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


def _program() -> list[str]:
    """How this process was started, as it would be elsewhere: no path of this machine."""
    if Path(sys.argv[0]).name == "safety-jax":
        return ["safety-jax"]
    return ["python", "-m", "safety_jax.main"]


def _record_start(file: Path) -> None:
    starts = _starts(file) if file.exists() else []
    start = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join([*_program(), *map(source_spec.public, sys.argv[1:])]),
        "python": sys.version.split()[0],
        "versions": versions(),
        "commit": _commit(),
    }
    files.write(file, canonical({"starts": [*starts, start]}))


def versions() -> dict[str, str]:
    """Versions of this package and of the libraries that decide its results."""
    installed = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return {"safety_jax": safety_jax.__version__, **installed}


def _commit() -> str | None:
    """The commit this package is checked out at, `-dirty` if changed; None if it is installed."""
    package = Path(safety_jax.__file__).parent
    # An environment inside some other repository must not be taken for a checkout of this one.
    for command in (
        "ls-files --error-unmatch __init__.py",
        "describe --always --dirty --abbrev=40",
    ):
        try:
            result = subprocess.run(
                ["git", "-C", str(package), *command.split()],
                capture_output=True, text=True, timeout=10, check=True,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError):
            return None
    return result.stdout.strip()
