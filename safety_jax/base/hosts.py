"""Several processes, one per host, that run the same program: how they meet and communicate.

Every process runs the same Python code on the same data, and stores a part of every array. Process
0 does what only one of them may do (write a file, call a service), or what they might see
differently (a folder, a clock), and sends the result to the others: `first_says`.
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

# The others end after this time if a host loses its connection, and within seconds if its process
# dies.
HEARTBEAT_SECONDS = 60
# At the end of a run all wait for process 0, which writes the card and hashes the export.
SHUTDOWN_SECONDS = 3600


class Place(NamedTuple):
    """How processes find each other if jax cannot detect it: `host:port` of the coordinator, the
    number of processes, and the number of this one."""

    coordinator: str
    processes: int
    process: int


class Joined(NamedTuple):
    """A process that has joined its job; `job` is the same for all processes, and new in every
    start."""

    job: str
    process: int
    processes: int


def join(place: Place | None) -> Joined:
    """Joins the other processes. Call it before anything else of jax.

    Args:
        place: None if jax finds the others itself: TPU slices, Slurm, Kubernetes, Open MPI.

    Raises:
        ConfigError: there is nothing to join. (If others do not come, the error is jax's, because
            it is not the user's mistake.)
    """
    try:
        jax.distributed.initialize(
            # All arguments, because jax would otherwise detect Slurm and use one GPU per process.
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
    with jax.transfer_guard("allow"):  # a transfer on purpose, which a guard must not report
        length = int(multihost_utils.broadcast_one_to_all(np.int32(len(said))))
        padded = np.zeros(-(-length // _STEP) * _STEP, np.uint8)  # few shapes to compile
        padded[: len(said)] = np.frombuffer(said, np.uint8)
        heard = np.asarray(multihost_utils.broadcast_one_to_all(padded))
    return json.loads(heard[:length].tobytes())


_STEP = 1 << 16


def check_shared(done: int, path: Path) -> None:
    """Raises a ConfigError if hosts do not see the same files: each reads what process 0 wrote.

    Args:
        done: how many prompts in `path` are answered, as this process sees it.
    """
    first = first_says(lambda: done)
    if first != done:
        raise ConfigError(
            f"{path}: process 0 sees {first} prompts answered, process {jax.process_index()} "
            f"{done}; expected a --workdir that all hosts share"
        )
