"""Commands that tests start as a user does: their flags, their end, and how long they may take."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ml_collections import ConfigDict

from safety_jax.training import metrics

ROOT = Path(__file__).parent.parent


def patience() -> float:
    """Seconds after which a process hangs: ten minutes where it has a processor of its own.

    Nothing is measured by it; a machine with other work has all the time it needs.
    """
    return 600 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def command_of(config: ConfigDict) -> list[str]:
    """The command line of a run with this config."""
    values = json.loads(config.to_json_best_effort())
    flags = [f"--config.{k}={v}" for k, v in values.items() if not isinstance(v, dict)]
    for group, members in config.to_dict().items():
        if isinstance(members, dict):
            flags += [
                f"--config.{group}.{key}={value}"
                for key, value in members.items()
                if not isinstance(value, dict)
            ]
    flags = [flag for flag in flags if "protocol_notes" not in flag and "stage" not in flag]
    return [sys.executable, "-m", "safety_jax.main", f"--config=configs/{config.stage}.py", *flags]


def start(command: list[str], **variables: str) -> subprocess.Popen:
    """The command, at the root of the checkout.

    Args:
        variables: of the environment, beside those of the tests.
    """
    return subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **variables}, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def end(process: subprocess.Popen) -> tuple[int, str]:
    """Its exit code and what it complained of."""
    try:
        _, errors = process.communicate(timeout=patience())
    finally:
        process.kill()
    return process.returncode, errors


def kill(process: subprocess.Popen) -> None:
    """As the system does when memory runs out."""
    process.send_signal(signal.SIGKILL)
    assert end(process)[0] == -signal.SIGKILL


def wait_until(happened: Callable[[], bool], process: subprocess.Popen) -> None:
    """Returns at once when something has happened, seen from outside, while the process lives."""
    until = time.monotonic() + patience()
    while not happened():
        assert process.poll() is None, f"it ended: {process.communicate()[1]}"
        assert time.monotonic() < until, "it hangs"
        time.sleep(0.002)


def wait_for_step(process: subprocess.Popen, folder: Path, step: int) -> None:
    """Returns once the step is in the metrics: a moment somewhere behind it, often in a save."""
    file = folder / "metrics.jsonl"
    wait_until(
        lambda: file.exists() and any(row["step"] >= step for row in metrics.read(file)), process
    )
