"""Resolves number types that are "auto" in a config, by the platform of the run.

They become bfloat16, but a CPU stores weights in float32, and computes in bfloat16 only if it has
16-bit matrix units. Keys and values are cached in the compute type. This happens before a stage
begins, so a run's config.json names the types, and a platform that would choose others cannot
continue the run.
"""

from ml_collections import ConfigDict

from safety_jax.models.execution import computed_type, stored_type

AUTO = "auto"
CHOICES = {
    "model": {"parameter_dtype": stored_type, "compute_dtype": computed_type},
    "score": {"parameter_dtype": stored_type, "compute_dtype": computed_type},
}


def settled(config: ConfigDict, platform: str) -> ConfigDict:
    """A copy in which no number type is "auto".

    Args:
        platform: jax's name for it: cpu, gpu, tpu.
    """
    found = config.copy_and_resolve_references()
    for group, choices in CHOICES.items():
        for key, choose in choices.items():
            if group in found and key in found[group] and found[group][key] == AUTO:
                found[group][key] = choose(platform)
    if "sample" in found and found.sample.cache_dtype == AUTO:
        found.sample.cache_dtype = found.model.compute_dtype
    return found
