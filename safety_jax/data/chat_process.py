"""Talks to the process that runs chat templates (`chat_worker.py`), and starts it when needed.

One process serves all templates of a run. It is another program, not a fork, which JAX's threads
would not survive, and it does not import JAX.
"""

import atexit
import contextlib
import dataclasses
import datetime
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_WORKER = Path(__file__).with_name("chat_worker.py")
_JOBS_PER_REQUEST = 256  # the process reads a request whole before it begins
_SECONDS_TO_END = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """A text to write.

    Attributes:
        variables: the template's variables; JSON values.
        date: the day that the template gets when it asks for the time.
        marks: texts to put in front of and behind each `{% generation %}` block.
    """

    variables: Mapping[str, Any]
    date: datetime.date
    marks: tuple[str, str] = ("", "")


@dataclasses.dataclass(frozen=True, slots=True)
class Rendered:
    """The result of a job.

    Attributes:
        fault: why there is no text, in words; or "".
        dated: the template has asked for the time.
    """

    text: str
    fault: str = ""
    dated: bool = False


class RunawayTemplate(Exception):
    """A template that loops or writes without an end; `job` is the number of the job."""

    def __init__(self, why: str, job: int):
        super().__init__(why)
        self.job = job


def render(source: str, jobs: Sequence[Job]) -> list[Rendered]:
    """The texts of some jobs of a template, in order.

    Raises:
        RunawayTemplate: a text takes too long or too much memory.
    """
    found: list[Rendered] = []
    for start in range(0, len(jobs), _JOBS_PER_REQUEST):
        asked = [_as_json(job) for job in jobs[start : start + _JOBS_PER_REQUEST]]
        for answer in _ask({"template": source, "jobs": asked}, len(asked), start):
            fault = answer.get("fault", "")
            found.append(Rendered(answer.get("text", ""), fault, answer.get("dated", False)))
    return found


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
    """What the source of a template tells about it.

    Attributes:
        sought: strings that it looks for in messages, such as `</think>`.
        fields: names that it looks up in its variables, such as `content`.
    """

    sought: frozenset[str]
    fields: frozenset[str]


def read(source: str) -> Reading:
    """Parses a template.

    Raises:
        ValueError: it is not a template; the message says why.
        RunawayTemplate: it cannot be parsed within the limits.
    """
    (answer,) = _ask({"load": source}, 1, 0)
    if "fault" in answer:
        raise ValueError(answer["fault"])
    return Reading(frozenset(answer["sought"]), frozenset(answer["fields"]))


def _as_json(job: Job) -> dict[str, Any]:
    return {"date": job.date.isoformat(), "marks": job.marks, "variables": job.variables}


# ---------------------------------------------------------------------------- the process

_lock = threading.Lock()
_running: tuple[int, subprocess.Popen] | None = None  # with the id of the process that started it


def _ask(request: Mapping[str, Any], answers: int, first: int) -> list[dict[str, Any]]:
    with _lock:
        process = _process()
        asking, answering = process.stdin, process.stdout
        assert asking is not None and answering is not None
        lines: list[bytes] = []
        with contextlib.suppress(BrokenPipeError):
            asking.write(json.dumps(request).encode() + b"\n")
            asking.flush()
            lines = [line for _, line in zip(range(answers), answering, strict=False)]
        found = [json.loads(line) for line in lines if line.endswith(b"\n")]
        for number, answer in enumerate(found):
            if "spent" in answer:
                _stop()
                raise RunawayTemplate(answer["spent"], first + number)
        if len(found) < answers:
            raise RunawayTemplate(_reason(_stop()), first + len(found))
    return found


def _process() -> subprocess.Popen:
    global _running
    if _running is None or _running[0] != os.getpid():  # a fork must not use its parent's pipes
        process = subprocess.Popen(
            [sys.executable, "-P", str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        _running = os.getpid(), process
    return _running[1]


@atexit.register
def _stop() -> int | None:
    """Ends the process, if there is one; returns how it ended."""
    global _running
    if _running is None or _running[0] != os.getpid():
        return None
    process, _running = _running[1], None
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()  # the process ends when its input does
    try:
        return process.wait(timeout=_SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _reason(code: int | None) -> str:
    if code == -signal.SIGPROF:
        return "it does not come to an end"
    return f"the process that runs it has ended with code {code}"
