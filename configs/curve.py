"""How much is enough: the curve over a sweep and its evaluation, with intervals over seeds.

    python -m safety_jax.main --config=configs/recipe.py:curve --config.recipe.base=MODEL \\
        --config.recipe.data=FOLDER --workdir=runs/how-much
    python -m safety_jax.main --config=configs/curve.py --config.curve.sweep=runs/sweep \\
        --config.curve.report=runs/report --workdir=runs/curve

The first trains, evaluates and draws in one command (configs/recipe.py); the second draws what is
there. Every amount on the axis needs the same seeds. The threshold is the smallest amount whose
outcomes are no worse, by `curve.margin_share`, than those of the largest; docs/curve.md says how it
is found, and what its interval means.

Cost: none to speak of.
"""

from ml_collections import ConfigDict

from configs.common import parse_arg


def get_config(arg: str | None = None) -> ConfigDict:
    parse_arg(arg)
    config = ConfigDict()
    config.stage = "curve"
    config.seed = 0  # nothing is drawn

    config.curve = curve = ConfigDict()
    curve.sweep = ""  # the --workdir of stage sweep
    curve.report = ""  # the --workdir of stage evaluate, where the sweep was a model
    curve.axis = "data.safety_rows"  # what the runs differ in, beside their seed; of words: a table
    curve.margin_share = 0.05  # so much less than at the largest amount still counts as no worse
    return config
