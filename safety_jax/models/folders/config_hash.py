"""Hashes of the attributes in a model's and an adapter's config that affect the computation.

Together with its weights, they identify a model: with another rope, or another alpha of its
adapter, the same weights are a different model.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safety_jax.base import hosts
from safety_jax.models.folders import hub, peft_config
from safety_jax.models.folders.families import IRRELEVANT

# Attributes of an adapter that its weights do not show.
_SCALE = ("r", "lora_alpha", "use_rslora")
# Attributes of a model with a score head: the class, which decides the layout of the head; the
# order and number of its outputs; and the padding token, which is not read as the last token.
_HEAD = ("architectures", "id2label", "num_labels", "pad_token_id")


def of_model(folder: Path) -> str:
    """A hash (hex) of the attributes of config.json that may change what a model computes. One
    process reads them; every process must call this.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    return hosts.first_says(lambda: _hash(_relevant(hub.read_json(folder / "config.json"))))


def of_scorer(folder: Path) -> str:
    """The same as `of_model` for a model with a score head, and with the head's attributes."""

    def digest() -> str:
        given = hub.read_json(folder / "config.json")
        return _hash([_relevant(given), {name: given.get(name) for name in _HEAD}])

    return hosts.first_says(digest)


def of_adapter(folder: Path) -> str:
    """A hash (hex) of the attributes that scale an adapter; called as `of_model`."""

    def scale() -> str:
        given = hub.read_json(folder / peft_config.CONFIG)
        return _hash({name: given.get(name) for name in _SCALE})

    return hosts.first_says(scale)


def _relevant(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes without those of names, files and generation, also within nested objects."""
    return {
        name: _relevant(value) if isinstance(value, dict) else value
        for name, value in attributes.items()
        if name not in IRRELEVANT
    }


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
