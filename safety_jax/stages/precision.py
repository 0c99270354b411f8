"""The number types that a config leaves open, by the platform that runs it.

"auto" is bfloat16. On a CPU weights are kept in float32, and only one with matrix units of 16 bits
computes in bfloat16. Keys and values are cached in the type that is computed in. All is settled
before a stage begins: the run's config.json names types, and where others would be chosen, the run
does not go on.
"""

from ml_collections import ConfigDict

from safety_jax.models.execution import computed_type, stored_type

AUTO = "auto"
CHOICES = {
    "model": {"parameter_dtype": stored_type, "compute_dtype": computed_type},
    "score": {"parameter_dtype": stored_type, "compute_dtype": computed_type},
}


def settled(config: ConfigDict, platform: str) -> ConfigDict:
    """A copy in which every number type has a name.

    Args:
        platform: jax's name of the one that runs it.
    """
    found = config.copy_and_resolve_references()
    for group, choices in CHOICES.items():
        for key, choose in choices.items():
            if group in found and key in found[group] and found[group][key] == AUTO:
                found[group][key] = choose(platform)
    if "sample" in found and found.sample.cache_dtype == AUTO:
        found.sample.cache_dtype = found.model.compute_dtype
    return found
