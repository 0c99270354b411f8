"""The recipes of `configs/recipe.py:seeds`: do SIT, RAFT and DPO differ, at equal training compute,
by more than their seeds do? Not a config by itself.

    base -> begun_S                        SIT, F FLOPs
            begun_S -> sit_S, raft_S, dpo_S    F FLOPs each, for each seed S

Every method goes on from the same beginning with its own seed: RAFT and DPO need a model that has
begun to refuse. SIT goes on, too, so that no method has had more training than another. The answers
that RAFT samples and judges, and the reference pass of DPO, are no training and come on top. Step
`methods` compares the methods over all seeds (docs/curve.md).
"""

from ml_collections import ConfigDict

from configs import curve, recipe_smollm2
from configs.common import models

SEEDS = (0, 1, 2)
FROM_BEGUN = ("sit", "raft", "dpo")
METHODS = ("begun", *FROM_BEGUN)


def demo(config: ConfigDict):
    """Of the demo's ladder, whose steps are in the config already."""
    repeat(config, ("judge",))
    config.recipe.max_flops = 1.2e11  # two epochs of its SIT


def smollm2(config: ConfigDict, few: bool):
    """Args: few: a few rows and steps of everything, for two seeds."""
    recipe_smollm2.ladder(config)
    if few:
        recipe_smollm2.slice_of(config)
    else:
        config.recipe.max_flops = 1.1e14  # half of what its SIT takes
    config.report.evaluate.mix_adapters = False
    repeat(config, ("own", "judge", "looker"), SEEDS[:2] if few else SEEDS)


def repeat(config: ConfigDict, first: tuple[str, ...], seeds: tuple[int, ...] = SEEDS):
    """Makes the groups `sit`, `raft` and `dpo` into steps for each seed, and compares them.

    Args:
        first: steps that all seeds share.
    """
    groups = {name: config[name] for name in FROM_BEGUN}
    groups["begun"] = config.sit
    steps = list(first)
    for seed in seeds:
        for name in METHODS:
            config[f"{name}_{seed}"] = group = groups[name].copy_and_resolve_references()
            group.seed = seed
            group.model.path = "@base" if name == "begun" else f"@begun_{seed}/merged"
            group.checkpoint.export_merged = name == "begun"
            steps.append(f"{name}_{seed}")
    for name in FROM_BEGUN:
        del config[name]

    config.report.evaluate.models = models(["base", *steps[len(first) :]])
    config.report.evaluate.baseline = "base"
    config.methods = curve.get_config()
    config.methods.curve.report = "@report/."
    by_method = [f"{name}=" + "+".join(f"{name}_{seed}" for seed in seeds) for name in METHODS]
    config.methods.curve.methods = ",".join(["base=base", *by_method])
    config.recipe.minutes = ConfigDict()
    config.recipe.steps = (*steps, "report", "methods")
