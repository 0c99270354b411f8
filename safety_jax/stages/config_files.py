"""Config files: finds them by name or path, runs them, and reads their docstrings.

    sft                    configs/sft.py, which ships with the package
    dpo:paper=report       configs/dpo.py with an argument
    configs/dpo.py         the file at this path; if there is none, the one that ships
    ~/mine.py:demo         a file of your own, anywhere

Any of them may import `configs.common` and the other shipped configs. A file in a folder called
`configs` imports its neighbours first, so that a copy of the whole folder works.
"""

import ast
import dataclasses
import difflib
import importlib.machinery
import importlib.util
import re
import sys
import types
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from safety_jax.base import assets, files
from safety_jax.base.errors import ConfigError, UserError

FOLDER = "configs"
# Modules that configs import, which are no configs: what several share, parts of a long recipe.
_SHARED = re.compile(r"common|recipe_\w+|__init__")
_MODULE = "safety_jax_config_file"  # the name a config file runs under


@dataclasses.dataclass(frozen=True)
class Opening:
    """The docstring of a config file.

    Attributes:
        summary: its first line.
        arguments: what may follow the colon: `demo`, `safety=N`.
        text: all of it.
    """

    summary: str
    arguments: tuple[str, ...]
    text: str


def available() -> dict[str, Path]:
    """The configs that ship with the package, by the name that `--config` takes."""
    files = sorted((assets.root() / FOLDER).glob("*.py"))
    return {file.stem: file for file in files if not _SHARED.fullmatch(file.stem)}


def read_opening(path: Path) -> Opening:
    """The docstring of a config file, read without running it."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    block = re.search(r"^Arguments.*:\n((?:    .*\n?)+)", text, re.MULTILINE)
    found = re.findall(r"^ {4}(?! )(.+?)(?: {2,}.*)?$", block[1] if block else "", re.MULTILINE)
    names = [name for names in found for name in names.split(", ") if name != "(none)"]
    return Opening(text.partition("\n")[0], tuple(names), text)


def find(spec: str, key: str) -> tuple[Path, str | None]:
    """The file that `NAME_OR_PATH:ARGUMENT` names, and the argument; None without a colon.

    Raises:
        ConfigError: there is no such file; the message begins with `key`.
    """
    name, colon, argument = spec.partition(":")
    shipped = available()
    path = shipped[name] if name in shipped else files.expand(assets.find_asset(name))
    if not name or not path.is_file():
        folder = bool(name) and path.is_dir()
        what = "is a folder" if folder else "names no config file"
        # A folder that exists is no misspelled name.
        close = [] if folder else difflib.get_close_matches(Path(name).stem, shipped, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ConfigError(
            f"{key} {spec!r} {what}; {hint}expected one of {', '.join(shipped)}, or the path of "
            "your own config file"
        )
    return path, argument if colon else None


def load(spec: str, key: str = "--config") -> ConfigDict:
    """The config that a file returns for its argument; not locked.

    Raises:
        ConfigError: there is no such file, or it cannot be used; the message begins with `key` and
            names the line.
    """
    path, argument = find(spec, key)
    _offer_configs(path)
    try:
        config = _run(path).get_config(*([] if argument is None else [argument]))
    except UserError:
        raise
    except ValueError as error:  # a config file's own message, such as about its argument
        raise ConfigError(f"{key} {spec!r}: {error}") from error
    except Exception as error:
        raise ConfigError(f"{key} {spec!r}: {_explain(error, path)}") from error
    if not isinstance(config, ConfigDict) or "stage" not in config:
        raise ConfigError(
            f"{key} {spec!r}: get_config of {path} returned no config with a `stage`; expected a "
            f"ConfigDict like that of {available()['sft']}"
        )
    return config


def _offer_configs(path: Path) -> None:
    """Makes `configs` importable: the neighbours of `path` if it is in such a folder, then ours.

    The package is made by hand rather than through `sys.path`: it takes precedence over any other
    package of this common name, and nothing else becomes importable.
    """
    folders = [path.resolve().parent, assets.root() / FOLDER]
    places = [str(folder) for folder in dict.fromkeys(folders) if folder.name == FOLDER]
    known = sys.modules.get(FOLDER)
    if known is not None and list(getattr(known, "__path__", [])) == places:
        return
    for name in [name for name in sys.modules if name.split(".")[0] == FOLDER]:
        del sys.modules[name]  # from another folder of this name
    package = types.ModuleType(FOLDER)
    package.__path__ = places
    sys.modules[FOLDER] = package


def _run(path: Path) -> Any:
    """Runs a config file, and returns its module."""
    loader = importlib.machinery.SourceFileLoader(_MODULE, str(path))
    spec = importlib.util.spec_from_loader(_MODULE, loader)
    assert spec is not None, "a loader was given"
    module = importlib.util.module_from_spec(spec)
    sys.modules[_MODULE] = module  # dataclasses resolve the types of their fields there
    loader.exec_module(module)
    return module


def _explain(error: Exception, path: Path) -> str:
    """One line on what went wrong in a config file, and where."""
    if isinstance(error, SyntaxError):
        # No text at all, such as a file with zero bytes, has neither name nor line.
        place = f"{error.filename} line {error.lineno}" if error.lineno else str(path)
        return f"{place}: {error.msg}"
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    if not line:
        return f"{path} has no function get_config(argument) that can be called ({error})"
    return f"{path} line {line}: {type(error).__name__}: {error}"
