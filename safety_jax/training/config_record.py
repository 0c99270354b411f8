"""A run's config as it is recorded, and its comparison with that of an earlier start."""

import json
import re
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from safety_jax.base import files, trees
from safety_jax.base.errors import ConfigError
from safety_jax.data import source_spec

# Keys that may change between two starts of one run. They say where and how fast the run goes, what
# it prints and what it keeps; the final weights are the same up to the order of additions.
FREE = (
    r"mesh\..*",
    r"log\..*",
    r"checkpoint\..*",
    r"data\.(prefetch_steps|row_tokens)",
    r"model\.attention",
    r"model\.remat",
    r"train\.rows_per_microbatch",
    r"score\.(tokens_per_batch|rows_per_write|attention)",
    r"sample\.(lanes|prefill_tokens|bucket_tokens|chunk_steps)",
    r"raft\.(rounds|patience|judges_resident)",
    r"attack\.(steps|max_evaluations|row_tokens|tokens_per_batch|chunk_tokens)",
    # Answers and scores are kept by all that they depend on, so that more of them may be asked for.
    r"(evaluate|tamper)\..*",
    # Runs of a sweep have folders of their own, which hold them to what they are.
    r"sweep\..*",
)


def recorded(config: ConfigDict | Mapping[str, Any]) -> dict[str, Any]:
    """The config as it is recorded and compared: tuples become lists, URLs lose their secrets.

    So a run continues if its signed URL was signed anew; `identity.py` checks by content that it
    still reads the same data.
    """
    plain = config.to_dict() if isinstance(config, ConfigDict) else dict(config)
    for key, value in trees.flatten(plain).items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"config.{key}={value!r} cannot be recorded: {error}; expected a finite number, a "
                "string, a boolean or a tuple of them"
            ) from error
    return _without_secrets(json.loads(files.canonical(plain)))


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """`optim.learning_rate 0.0001 there, 0.0002 here` for each key that matters and differs."""
    old, new = trees.flatten(there), trees.flatten(here)
    found = []
    for key in sorted(old.keys() | new.keys()):
        values = [json.dumps(flat[key]) if key in flat else "absent" for flat in (old, new)]
        if values[0] != values[1] and _matters(key):
            found.append(f"{key} {values[0]} there, {values[1]} here")
    return found


def varying(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Keys that matter and differ between the configs, with the value in each."""
    flat = {name: trees.flatten(config) for name, config in configs.items()}
    found = {}
    for key in filter(_matters, sorted(set().union(*flat.values()))):
        values = {n: json.dumps(one[key]) if key in one else "absent" for n, one in flat.items()}
        if len(set(values.values())) > 1:
            found[key] = values
    return found


def _matters(key: str) -> bool:
    return not any(re.fullmatch(rule, key) for rule in FREE)


def _without_secrets(value: Any) -> Any:
    if isinstance(value, str):
        return source_spec.public(value)
    if isinstance(value, list):
        return [_without_secrets(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_secrets(item) for key, item in value.items()}
    return value
