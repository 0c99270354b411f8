"""What config files say about their keys: the comments behind and above the values."""

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

from ml_collections import ConfigDict

from safety_jax.base import assets
from safety_jax.stages import config_files

# What builders call the group that they fill, where it is not the group's own name.
ALIASES = {"group": ("sample", "answer")}

Comments = dict[str, str]


def of_config(config: ConfigDict, path: Path) -> Comments:
    """What a config's own file says about its keys, or else the shipped file of its stage.

    A sweep's keys are those of the stage of its runs.
    """
    shipped, folder = config_files.available(), assets.root() / config_files.FOLDER
    runs = [name for name in ("sft", "dpo") if config.stage == "sweep" and name in config]
    files = [shipped[name] for name in (*runs, config.stage) if name in shipped]
    found: Comments = {}
    for file in (folder / "common.py", *files, path):
        found |= read(file)
    return found


def read(path: Path) -> Comments:
    """By key, what a config file says behind the assignment of its value, or on the line above.

    Functions that change a whole `config` are left out: what they say is of their variant.
    """
    text = path.read_text(encoding="utf-8")
    said = {
        token.start[0]: (token.string.removeprefix("#").strip(), token.line.lstrip()[0] == "#")
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
    }
    found: Comments = {}
    for function in ast.parse(text).body:
        if not isinstance(function, ast.FunctionDef) or _takes_config(function):
            continue
        for statement in ast.walk(function):
            if not isinstance(statement, ast.Assign):
                continue
            behind, alone = said.get(statement.end_lineno or 0, ("", False))
            above, stands_alone = said.get(statement.lineno - 1, ("", False))
            comment = behind if behind and not alone else above if stands_alone else ""
            for key in _keys(function.name, statement):
                if comment:
                    found.setdefault(key, comment)
    return found


def _takes_config(function: ast.FunctionDef) -> bool:
    return any(argument.arg == "config" for argument in function.args.args)


def _keys(function: str, statement: ast.Assign) -> Iterator[str]:
    """`config.seed = 0` -> "seed"; `optim.beta1 = 0.9` -> "optim.beta1"; `judge.url = ...` ->
    "moderation.url", in the function `moderation`."""
    for target in statement.targets:
        group, dot, key = ast.unparse(target).removeprefix("config.").partition(".")
        names = (function,) if group == "judge" else ALIASES.get(group, (group,))
        for name in names:
            yield f"{name}{dot}{key}"
