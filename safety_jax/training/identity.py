"""Hashes of everything a run reads: a run continues only with the contents that it began with.

    identity.json   {"data.train rows.jsonl": "sha256 …", "model.path SmolLM2": "sha256 …", …}

A config names files, whose contents may change between a kill and the next start. So every start
hashes what it reads and compares with the hashes of the first start.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from safety_jax.base import files
from safety_jax.base.errors import ConfigError, few

FILE = "identity.json"
SHOWN = 12  # digits of a hash in a message
NAMED = 3  # a message names this many changes and counts the others


def known(folder: Path) -> dict[str, str]:
    """The hashes that earlier starts of a run recorded; empty if there are none.

    Raises:
        ConfigError: the file is damaged.
    """
    advice = "remove it, and what this start reads counts as what the run began with"
    try:
        found = files.read_object(folder / FILE, ConfigError, advice)
    except FileNotFoundError:
        return {}
    if not all(isinstance(value, str) for value in found.values()):
        raise ConfigError(f"{folder / FILE}: expected texts; {advice}")
    return found


def changes(there: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """`data.train rows.jsonl: 5891b5b522d5 then, e3b0c44298fc now`, for each hash that differs."""
    return [
        f"{name}: {_short(there[name])} then, {_short(value)} now"
        for name, value in here.items()
        if name in there and there[name] != value
    ]


def refuse(folder: Path, found: list[str]) -> ConfigError:
    """The error of a run that would continue with other contents."""
    return ConfigError(
        f"--workdir {folder} began with other contents: {few(found, NAMED, '; ')}; a run "
        "goes on only with what it began with: put that back, or use another --workdir"
    )


def sha256(*parts: str | bytes) -> str:
    """A hash (hex) of a sequence of texts; where one ends and the next begins counts."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def _short(value: str) -> str:
    return value[:SHOWN] if len(value) == 64 else value
