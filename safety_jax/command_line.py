"""The command line: `--config=NAME:ARGUMENTS`, values of the config, and the folder of the run."""

import dataclasses
import difflib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from safety_jax import __version__
from safety_jax.base import files, redaction, settings, trees
from safety_jax.base.errors import ConfigError
from safety_jax.data import source_lists
from safety_jax.stages import checks, config_comments, config_files

USAGE = """\
safety-jax --config=NAME[:ARGUMENTS] --workdir=FOLDER [--config.KEY=VALUE ...]

Each config runs one stage. For a config file of your own, give its path.

{configs}

Flags:
  --config=NAME[:ARGUMENTS]   the config to run; separate its arguments by commas
  --config.KEY=VALUE          change a value of the config
  --config=NAME --help        explain the config, its arguments and all its keys
  --config=NAME --show        print the complete config and exit
  --workdir=FOLDER            write everything to FOLDER; the same command resumes the run
  --distributed               join the other hosts of the same run
  --coordinator=HOST:PORT --processes=N --process=I
                              tell --distributed where the hosts are if JAX cannot find them
  --version                   print the version and exit

Examples:
  safety-jax --config=sft:demo --workdir=runs/demo
  safety-jax --config=dpo:paper=report --config.data.train=PAIRS.jsonl --workdir=runs/dpo
"""
FLAGS = tuple(dict.fromkeys(re.findall(r"--(\w+)", USAGE)))
_OVERRIDE = re.compile(r"--?(no)?config\.([^=]*)")
_NEGATED = re.compile(r"--?no(show|distributed|config\.[^=]*)=.*", re.DOTALL)
_QUOTED = ("'", '"', "(", "[")
_BAD_VALUE = re.compile(r"flag --config\.([\w.]+)=(.*?): .*", re.DOTALL)
# Flags of the command that are no texts.
_BAD_FLAG = re.compile(r"flag --(show|distributed|processes|process)=(.*?): .*", re.DOTALL)
_FLAG = re.compile(r"--?(?:no)?(\w[\w.-]*)(?:=.*)?", re.DOTALL)
_HELP = re.compile(r"-h|--?help(short|full)?")
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):(\d+)")


@dataclasses.dataclass(frozen=True)
class Command:
    """The content of a command line.

    Attributes:
        config: locked, with the values of the flags.
        workdir: the folder of the run, without `~`, which shells leave behind `=`; may be "" with
            `shows`.
        shows: whether the config is printed, and nothing runs.
        distributed: whether this is one of several hosts.
        place: (coordinator, processes, process) if jax does not find the other hosts itself.
    """

    config: ConfigDict
    workdir: str
    shows: bool
    distributed: bool
    place: tuple[str, int, int] | None


def parse(argv: Sequence[str]) -> Command:
    """Reads the command line. `--help`, `--version` and an empty command line print and exit.

    Raises:
        ConfigError: a flag cannot be used, or a config cannot be read.
    """
    values = flags.FlagValues()
    try:
        words = values.read_flags_from_files(list(argv[1:]), force_gnu=False)
        spec, words = take_config(words)
        if "--version" in words:
            leave(f"safety_jax {__version__}")
        helps = any(_HELP.fullmatch(word) for word in words)
        if spec is None:
            if helps or not words:
                leave(overview())
            raise ConfigError(without_config(words))
        config = config_files.load(spec)
        if helps:
            leave(explain_config(config, config_files.find(spec, "")[0]))
        check_keys(config, words)
        words = quote_texts(config, words)
        define(values, config, words)
        rest = values([argv[0], *words])
    except flags.UnrecognizedFlagError as error:
        keys = [f"config.{key}" for key in trees.flatten(config.to_dict())]
        raise ConfigError(unknown(error.flagname, [*FLAGS, *keys])) from error
    except flags.IllegalFlagValueError as error:
        raise ConfigError(explain(str(error), config)) from error
    except flags.Error as error:
        raise ConfigError(str(error)) from error
    if len(rest) > 1:
        raise ConfigError(
            f"unexpected argument {rest[1]!r}; values are set as --config.group.key=value"
        )
    return read(values, config)


def leave(text: str) -> None:
    print(text, flush=True)
    sys.exit(0)


def unknown(name: str, known: Sequence[str]) -> str:
    """What to say of a flag that does not exist."""
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean --{close[0]}? " if close else ""
    return f"no flag is called --{name}; {hint}see --help"


def without_config(words: Sequence[str]) -> str:
    """What to say where no word is `--config`: it may be misspelled, as other flags may be;
    `safety-jax sft` names one all the same."""
    for word in words:
        flag = _FLAG.fullmatch(word)
        if flag and not _OVERRIDE.match(word) and flag[1] not in FLAGS:
            return unknown(flag[1], FLAGS)
    names = config_files.available()
    named = next((word for word in words if word.partition(":")[0] in names), None)
    hint = f"did you mean --config={named}? " if named else ""
    return (
        f"--config is missing; {hint}expected one of {', '.join(names)}, or the path of your own "
        "config file"
    )


def take_config(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """The value of `--config`, and the other words."""
    found: list[str] = []
    others: list[str] = []
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if name not in ("--config", "-config"):
            others.append(word)
            continue
        found.append(value if equals else next(rest, ""))
    if len(found) > 1:
        raise ConfigError(f"--config is given {len(found)} times; expected one config per run")
    return (found[0] if found else None), others


def check_keys(config: ConfigDict, words: Sequence[str]) -> None:
    """Refuses a flag that sets no key of the config, or its stage: all other keys depend on it."""
    known = trees.flatten(config.to_dict())
    for word in words:
        if negated := _NEGATED.fullmatch(word):
            raise ConfigError(f"{word}: --no takes no value; expected --{negated[1]}=false")
        match = _OVERRIDE.match(word)
        if match and match[2] == "stage":
            raise ConfigError(
                f"--config.stage: the stage is the config's own, {config.stage}; for another one, "
                "give another --config"
            )
        if match and match[2] not in known and not any(k.startswith(f"{match[2]}.") for k in known):
            close = difflib.get_close_matches(match[2], known, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise ConfigError(f"the config has no key {match[2]!r}; {hint}--show lists all keys")


def quote_texts(config: ConfigDict, words: Sequence[str]) -> list[str]:
    """Quotes the values of flags that are tuples of texts: unquoted ones with commas between them
    (`--config.data.train=mine.jsonl,more.jsonl?rows=100`), also if they look like numbers. Without
    a value (`--config.score.stored=`), any tuple is empty."""
    known, table = trees.flatten(config.to_dict()), checks.table(config)
    found = []
    rest = iter(words)
    for word in rest:
        match, (flag, equals, value) = _OVERRIDE.match(word), word.partition("=")
        if match and isinstance(known.get(match[2]), tuple):
            if not equals and (following := next(rest, None)) is not None:
                word, equals, value = f"{flag}={following}", "=", following
            setting = checks.setting_of(table, match[2])
            if equals and not value:
                word = f"{flag}=()"
            elif value and isinstance(setting, settings.Texts) and not value.startswith(_QUOTED):
                texts = source_lists.split(value) if setting.listed else [value]
                word = f"{flag}={tuple(texts)!r}"
        found.append(word)
    return found


def define(values: flags.FlagValues, config: ConfigDict, words: Sequence[str]) -> None:
    """Defines the flags of this command, and one for each key of the config in `words`."""
    flags.DEFINE_string("workdir", None, "The folder of the run.", flag_values=values)
    flags.DEFINE_bool("show", False, "Print the config and exit.", flag_values=values)
    flags.DEFINE_bool("distributed", False, "Join the other hosts of the run.", flag_values=values)
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0.", flag_values=values)
    flags.DEFINE_integer("processes", None, "The number of processes.", flag_values=values)
    flags.DEFINE_integer("process", None, "The number of this process, from 0.", flag_values=values)
    config_flags.DEFINE_config_dict(
        "config", config, lock_config=True, flag_values=values, sys_argv=list(words)
    )


def explain(text: str, config: ConfigDict) -> str:
    """absl's message; if a value does not fit its flag, one with what is expected."""
    if flag := _BAD_FLAG.fullmatch(text):
        wanted = "a whole number" if flag[1].startswith("process") else "true or false"
        return f"--{flag[1]} is {flag[2]!r}; expected {wanted}"
    match = _BAD_VALUE.fullmatch(text)
    if match is None:
        return text
    key, value = match.groups()
    return f"{key} is {value!r}; expected {checks.expected(config, key)}"


def read(values: flags.FlagValues, config: ConfigDict) -> Command:
    """Reads the flags that are not values of the config.

    Raises:
        ConfigError: flags do not fit together, or a value is outside its range.
    """
    workdir = str(files.expand(values.workdir)) if values.workdir else ""
    if not workdir and not values.show:
        raise ConfigError("--workdir is missing; expected the folder of the run, such as runs/dpo")
    given = (values.coordinator, values.processes, values.process)
    place = None
    if any(value is not None for value in given):
        if None in given or not values.distributed:
            raise ConfigError(
                "--coordinator, --processes and --process belong together, and to --distributed"
            )
        place = given
        check_place(*place)
    return Command(config, workdir, values.show, values.distributed, place)


def check_place(coordinator: str, processes: int, process: int) -> None:
    address = _ADDRESS.fullmatch(coordinator)
    if not address or not 0 < int(address[2]) < 1 << 16:
        raise ConfigError(f"--coordinator {coordinator!r}: expected HOST:PORT of process 0")
    if not 0 <= process < processes:
        raise ConfigError(
            f"--processes {processes}, --process {process}: expected process to count from 0 to "
            "processes - 1"
        )


# ---------------------------------------------------------------------------- for people


def overview() -> str:
    """What `--help` prints: configs with their arguments, flags, examples."""
    lines = []
    for name, path in config_files.available().items():
        opening = config_files.read_opening(path)
        lines.append(f"  {name:10}{opening.summary}")
        if opening.arguments:
            lines.append(f"{'':12}:{', '.join(opening.arguments)}")
    return USAGE.format(configs="\n".join(lines)).rstrip()


def explain_config(config: ConfigDict, path: Path) -> str:
    """What `--config=NAME --help` prints: the file's docstring, and all keys with their meaning."""
    meanings = config_comments.of_config(config, path)
    lines = []
    for key, line in zip(checks.values(config), show(config).splitlines(), strict=True):
        lines.append(line)
        if key in meanings:
            lines.append(f"    {meanings[key]}")
    return f"{config_files.read_opening(path).text}\n\nKeys:\n" + "\n".join(lines)


def show(config: ConfigDict) -> str:
    """All keys with their values, without secrets in URLs, and with the expected values."""
    values = checks.values(config)
    width = max(map(len, values))
    texts = {key: redaction.public(f"{key:{width}} = {value!r}") for key, value in values.items()}
    return "\n".join(f"{text:60}  # {checks.expected(config, key)}" for key, text in texts.items())
