"""However a process ends, its host and the others say why, in one line; that needs no jax."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from safety_jax import main
from safety_jax.base import supervisor
from tests.children import patience

ROOT = Path(__file__).parent.parent
PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from safety_jax import main
from safety_jax.base import supervisor
from safety_jax.base.errors import DataError

def work(joined):
    joined(("job", int(sys.argv[2]), 2))
    exec(sys.argv[3])

explain = main.explain
code = supervisor.run(work, explain, Path(sys.argv[1]))
assert not {"jax", "numpy"} & set(sys.modules)
sys.exit(code)
"""
WAITS = "time.sleep(600)"
INTERRUPTS = """
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
signal.raise_signal(signal.SIGINT)
"""
KILLED = "killed by SIGKILL; the system does so when memory runs out"
STOPPED = str(main.explain(KeyboardInterrupt()))
# What jaxlib writes when the coordinator is gone.
ABORTS = r"""
time.sleep(0.5)
os.write(2, b"E1121 18:51:18.305723 7 coordination_service_agent.cc:289] Polled an error.\n"
    b"F1121 18:51:18.305880       7 client.h:80] Ends. absl::Status: UNAVAILABLE: gone:\n"
    b"1\nThe tasks have crashed.\n*** Check failure stack trace: ***\n    @     0x7ff81e740634\n")
os.abort()
"""


def start(folder: Path, process: int, code: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), str(process), code],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def end(process: subprocess.Popen) -> tuple[int, str]:
    _, errors = process.communicate(timeout=patience())
    return process.returncode, errors


def worker(process: subprocess.Popen) -> psutil.Process:
    until = time.monotonic() + patience()
    while not (children := psutil.Process(process.pid).children()):
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.01)
    return children[0]


HOST = socket.gethostname()


@pytest.mark.parametrize(
    ("code", "returned", "reason"),
    [
        ("raise DataError('rows.jsonl line 2\\nis empty')", 2, "rows.jsonl line 2 is empty"),
        (INTERRUPTS, 130, STOPPED),
        ("sys.exit(7)", 7, "ended with code 7"),
        ("os.kill(os.getpid(), 9)", 1, KILLED),
        (ABORTS, 1, "killed by SIGTERM"),
    ],
    ids=["user error", "ctrl-c", "exit", "killed", "aborted"],
)
def test_the_cause_is_told_on_both_hosts(code, returned, reason, tmp_path):
    first, second = start(tmp_path, 0, code), start(tmp_path, 1, WAITS)
    if code == ABORTS:  # because of the other host
        time.sleep(1)
        worker(second).send_signal(signal.SIGTERM)
        first, second = second, first
    number = int(first.args[4])
    assert end(first) == (returned, f"error: {reason}\n")
    assert end(second) == (returned, f"error: process {number} on {HOST}: {reason}\n")


def test_a_bug_keeps_its_traceback(tmp_path):
    first, second = start(tmp_path, 0, "1 / 0"), start(tmp_path, 1, WAITS)
    code, errors = end(first)
    assert code == 1 and errors.startswith("Traceback")
    assert errors.endswith("\nerror: ZeroDivisionError: division by zero\n")
    expected = f"error: process 0 on {HOST}: ZeroDivisionError: division by zero\n"
    assert end(second) == (1, expected)


def test_a_host_that_vanishes_is_told_by_jax(tmp_path, monkeypatch):
    """Nobody can tell the cause any more: what jaxlib said of it is the reason."""
    program = PROGRAM.replace("def work", "supervisor.CAUSE_SECONDS = 1.0\ndef work")
    monkeypatch.setattr(sys.modules[__name__], "PROGRAM", program)
    code, errors = end(start(tmp_path, 0, ABORTS))
    assert (code, errors) == (1, "error: jax ended the process: UNAVAILABLE: gone: 1\n")


def test_a_worker_does_not_outlive_its_supervisor(tmp_path):
    process = start(tmp_path, 0, WAITS)
    child = worker(process)
    process.kill()
    process.communicate(timeout=patience())
    child.wait(timeout=patience())


def test_it_passes_on_output_and_the_wish_to_stop(tmp_path):
    code = (
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"
        "print('half a line', end='', file=sys.stderr, flush=True)\n"
    )
    process = start(tmp_path, 0, code + WAITS)
    assert process.stderr.read(11) == "half a line"
    process.terminate()
    assert end(process) == (0, "")
    assert not (tmp_path / supervisor.FOLDER).exists()


def test_what_earlier_starts_left_is_not_believed(tmp_path):
    assert end(start(tmp_path, 1, "sys.exit(3)"))[0] == 3
    kept = tmp_path / supervisor.FOLDER / "job"
    kept.rename(kept.with_name("earlier"))
    assert end(start(tmp_path, 0, "time.sleep(1)")) == (0, "")
    assert not (tmp_path / supervisor.FOLDER).exists()
