"""An adapter that a run goes on from brings its own rank, alpha, targets and layers.

They are written into the config before a stage begins, so that what is counted, planned, recorded
and shown on the card is the adapter that is trained.
"""

from pathlib import Path

import jax
from ml_collections import ConfigDict

from safety_jax.models import llama
from safety_jax.models.folders import hf_config, hub, peft
from safety_jax.models.folders.peft_config import LoraConfig


def settled(config: ConfigDict) -> ConfigDict:
    """A copy whose `lora` group is that of `model.adapter`; the config itself where none is given,
    or where it is merged before all weights are trained.

    Raises:
        CheckpointError: the adapter cannot be gone on from, or does not fit the model.
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
    """What counts instead of the config's, and a warning where the adapter names another base."""
    group, model = config.lora, config.model
    on = f"layers {group.layers}" if group.layers else "all layers"
    stabilised = ", rank-stabilised" if group.rslora else ""
    text = (
        f"model.adapter brings rank {group.rank}, alpha {group.alpha:g}{stabilised}, on "
        f"{', '.join(group.targets)} of {on}; these count, not those of the lora group"
    )
    named = brought.base_name
    if named and Path(named).name != Path(model.path).name:
        text += f"\nwarning: it names {named} as its base, and model.path is {model.path}"
    return text
