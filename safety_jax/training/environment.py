"""Records time, command, versions and commit of each start of a run: its `environment.json`."""

import datetime
import importlib.metadata
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import safety_jax
from safety_jax.base import files
from safety_jax.base.errors import ConfigError
from safety_jax.data import source_spec

_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "transformers")
ADVICE = "put the file back, or use another --workdir"


def record_start(file: Path) -> None:
    """Adds this start to those in the file."""
    earlier = starts(file) if file.exists() else []
    start = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join([*_program(), *map(source_spec.public, sys.argv[1:])]),
        "python": sys.version.split()[0],
        "versions": versions(),
        "commit": _commit(),
    }
    files.write(file, files.canonical({"starts": [*earlier, start]}))


def starts(file: Path) -> list[dict[str, Any]]:
    """One entry for each start, oldest first.

    Raises:
        ConfigError: the file is damaged.
    """
    found = files.read_object(file, ConfigError, ADVICE).get("starts")
    if not isinstance(found, list) or not all(isinstance(start, dict) for start in found):
        raise ConfigError(f"{file}: expected the starts of this run; {ADVICE}, or remove it")
    return found


def versions() -> dict[str, str]:
    """Versions of this package and of the libraries that decide its results."""
    installed = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return {"safety_jax": safety_jax.__version__, **installed}


def _program() -> list[str]:
    """The command that started this process, without paths of this machine."""
    if Path(sys.argv[0]).name == "safety-jax":
        return ["safety-jax"]
    return ["python", "-m", "safety_jax.main"]


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
