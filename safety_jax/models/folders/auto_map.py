"""The attribute `auto_map` of a config.json, which names the classes of a model's own code.

    {"AutoConfig": "configuration_phi3.Phi3Config", "AutoTokenizer": "ORG/NAME"}

`transformers` writes the repository in front of the names when it saves a model from the Hub, such
as `ORG/NAME--configuration_phi3.Phi3Config`.
"""

import re
from collections.abc import Mapping
from typing import Any

NAME = "auto_map"
# Entries of what prepares the input. It is loaded on its own, and never by code from a folder.
_BESIDE = ("AutoTokenizer", "AutoProcessor", "AutoImageProcessor", "AutoFeatureExtractor")
_REPOSITORY = r"([\w.-]+(/[\w.-]+)?--)?"


def without_known(given: Mapping[str, Any], known: str | None) -> Mapping[str, Any]:
    """The attributes without `auto_map`, if no code that it names can change the model.

    Args:
        known: a pattern of classes that compute the same as those of `transformers`; None for no
            class.
    """
    named = given.get(NAME)
    if not isinstance(named, dict):
        return given
    classes = [
        one for kind, value in named.items() if kind not in _BESIDE for one in _listed(value)
    ]
    pattern = rf"{_REPOSITORY}({known})" if known is not None else r"(?!)"
    if not all(isinstance(one, str) and re.fullmatch(pattern, one) for one in classes):
        return given
    return {name: value for name, value in given.items() if name != NAME}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
