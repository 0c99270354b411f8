"""How much data is enough, and which method is better: with intervals over seeds.

    python -m safety_jax.main --config=configs/recipe.py:curve --config.recipe.base=MODEL \\
        --config.recipe.data=FOLDER --workdir=runs/how-much
    python -m safety_jax.main --config=configs/curve.py --config.curve.sweep=runs/sweep \\
        --config.curve.report=runs/report --workdir=runs/curve
    python -m safety_jax.main --config=configs/curve.py --config.curve.report=runs/report \\
        --config.curve.methods=base=base,sit=sit_0+sit_1,dpo=dpo_0+dpo_1 --workdir=runs/methods

The first command trains, evaluates and draws the curve (configs/recipe.py). The second draws the
curve of a sweep that has been evaluated already. Every amount on the axis needs the same seeds. The
threshold is the smallest amount that is worse than the largest one by no more than
`curve.margin_share`; docs/curve.md explains how it is found and what its interval means.

The third compares methods, each trained with several seeds, in a report on all their models: shares
by method and set, and every two methods seed by seed and prompt by prompt. Models of a method are
joined by +, in the order of their seeds. `configs/recipe.py:seeds,demo` does all of it.

Cost: seconds.
"""

from ml_collections import ConfigDict

from configs.common import parse_arg


def get_config(arg: str | None = None) -> ConfigDict:
    parse_arg(arg)
    config = ConfigDict()
    config.stage = "curve"
    config.seed = 0  # unused: nothing is drawn

    config.curve = curve = ConfigDict()
    curve.sweep = ""  # the --workdir of stage sweep; or NAME=FOLDER,NAME=FOLDER to compare models
    curve.methods = ""  # or METHOD=MODEL+MODEL,METHOD=MODEL+MODEL: models of the report by seed
    curve.report = ""  # the --workdir of stage evaluate that evaluated them
    # the key in which the runs differ besides the seed; words give a table
    curve.axis = "data.safety_rows"
    curve.margin_share = 0.05  # how much worse than at the largest amount counts as no worse
    return config
