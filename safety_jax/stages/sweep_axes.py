"""The runs of a sweep: a base config and what each of them changes in it.

    sweep.axes = "data.safety_rows=0,100,500 seed=0,1,2"      3 x 3 runs, the last axis fastest
    sweep.runs = "optim.learning_rate=1e-3 lora.rank=16; seed=7"   two more runs, or only these

A run is named after its changes, `safety_rows100_seed1`, and has a whole config.
"""

import ast
import dataclasses
import itertools
import re
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from safety_jax.base.errors import ConfigError
from safety_jax.stages import checks

# The keys in which runs of one program may differ: data, length, learning rate, width of adapters,
# numbers of the objective. All others decide what the program computes, or the shape of batches.
_SHARED = (
    "seed",
    "data.train",
    "data.template",
    "data.recovery_share",
    "train.max_steps",
    "train.epochs",
    "optim.learning_rate",
    "optim.schedule",
    "optim.warmup_steps",
    "lora.rank",
    "lora.alpha",
)
VARIABLE = {
    "sft": (
        *_SHARED,
        "data.safety",
        "data.safety_rows",
        "data.safety_form",
        "data.train_on",
        "sft.early_weight",
    ),
    "dpo": (
        *_SHARED,
        "data.prefer",
        "dpo.objective",
        "dpo.beta",
        "dpo.smoothing",
        "dpo.margin",
        "dpo.nll_weight",
    ),
}
MOST_RUNS = 10_000
_EARLY = "sft.early_weight"
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9.+-]+")


@dataclasses.dataclass(frozen=True)
class Variant:
    """A run: its name, what it changes, and its config, locked."""

    name: str
    changes: dict[str, Any]
    config: ConfigDict


def variants(config: ConfigDict, complete: bool = True) -> list[Variant]:
    """All runs of a sweep, in order.

    Args:
        complete: see `checks.problems`.

    Raises:
        ConfigError: a key that may not differ, a value that does not fit, or two equal runs.
    """
    axes = [_axis(config, text) for text in config.sweep.axes.split()]
    keys = [axis[0][0] for axis in axes]
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise ConfigError(f"sweep.axes names {twice[0]} twice; expected one axis with all values")
    crossed = [dict(pairs) for pairs in itertools.product(*axes)] if axes else []
    single = [_changes(config, text) for text in config.sweep.runs.split(";") if text.strip()]
    found = crossed + single
    if not found:
        raise ConfigError(
            "sweep.axes and sweep.runs are both empty; expected what runs change, such as "
            '--config.sweep.axes="data.safety_rows=0,100 seed=0,1,2"'
        )
    if len(found) > MOST_RUNS:
        raise ConfigError(f"sweep.axes makes {len(found):,} runs; expected at most {MOST_RUNS:,}")
    weights = [changes.get(_EARLY, _early_weight(config)) for changes in found]
    weighs = any(weight not in (None, 1) for weight in weights)
    made = [_variant(config, changes, weighs, complete) for changes in found]
    names: set[str] = set()
    configs: dict[str, str] = {}
    for one in made:
        # Comparisons would count a repeated run as two.
        same = configs.setdefault(one.config.to_json_best_effort(sort_keys=True), one.name)
        if same != one.name:
            raise ConfigError(
                f"sweep: the runs {same} and {one.name} have the same config; expected each once"
            )
        if one.name in names:
            raise ConfigError(
                f"sweep: two runs are called {one.name}; expected each once, and different names "
                "for different values: a path is named by its last part, with its options"
            )
        names.add(one.name)
    return made


def _axis(config: ConfigDict, text: str) -> list[tuple[str, Any]]:
    """`seed=0,1,2` as [("seed", 0), ...]."""
    key, equals, values = text.partition("=")
    if not equals or not values:
        raise ConfigError(f"sweep.axes {text!r}: expected KEY=VALUE,VALUE,... KEY=...")
    found = [(key, _value(config, key, one)) for one in values.split(",")]
    if len({str(value) for _, value in found}) < len(found):
        raise ConfigError(f"sweep.axes {text!r} repeats a value; remove one")
    return found


def _changes(config: ConfigDict, text: str) -> dict[str, Any]:
    """`seed=3 lora.rank=16` as {"seed": 3, "lora.rank": 16}."""
    changes: dict[str, Any] = {}
    for part in text.split():
        key, equals, value = part.partition("=")
        if not equals or key in changes:
            raise ConfigError(f"sweep.runs {text!r}: expected KEY=VALUE KEY=VALUE; ..., each once")
        changes[key] = _value(config, key, value)
    return changes


def _value(config: ConfigDict, key: str, text: str) -> Any:
    """A value of the type that the config has for this key."""
    stage = checks.swept(config)
    if key not in VARIABLE[stage]:
        raise ConfigError(
            f"sweep: {key!r} cannot differ between runs of stage {stage} in one program; expected "
            f"one of {', '.join(VARIABLE[stage])}; for anything else start another sweep"
        )
    now = _read(config, key)
    text = text.strip()
    try:
        if isinstance(now, tuple):
            return (text,)
        if isinstance(now, float):
            return float(text)
        if isinstance(now, int):
            return _whole(text)
    except (ValueError, SyntaxError) as error:
        raise ConfigError(
            f"sweep: {key}={text}: expected {checks.expected(config, key)}"
        ) from error
    return text


def _whole(text: str) -> int:
    """The value of `500`, `1_000` or `1e3`.

    Raises:
        ValueError, SyntaxError: this is no whole number.
    """
    number = ast.literal_eval(text.lstrip("+"))
    if isinstance(number, bool) or not isinstance(number, int | float) or number % 1 != 0:
        raise ValueError(f"{text} is no whole number")
    return int(number)


def _read(config: ConfigDict, key: str) -> Any:
    group = config
    *groups, last = key.split(".")
    for name in groups:
        group = group[name]
    return group[last]


def _early_weight(config: ConfigDict) -> float | None:
    return config.sft.early_weight if "sft" in config else None


def _variant(
    config: ConfigDict, changes: Mapping[str, Any], weighs: bool, complete: bool
) -> Variant:
    """Args: weighs: whether a run of the sweep weighs the first tokens of answers."""
    own = config.copy_and_resolve_references().unlock()
    del own["sweep"]
    own.stage = checks.swept(config)
    for key, value in changes.items():
        group = own
        *groups, last = key.split(".")
        for name in groups:
            group = group[name]
        group[last] = value
    if changes.get("data.recovery_share") == 0 and "recovery" in own.data:
        own.data.recovery = ""  # the run to compare with reads no harmful answers
    name = "_".join(f"{key.rpartition('.')[2]}{_spell(value)}" for key, value in changes.items())
    checked = own
    if weighs and own.checkpoint.best_metric == "eval/nll_loss":
        # Also measured in the runs that weigh all tokens alike, see `sweep_methods.weighs_early`.
        checked = own.copy_and_resolve_references()
        checked.checkpoint.best_metric = "eval/loss"
    checks.check(checked, f"sweep run {name}", complete=complete)
    if own.stage == "dpo" and own.dpo.objective == "weighted_door":
        raise ConfigError(
            f"sweep run {name}: dpo.objective is weighted_door, which a sweep does not support; "
            "expected another objective, or single runs of stage dpo"
        )
    if own.lora.rank == 0:
        raise ConfigError(
            f"sweep run {name}: lora.rank is 0; expected a rank above 0, because runs share the "
            "base"
        )
    return Variant(name, dict(changes), own.lock())


def _spell(value: Any) -> str:
    """A value as a part of a folder's name."""
    text = "+".join(value) if isinstance(value, tuple) else str(value)
    return _NOT_IN_NAMES.sub("-", text.rpartition("/")[2])
