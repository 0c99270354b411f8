"""Many LoRA runs over one base at the same time: grids of data, seeds, rates or ranks.

    python -m safety_jax.main --config=configs/sweep.py --config.model.path=MODEL \\
        --config.sweep.axes="data.safety_rows=0,100,500 seed=0,1,2" --workdir=runs/sweep

The keys are those of configs/sft.py, or with `dpo` those of configs/dpo.py; their values apply to
every run that does not change them. `sweep.axes` and `sweep.runs` say what the runs change. Each
run has a folder below `runs/` in the work directory, as if it had been trained alone: metrics,
checkpoints, a PEFT adapter in `export/`, a model card. The base is loaded once, and its weights are
gathered once for a step of all runs. The stage first prints what the sweep will cost. The same
command resumes a sweep; with more values on an axis, it trains only the new runs.

Runs may differ in seed, data, length, learning rate, schedule and warm-up, rank and alpha; those of
SFT also in early_weight, those of DPO in objective, beta, smoothing, margin and nll_weight.
`sweep.lanes` sets how many of them are trained at a time. docs/sweep.md has the details.

Arguments, after the colon and separated by commas:
    dpo         runs of stage dpo; reference log-probabilities of a pair are computed once for all
    form        500 safety rows as instructions, as questions, as opinions, three seeds each
    curve       how much safety data: n = 0, 50, 100, 300, 500, 1,000, 2,000 with three seeds each,
                the recipe of configs/sft.py:paper=report
    demo        n = 0, 15, 60, 120 with three seeds each, on the tiny model of launch/demo; with
                `form` 60 rows in each form; with `dpo` beta = 0.03, 0.1, 0.3 with two seeds each

Cost of `curve` at 7B: 21 runs of 314 steps of 128 examples. Expect, at n = 0 / 100 / 500 / 2,000
(Safe to Serve's report, LLaMA 7B; answers to I-Malicious that Llama Guard calls safe, one run
each): 41 / 65 / 91 / 92 per cent.
"""

from ml_collections import ConfigDict

from configs import dpo, sft
from configs.common import parse_arg


def get_config(arg: str | None = None) -> ConfigDict:
    choice = parse_arg(arg, dpo=False, demo=False, curve=False, form=False)
    if choice.curve and (choice.demo or choice.form):
        raise ValueError("config argument 'curve' excludes 'demo' and 'form'; drop one")
    if choice.dpo and (choice.curve or choice.form):
        raise ValueError("config argument 'dpo' excludes 'curve' and 'form'; drop one")

    published = choice.curve or choice.form
    method = dpo if choice.dpo else sft
    config = method.get_config("demo" if choice.demo else "paper=report" if published else "")
    config.stage = "sweep"
    config.sweep = sweep = group()
    if choice.curve:
        sweep.axes = "data.safety_rows=0,50,100,300,500,1000,2000 seed=0,1,2"
    elif choice.form:
        sweep.axes = "data.safety_form=instruction,question,opinion seed=0,1,2"
        sweep.lanes = 9
        config.data.safety_rows = 60 if choice.demo else 500
    elif choice.demo and choice.dpo:
        sweep.axes = "dpo.beta=0.03,0.1,0.3 seed=0,1"
        sweep.lanes = 6
    elif choice.demo:
        sweep.axes = "data.safety_rows=0,15,60,120 seed=0,1,2"
        sweep.lanes = 6
    return config


def group() -> ConfigDict:
    """What a sweep has beside the config of a run."""
    sweep = ConfigDict()
    sweep.axes = ""  # KEY=VALUE,VALUE,... KEY=VALUE,...: every combination is a run
    sweep.runs = ""  # KEY=VALUE KEY=VALUE; KEY=VALUE: single runs in addition
    sweep.lanes = 8  # runs that are trained at a time; changes memory and time only
    return sweep
