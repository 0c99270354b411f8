"""How much data is enough: the curve of a sweep and its evaluation, with intervals over seeds.

    python -m safety_jax.main --config=configs/recipe.py:curve --config.recipe.base=MODEL \\
        --config.recipe.data=FOLDER --workdir=runs/how-much
    python -m safety_jax.main --config=configs/curve.py --config.curve.sweep=runs/sweep \\
        --config.curve.report=runs/report --workdir=runs/curve

The first command trains, evaluates and draws the curve (configs/recipe.py). The second draws the
curve of a sweep that has been evaluated already. Every amount on the axis needs the same seeds. The
threshold is the smallest amount that is worse than the largest one by no more than
`curve.margin_share`; docs/curve.md explains how it is found and what its interval means.

Cost: seconds.
"""

from ml_collections import ConfigDict

from configs.common import parse_arg


def get_config(arg: str | None = None) -> ConfigDict:
    parse_arg(arg)
    config = ConfigDict()
    config.stage = "curve"
    config.seed = 0  # nothing is drawn

    config.curve = curve = ConfigDict()
    curve.sweep = ""  # the --workdir of stage sweep; or NAME=FOLDER,NAME=FOLDER to compare models
    curve.report = ""  # the --workdir of stage evaluate, where the sweeps were models
    curve.axis = "data.safety_rows"  # what the runs differ in, beside their seed; of words: a table
    curve.margin_share = 0.05  # so much less than at the largest amount still counts as no worse
    return config
