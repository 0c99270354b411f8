"""Runs that continue training an adapter take over its rank, alpha, targets and layers.

These are written into the config before a stage begins, so that plans, records and model cards
describe the adapter that is trained.
"""

from pathlib import Path

import jax
from ml_collections import ConfigDict

from safety_jax.models import llama
from safety_jax.models.folders import hf_config, hub, peft
from safety_jax.models.folders.peft_config import LoraConfig


def settled(config: ConfigDict) -> ConfigDict:
    """A copy whose `lora` group is that of `model.adapter`; the config itself if no adapter is
    given, or if it is merged before all weights are trained.

    Raises:
        CheckpointError: the adapter cannot be trained further, or does not fit the model.
    """
    if "lora" not in config or not config.model.get("adapter") or config.lora.rank == 0:
        return config
    model = hf_config.read_config(hub.resolve(config.model.path))
    brought = peft.read_settings(hub.resolve(config.model.adapter), model)
    found = config.copy_and_resolve_references()
    group = found.lora
    group.rank, group.alpha, group.rslora = brought.rank, brought.alpha, brought.rslora
    names = {ours: theirs for theirs, ours in llama.targets(model).items()}
    group.targets = tuple(names[target] for target in brought.targets)
    group.layers = ",".join(map(str, brought.layers or ()))
    if jax.process_index() == 0:
        print(_describe(found, brought), flush=True)
    return found


def _describe(config: ConfigDict, brought: LoraConfig) -> str:
    """The adapter's settings, and a warning if it names another base."""
    group, model = config.lora, config.model
    on = f"layers {group.layers}" if group.layers else "all layers"
    stabilised = ", rank-stabilised" if group.rslora else ""
    text = (
        f"model.adapter has rank {group.rank}, alpha {group.alpha:g}{stabilised}, on "
        f"{', '.join(group.targets)} of {on}; these replace the lora group's"
    )
    named = brought.base_name
    if named and Path(named).name != Path(model.path).name:
        text += f"\nwarning: it names {named} as its base, but model.path is {model.path}"
    return text
