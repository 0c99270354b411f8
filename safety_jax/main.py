"""Flags -> a locked config -> the stage it names; nothing else.

    python -m safety_jax.main --config=configs/sft.py:safety=500 \\
        --config.model.path=MODEL --workdir=runs/sit-500

What a user can cause ends in one line and exit code 2; anything else is a bug and its traceback.
On several hosts every one of them runs this command with `--distributed`, see launch/README.md.
"""

import errno
import functools
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from safety_jax.base import supervisor
from safety_jax.base.errors import ConfigError, UserError

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The run's config file.", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run; made if it does not exist.", required=True
)
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "One of several hosts: join the others.")
# Where jax cannot find the others by itself; all three or none.
_COORDINATOR = flags.DEFINE_string("coordinator", None, "With --distributed: process 0, host:port.")
_PROCESSES = flags.DEFINE_integer("processes", None, "With --distributed: how many there are.")
_PROCESS = flags.DEFINE_integer("process", None, "With --distributed: which this is, from 0.")
STAGES = ("dpo", "evaluate", "plan", "raft", "reward", "score", "sft")
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


def parse(argv: list[str]) -> list[str]:
    """absl's parser, with every complaint in one line."""
    flags.mark_flag_as_required("config")
    try:
        rest = flags.FLAGS(argv)
        _ = _CONFIG.value.stage  # a file that cannot be loaded only says so when it is looked at
        return rest
    except (AttributeError, KeyError) as error:
        key = str(error.args[0]).splitlines()[0]
        fail(f"the config has no key {key}; every key is in the file that --config names")
    except (flags.Error, OSError, SyntaxError, TypeError, ValueError) as error:
        # Of an error raised inside a config file, only its last line is for people.
        fail(str(error).rpartition("ValueError: ")[2].rpartition("failure to load: ")[2])


def fail(message: str) -> NoReturn:
    print("error:", " ".join(message.split()), file=sys.stderr)
    sys.exit(2)


def explain(error: BaseException) -> str | None:
    """The line of an error that a user can cause; None for a bug."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        place = f" {error.filename}" if error.filename else ""
        return f"cannot write{place}: {error.strerror}; free space or choose another --workdir"
    return None


def run_stage(name: str, config: ConfigDict, workdir: str) -> None:
    """Imports the one stage that is asked for, and runs it."""
    run = importlib.import_module(f"safety_jax.stages.{name}").run
    if name == "recipe":
        run(config, workdir, {each: functools.partial(run_stage, each) for each in STAGES})
    else:
        run(config, workdir)


def work(joined: Callable[[Any], None] | None) -> None:
    """Runs the stage.

    Args:
        joined: told of this process among the others; None for a process alone.
    """
    logging.set_verbosity(logging.WARNING)  # libraries tell every file they write
    # Nothing here misses PyTorch, which transformers says was not found.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    # Late, so that a mistyped flag is told at once.
    import jax

    from safety_jax.base import hosts

    config = _CONFIG.value
    if config.stage not in (*STAGES, "recipe"):
        known = ", ".join((*STAGES, "recipe"))
        raise ConfigError(f"config.stage {config.stage!r}: expected one of {known}")
    if joined is not None:
        coordinator, processes, process = _COORDINATOR.value, _PROCESSES.value, _PROCESS.value
        place = None
        if coordinator is not None and processes is not None and process is not None:
            place = hosts.Place(coordinator, processes, process)
        joined(hosts.join(place))
    run_stage(config.stage, config, _WORKDIR.value)
    jax.distributed.shutdown()  # waits for the others


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        fail(f"unexpected argument {argv[1]!r}; values are set as --config.group.key=value")
    given = [value is not None for value in (_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)]
    if any(given) and not (all(given) and _DISTRIBUTED.value):
        fail("--coordinator, --processes and --process belong together, and to --distributed")
    if _DISTRIBUTED.value:
        sys.exit(supervisor.run(work, explain, Path(_WORKDIR.value)))
    try:
        work(None)
    except Exception as error:
        line = explain(error)
        if line is None:
            raise
        fail(line)


def run() -> None:
    """The console entry point."""
    app.run(main, flags_parser=parse)


if __name__ == "__main__":
    run()
