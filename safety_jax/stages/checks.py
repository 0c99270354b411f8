"""Checks a config against the table: every value in its range, no key missing or unknown.

This is done once, after all flags are set and before anything is read or written: by `main` for a
run and for the steps of a recipe, by stage `plan` for the runs that it plans. The rules that
relate several values are in `rules.py`.
"""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from safety_jax.base import trees
from safety_jax.base.errors import ConfigError
from safety_jax.base.settings import Anything, OneOf, Setting, expectation, is_empty
from safety_jax.stages.judge_schema import JUDGES
from safety_jax.stages.rules import broken_rules
from safety_jax.stages.schema import STAGES
from safety_jax.stages.shared_schema import Table

_SHOWN = 80  # characters of a value in a message
_KIND = OneOf(tuple(JUDGES))


def problems(config: ConfigDict, *, complete: bool = True) -> list[str]:
    """One line for each value that does not fit: key, value, and what is expected.

    Args:
        complete: also report required values that are empty, such as a model's folder; a plan
            needs none.
    """
    stages = {"": config} | {f"{name}.": config[name] for name in _steps(config)}
    for prefix, one in stages.items():
        if one.stage not in STAGES:
            return [f"{prefix}stage is {one.stage!r}; expected one of {', '.join(STAGES)}"]
    known, flat = table(config), values(config)
    found = [*_unknown_keys(known, flat), *_missing_keys(known, flat)]
    for key, value in flat.items():
        setting = setting_of(known, key)
        if setting is None:
            continue
        if is_empty(setting, value):
            if complete:
                text = f"{key} is empty; expected {setting.describe()}; set --config.{key}=..."
                found.append(text)
        elif not setting.fits(value):
            text = f"{key} is {value!r:.{_SHOWN}}; expected {expectation(setting, value)}"
            found.append(text)
    if not found:
        found = [f"{prefix}{text}" for prefix, one in stages.items() for text in broken_rules(one)]
    return found


def check(config: ConfigDict, what: str, *, complete: bool = True) -> None:
    """Raises a ConfigError for the first of the `problems`; its message begins with `what`."""
    found = problems(config, complete=complete)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise ConfigError(f"{what}: {found[0]}{more}")


def expected(config: ConfigDict, key: str) -> str:
    """What the table expects of a key: "a number, 0 or more, below 1"."""
    setting = setting_of(table(config), key)
    return "a group of keys" if setting is None else setting.describe()


# ---------------------------------------------------------------------------- keys


def swept(config: ConfigDict) -> str:
    """The stage of a sweep's runs: the one whose group the config has."""
    return "dpo" if "dpo" in config else "sft"


def stage_table(config: ConfigDict) -> Table:
    """The table of the stage alone; of a sweep, with the table of its runs."""
    runs = STAGES[swept(config)] if config.stage == "sweep" else {}
    return {**runs, **STAGES[config.stage]}


def table(config: ConfigDict) -> Table:
    """The table of this config: of its stage, its judges and its steps."""
    found = stage_table(config) if config.stage in STAGES else {}
    if "score" in config and "judges" in config.score:
        for name, row in config.score.judges.items():
            kind = row["kind"] if isinstance(row, ConfigDict) and "kind" in row else ""
            keys = {"kind": _KIND} | (JUDGES[kind] if kind in JUDGES else {"*": Anything()})
            found |= {f"score.judges.{name}.{key}": setting for key, setting in keys.items()}
    for name in _steps(config):
        found |= {f"{name}.{key}": setting for key, setting in table(config[name]).items()}
    return found


def values(config: ConfigDict) -> dict[str, Any]:
    """The values of a config by key, groups in the order of the table, without the groups of a
    recipe that are not among its steps."""
    steps = _steps(config)
    unused = [key for key, group in config.items() if _is_config(group) and key not in steps]
    flat = trees.flatten(config.to_dict())
    order = list(dict.fromkeys([*table(config), *flat]))
    groups = list(dict.fromkeys(key.partition(".")[0] for key in order))
    by_group = sorted(order, key=lambda key: groups.index(key.partition(".")[0]))
    return {k: flat[k] for k in by_group if k in flat and k.partition(".")[0] not in unused}


def setting_of(known: Table, key: str) -> Setting | None:
    """The table's entry for a key: its own, or the one for all keys of its group."""
    group = f"{key.rpartition('.')[0]}.*"
    return known[key] if key in known else known[group] if group in known else None


def _steps(config: ConfigDict) -> list[str]:
    """The steps of a recipe that are whole configs; stage `recipe` reports any others."""
    if config.stage != "recipe" or "recipe" not in config or "steps" not in config.recipe:
        return []
    names = config.recipe.steps if isinstance(config.recipe.steps, tuple | list) else ()
    return [name for name in dict.fromkeys(names) if name in config and _is_config(config[name])]


def _is_config(group: Any) -> bool:
    return isinstance(group, ConfigDict) and "stage" in group


def _unknown_keys(known: Table, flat: Mapping[str, Any]) -> Iterator[str]:
    for key in flat:
        if setting_of(known, key) is None:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            yield f"{key} is a key that nothing reads{hint}"


def _missing_keys(known: Table, flat: Mapping[str, Any]) -> Iterator[str]:
    for key, setting in known.items():
        if key not in flat and not key.endswith(".*"):
            yield f"{key} is missing; expected {setting.describe()}"
