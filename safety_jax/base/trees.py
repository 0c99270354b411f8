"""Path names for nested dictionaries of arrays, and selection of names by rules.

Weights, adapters and optimizer states are plain nested dicts. A leaf's name is its keys joined by
dots: `layers.query.kernel`.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from safety_jax.base.errors import ConfigError

Tree = dict[str, Any]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": x}}` -> `{"a.b": x}`, in the tree's own order."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> Tree:
    """`{"a.b": x}` -> `{"a": {"b": x}}`."""
    tree: Tree = {}
    for name, value in flat.items():
        *parents, last = name.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree


def map_named(function: Callable[[str, Any], Any], tree: Mapping[str, Any]) -> Tree:
    """Applies `function(name, leaf)` to every leaf."""
    return unflatten({name: function(name, leaf) for name, leaf in flatten(tree).items()})


def select(names: list[str], rules: tuple[str, ...], what: str) -> list[str]:
    """Names that at least one rule (a regular expression) matches in full. Every rule must match a
    name.

    Raises:
        ConfigError: a rule matches no name.
    """
    for rule in rules:
        if not any(re.fullmatch(rule, name) for name in names):
            raise ConfigError(
                f"{what}: rule {rule!r} matches nothing; expected one of {', '.join(names)}"
            )
    return [name for name in names if any(re.fullmatch(rule, name) for rule in rules)]
