"""Several processes, one a host, that run one program: how they meet, what they tell each other.

Every process runs the same Python on the same data, and holds a part of every array. Process 0 does
what only one of them may do (write a file, call a service) or what they could see differently (a
folder, a clock), and tells the others the result: `first_says`.
"""

import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from safety_jax.base.errors import ConfigError

# When a host loses its connection, the others end after this long; when its process dies, within
# seconds.
HEARTBEAT_SECONDS = 60
# At the end of a run all wait for process 0, which writes the card and hashes the export.
SHUTDOWN_SECONDS = 3600


class Place(NamedTuple):
    """How processes find each other where jax cannot tell: `host:port` of the coordinator, the
    number of processes, and the number of this one."""

    coordinator: str
    processes: int
    process: int


class Joined(NamedTuple):
    """A process that has joined its job; `job` is the same for all processes, and new every
    start."""

    job: str
    process: int
    processes: int


def join(place: Place | None) -> Joined:
    """Meets the other processes; must come before anything else of jax.

    Args:
        place: None where jax finds the others itself: TPU slices, Slurm, Kubernetes, Open MPI.

    Raises:
        ConfigError: there is nothing to join. Others that do not come are no mistake of the user's.
    """
    try:
        jax.distributed.initialize(
            # Everything is given, so that jax does not detect Slurm and take one GPU a process.
            **({} if place is None else _arguments(place)),
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except ValueError as error:
        raise ConfigError(
            f"--distributed: jax does not find the other processes ({error}); expected a TPU "
            "slice, Slurm, Kubernetes or Open MPI, or --coordinator, --processes and --process"
        ) from error
    job = first_says(lambda: secrets.token_hex(8))
    return Joined(job, jax.process_index(), jax.process_count())


def _arguments(place: Place) -> dict[str, Any]:
    return {
        "coordinator_address": place.coordinator,
        "num_processes": place.processes,
        "process_id": place.process,
        "cluster_detection_method": "deactivate",
    }


def first_says(ask: Callable[[], Any]) -> Any:
    """Calls `ask` on process 0 and returns its result, which must be JSON, on every process.

    Every process must call this, in the same order.
    """
    if jax.process_count() == 1:
        return ask()
    said = b""
    if jax.process_index() == 0:
        said = json.dumps(ask()).encode()
    with jax.transfer_guard("allow"):  # asked for, whatever the loop around it watches
        length = int(multihost_utils.broadcast_one_to_all(np.int32(len(said))))
        padded = np.zeros(-(-length // _STEP) * _STEP, np.uint8)  # each shape is compiled: few
        padded[: len(said)] = np.frombuffer(said, np.uint8)
        heard = np.asarray(multihost_utils.broadcast_one_to_all(padded))
    return json.loads(heard[:length].tobytes())


_STEP = 1 << 16


def check_shared(done: int, path: Path) -> None:
    """Raises a ConfigError where hosts do not see the same files: each reads what process 0 wrote.

    Args:
        done: what this process found done of `path`.
    """
    first = first_says(lambda: done)
    if first != done:
        raise ConfigError(
            f"{path}: process 0 sees {first} prompts answered, process {jax.process_index()} "
            f"{done}; expected a --workdir that all hosts share"
        )
