"""What the configs of a model and an adapter say of what is computed, as a hash.

It is what a model is beside its weights: whoever gives a checkpoint another rope, or an adapter
another alpha, has another model with the same weights.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safety_jax.base import hosts
from safety_jax.models.folders import hub, peft_config
from safety_jax.models.folders.families import IRRELEVANT

# Of an adapter, what its weights do not tell.
_SCALE = ("r", "lora_alpha", "use_rslora")
# Of a model with a score head: the order and number of its outputs, the token that is not read as
# the last one, and whose layout the head has.
_HEAD = ("architectures", "id2label", "num_labels", "pad_token_id")


def of_model(folder: Path) -> str:
    """A hash (hex) of the attributes of config.json that may change what a model computes. One
    process reads them; all must come here.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    return hosts.first_says(lambda: _hash(_relevant(hub.read_json(folder / "config.json"))))


def of_scorer(folder: Path) -> str:
    """As `of_model`, of a model with a score head: also what is said of the head."""

    def digest() -> str:
        given = hub.read_json(folder / "config.json")
        return _hash([_relevant(given), {name: given.get(name) for name in _HEAD}])

    return hosts.first_says(digest)


def of_adapter(folder: Path) -> str:
    """A hash (hex) of how strong an adapter is; as `of_model`."""

    def scale() -> str:
        given = hub.read_json(folder / peft_config.CONFIG)
        return _hash({name: given.get(name) for name in _SCALE})

    return hosts.first_says(scale)


def _relevant(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes but for those of names, files and generation; also those of a part inside."""
    return {
        name: _relevant(value) if isinstance(value, dict) else value
        for name, value in attributes.items()
        if name not in IRRELEVANT
    }


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
