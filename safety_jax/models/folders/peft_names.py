"""PEFT's names of an adapter's factors.

For example, `base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight`.
"""

from safety_jax.models import llama, lora

BLOCKS = {"query": "self_attn", "key": "self_attn", "value": "self_attn", "output": "self_attn"}
BLOCKS |= {"gate": "mlp", "up": "mlp", "down": "mlp"}
BLOCKS |= {"query+key+value": "self_attn", "gate+up": "mlp"}
FACTORS = {"a": "lora_A", "b": "lora_B"}
# The path of the layers in a text model, and in a vision-language model of current releases of
# transformers and of those up to 4.51.
TEXT_MODEL, WITH_EYES, OLD_WITH_EYES = "model", "model.language_model", "language_model.model"
TRUNKS = (TEXT_MODEL, WITH_EYES, OLD_WITH_EYES)
MODULES = {ours: module for module, ours in (lora.TARGETS | lora.FUSED_TARGETS).items()}
PATHS = {ours: f"{BLOCKS[ours]}.{module}" for ours, module in MODULES.items()}
# Other paths, by `LlamaConfig.files`.
ELSEWHERE = {
    "granite_hybrid": {"gate+up": "shared_mlp.input_linear", "down": "shared_mlp.output_linear"}
}


def path(target: str, files: str) -> str:
    """The path of a target within a layer."""
    return ELSEWHERE.get(files, {}).get(target, PATHS[target])


def key(target: str, layer: int, factor: str, trunk: str = TEXT_MODEL, files: str = "llama") -> str:
    """PEFT's name of one factor of one layer."""
    module = path(target, files)
    return f"base_model.model.{trunk}.layers.{layer}.{module}.{FACTORS[factor]}.weight"


def trunk_of(config: llama.LlamaConfig) -> str:
    """The path of the layers in an adapter's names, for a base with this config."""
    return WITH_EYES if config.nested else TEXT_MODEL
