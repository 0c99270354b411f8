"""The command: parses a config, and runs the stage that it names.

    safety-jax --config=sft:safety=500 --config.model.path=MODEL --workdir=runs/sit-500

`python -m safety_jax.main` does the same. Errors that a user can cause end in one line each and
exit code 2; any other error is a bug, and shows its traceback. With several hosts, each of them
runs this command with `--distributed`, see launch/README.md.
"""

import errno
import functools
import importlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from safety_jax.base import redaction, terminal
from safety_jax.base.errors import INTERRUPTED, UserError

# All else is imported by the functions that use it: `run` says in one line that Ctrl-C stopped the
# command, also in its first second.
if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from safety_jax.command_line import Command

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
# Of a path that somebody gave, or that a file of somebody names.
_PATH_ERRORS = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.EIO)


def run() -> None:
    """The console entry point."""
    terminal.guard()
    try:
        _run()
    except KeyboardInterrupt as error:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C ends the process at once
        print(f"\n{explain(error)}", file=sys.stderr, flush=True)
        sys.exit(INTERRUPTED)


def _run() -> None:
    from absl import app

    from safety_jax import command_line
    from safety_jax.stages import checks

    try:
        command = command_line.parse(sys.argv)
    except UserError as error:
        fail(str(error))
    # A config that is not complete yet can be shown, but not run.
    problems = checks.problems(command.config, complete=not command.shows)
    if command.shows:
        print(command_line.show(command.config), flush=True)
    if problems:
        fail(*problems)
    if not command.shows:
        # absl sets up its logging; it gets none of the flags.
        app.run(lambda _: main(command), argv=sys.argv[:1])


def fail(*messages: str) -> NoReturn:
    for message in messages:
        line = terminal.clean(redaction.public(" ".join(message.split())))
        print("error:", line, file=sys.stderr)
    sys.exit(2)


def main(command: "Command") -> None:
    """Runs the stage; on several hosts, as the child of a supervisor."""
    if command.distributed:
        from safety_jax.base import supervisor

        job = functools.partial(work, command)
        why = functools.partial(explain, folder=Path(command.workdir))
        sys.exit(supervisor.run(job, why, Path(command.workdir)))
    try:
        work(command, None)
    except Exception as error:
        line = explain(error, Path(command.workdir))
        if line is None:
            raise
        fail(line)


def work(command: "Command", joined: Callable[[Any], None] | None) -> None:
    """Runs the stage.

    Args:
        joined: called with this process's place among the others; None for a process alone.
    """
    from absl import logging

    logging.set_verbosity(logging.WARNING)  # libraries log every file that they write
    # transformers would warn that PyTorch is missing, which nothing here needs.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    import jax  # late, so that a mistyped flag is reported at once

    from safety_jax.base import hosts

    if joined is not None:
        joined(hosts.join(None if command.place is None else hosts.Place(*command.place)))
    run_stage(command.config.stage, command.config, command.workdir)
    jax.distributed.shutdown()  # waits for the others


def run_stage(name: str, config: "ConfigDict", folder: str) -> bool | None:
    """Runs one stage, and imports none of the others. False if it stopped before its end."""
    stage = importlib.import_module(f"safety_jax.stages.{name}")
    if name != "recipe":
        return stage.run(config if name == "plan" else settled(config), folder)
    from safety_jax.stages import schema

    others = [other for other in schema.STAGES if other != name]
    stages = {one: functools.partial(run_stage, one) for one in others}
    return stage.run(config, folder, stages=stages)


def settled(config: "ConfigDict") -> "ConfigDict":
    """The config with the values that it leaves open: number types, and the sizes of an adapter
    that training continues from."""
    import jax

    from safety_jax.stages import continued, precision

    return continued.settled(precision.settled(config, jax.devices()[0].platform))


def explain(error: BaseException, folder: Path | None = None) -> str | None:
    """The line of an error that a user can cause, or of Ctrl-C; None for a bug.

    Args:
        folder: of the run. If a file in it cannot be used, somebody has moved or edited it.
    """
    if isinstance(error, KeyboardInterrupt):
        return (
            "stopped by Ctrl-C; run the same command to continue from what was saved "
            "(SIGTERM instead saves first)"
        )
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        place = f" {error.filename}" if error.filename else ""
        return f"cannot write{place}: {error.strerror}; free space or choose another --workdir"
    if isinstance(error, OSError) and error.errno in _PATH_ERRORS:
        place = error.filename or "a file"
        return (
            f"{place}: {error.strerror}; expected a path that this user can read, and write if it "
            "is a folder of results: change the path, or its permissions"
        )
    if isinstance(error, OSError) and folder is not None and isinstance(error.filename, str):
        if Path(error.filename).absolute().is_relative_to(folder.absolute()):
            return (
                f"--workdir {folder}: {error.filename}: {error.strerror}; expected the folder as "
                "the run left it: was it moved, removed or edited? Restore it, or use another one"
            )
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)[:200]:
        return (
            f"out of memory ({str(error) or 'an array does not fit'!s:.200}); lower the values "
            "that the config file marks as `memory only`, shorten rows, or use more devices"
        )
    return None


if __name__ == "__main__":
    run()
