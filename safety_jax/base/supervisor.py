"""The parent of each process of a run on several hosts: it waits, and reports why the run ended.

A process that uses accelerators may be unable to report that itself: the system may kill it when
memory runs out, jax may abort it because another host is gone, or it may wait in a collective that
never ends. So it runs as the child of a supervisor, which needs only the disk that all hosts share:

    WORKDIR/.hosts/JOB/1.json    {"process": 1, "host": ..., "reason": ..., "code": ...}

If a process fails, its supervisor writes such a file. The other supervisors find it, end their own
processes, and print the reason. If a host vanishes with its supervisor, jax's heartbeats notice it.
"""

import contextlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from safety_jax.base.errors import INTERRUPTED

FOLDER = ".hosts"
USER_ERROR, OTHER_ERROR = 2, 1  # exit codes
LOOK_SECONDS = 0.5
# How long to wait for the cause after an error that probably comes from another host.
CAUSE_SECONDS = 15.0

# Words in errors that are only consequences of a failure on another host.
_ECHO = re.compile(r"Gloo|NCCL|coordination service|heartbeat|UNAVAILABLE|DEADLINE_EXCEEDED")
# jaxlib prints lines like these, and a page of addresses, when it ends a process.
_ABORT = re.compile(
    rb"F\d{4} [\d:.]{15} |[EW]\d{4} [\d:.]{15} [^\n]*(?:coordination_service|preemption_sync)"
)
_STATUS = re.compile(r"absl::Status: (.+?)(?:\n\D|$)", re.DOTALL)


def run(
    work: Callable[[Callable[[Any], None]], None],
    explain: Callable[[BaseException], str | None],
    workdir: Path,
) -> int:
    """Runs `work` in its own process, and returns the exit code when this has ended.

    Args:
        work: receives a function, which it calls with `hosts.Joined` once it has joined the others.
        explain: gives the one-line message of an error that a user can cause, and None for others.
        workdir: the folder of the run, on a disk that all hosts share.
    """
    fork = multiprocessing.get_context("fork")  # safe, because jax is not imported yet
    ours, theirs = fork.Pipe()
    errors, its_errors = os.pipe()

    def begin() -> None:
        ours.close()
        os.close(errors)
        os.dup2(its_errors, 2)
        _work(work, explain, theirs)

    child = fork.Process(target=begin)
    child.start()
    theirs.close()
    os.close(its_errors)
    # SIGTERM is passed on to the child, and this process continues to wait for it.
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child.pid or 0, signal.SIGTERM))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to both
    return _Watch(child, ours, _Relay(errors), workdir).run()


# ---------------------------------------------------------------------------- the child


def _work(
    work: Callable[[Callable[[Any], None]], None],
    explain: Callable[[BaseException], str | None],
    line: Connection,
) -> None:
    threading.Thread(target=_end_with_supervisor, args=(line,), daemon=True).start()
    try:
        # A plain tuple, because the supervisor would have to import jax for the type.
        work(lambda joined: line.send({"joined": tuple(joined)}))
        return
    except (Exception, KeyboardInterrupt) as error:
        known, last = explain(error), f"{type(error).__name__}: {error}"
        echo = known is None and bool(_ECHO.search(last))
        if known is None and not echo:
            traceback.print_exc()
        code = OTHER_ERROR if known is None else USER_ERROR
        if isinstance(error, KeyboardInterrupt):  # the terminal sends it to every process in it
            code = INTERRUPTED
        line.send({"reason": " ".join((known or last).split()), "code": code, "echo": echo})
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a normal exit would wait for the other hosts


def _end_with_supervisor(line: Connection) -> None:
    with contextlib.suppress(EOFError, OSError):
        line.recv()  # nothing is ever sent, so this ends only when the supervisor is gone
    os._exit(OTHER_ERROR)


# ---------------------------------------------------------------------------- the supervisor


class _Relay:
    """Passes the child's stderr on, except for jaxlib's last page, which it keeps."""

    def __init__(self, source: int):
        self._source, self.last = source, b""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while data := os.read(self._source, 1 << 16):
            if not self.last and (found := _ABORT.search(data)):
                data, self.last = data[: found.start()], data[found.start() :]
            elif self.last:
                self.last += data
                continue
            with contextlib.suppress(OSError):  # stderr is closed; jax's last page still matters
                os.write(2, data)

    def finish(self) -> None:
        self._thread.join(timeout=5)  # a grandchild may hold the pipe open

    def aborted(self) -> str | None:
        """Why jaxlib ended the child, if it did."""
        self.finish()
        text = self.last.decode(errors="replace")
        if not text:
            return None
        status = _STATUS.search(text)
        return " ".join((status.group(1) if status else text.splitlines()[0]).split())


class _Watch:
    def __init__(self, child: Any, line: Connection, relay: _Relay, workdir: Path):
        self._child, self._line, self._relay, self._workdir = child, line, relay, workdir
        self._folder: Path | None = None
        self._process = -1
        self._told: dict[str, Any] | None = None

    def run(self) -> int:
        while self._child.is_alive():
            wait([self._child.sentinel, *self._open()], timeout=LOOK_SECONDS)
            self._listen()
            if cause := self._cause():
                self._child.kill()
                self._child.join()
                return self._end(cause)
        self._listen()
        if self._child.exitcode == 0:
            return 0
        failure = self._failure()
        if failure["echo"] and (cause := self._wait_for_cause()):
            return self._end(cause)
        self._publish(failure)
        return self._end(failure)

    def _open(self) -> list[Connection]:
        return [] if self._line.closed else [self._line]

    def _listen(self) -> None:
        """Receives the child's messages."""
        try:
            while not self._line.closed and self._line.poll():
                said = self._line.recv()
                if "joined" in said:
                    job, self._process, _ = said["joined"]
                    self._folder = self._workdir / FOLDER / job
                    if self._process == 0:
                        self._clear()
                else:
                    self._told = said
        except (EOFError, OSError):
            self._line.close()

    def _clear(self) -> None:
        """Removes files of earlier starts."""
        for folder in (self._workdir / FOLDER).glob("*"):
            if folder != self._folder:
                shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            (self._workdir / FOLDER).rmdir()

    def _failure(self) -> dict[str, Any]:
        told = self._told or {"code": OTHER_ERROR, "echo": False}
        if "reason" not in told:
            aborted, code = self._relay.aborted(), self._child.exitcode
            if aborted is not None:
                told |= {"reason": f"jax ended the process: {aborted}", "echo": True}
            elif code < 0:
                name = signal.Signals(-code).name
                hint = "; the system does so when memory runs out" if name == "SIGKILL" else ""
                told["reason"] = f"killed by {name}{hint}"
            else:
                told |= {"reason": f"ended with code {code}", "code": code}
        return told | {"process": self._process, "host": socket.gethostname()}

    def _publish(self, failure: dict[str, Any]) -> None:
        if self._folder is None:
            return  # it has not joined the others yet
        with contextlib.suppress(OSError):  # the failure may itself be that of the disk
            self._folder.mkdir(parents=True, exist_ok=True)
            part = self._folder / f"{self._process}.part"
            part.write_text(json.dumps(failure))
            part.replace(part.with_suffix(".json"))

    def _cause(self) -> dict[str, Any] | None:
        """The failure of another process, if one has reported it."""
        files = sorted(self._folder.glob("*.json")) if self._folder else []
        found = [json.loads(file.read_text()) for file in files]
        return next((cause for cause in found if not cause["echo"]), found[0] if found else None)

    def _wait_for_cause(self) -> dict[str, Any] | None:
        until = time.monotonic() + CAUSE_SECONDS
        while self._folder is not None and time.monotonic() < until:
            if cause := self._cause():
                return cause
            time.sleep(LOOK_SECONDS)
        return None

    def _end(self, failure: dict[str, Any]) -> int:
        self._relay.finish()
        own = failure["process"] == self._process
        where = "" if own else f"process {failure['process']} on {failure['host']}: "
        print(f"error: {where}{failure['reason']}", file=sys.stderr, flush=True)
        return failure["code"]
