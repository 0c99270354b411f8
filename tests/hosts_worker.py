"""One of several processes of a test: joins the others, then runs stages one after the other.

    python -m tests.hosts_worker HOST:PORT PROCESSES PROCESS FILE

FILE holds the arguments of the stages, as JSON: [[stage, config, workdir], ...].
"""

import importlib
import json
import sys
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from safety_jax.base import hosts, meshes


def check_rows() -> None:
    """Rows arrive where they belong, however the mesh lies over the hosts."""
    devices = np.array(jax.devices())
    interleaved = devices.reshape(2, 4).T
    for laid, shape in ((devices, (8, 1, 1)), (interleaved, (8, 1, 1)), (interleaved, (4, 1, 2))):
        mesh = jax.sharding.Mesh(laid.reshape(shape), meshes.AXES)
        rows = np.arange(3 * 16 * 2).reshape(3, 16, 2)
        here = meshes.rows_here(mesh, 16)
        assert len(here) == (16 if shape[2] == 2 else 8)
        placed = meshes.put_rows(mesh, (None, "rows", None), rows[:, list(here)], 16)
        np.testing.assert_array_equal(
            multihost_utils.process_allgather(placed, tiled=True), rows, str(laid)
        )


def main(coordinator: str, processes: str, process: str, file: str) -> None:
    joined = hosts.join(hosts.Place(coordinator, int(processes), int(process)))
    assert (joined.processes, joined.process) == (int(processes), int(process))
    assert hosts.first_says(lambda: [joined.process, "ü" * 100_000]) == [0, "ü" * 100_000]
    check_rows()
    for stage, config, workdir in json.loads(Path(file).read_text()):
        run = importlib.import_module(f"safety_jax.stages.{stage}").run
        run(ConfigDict(json.loads(config)).lock(), workdir)
    jax.distributed.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
