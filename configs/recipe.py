"""The whole ladder in one command: base, safety tuning, a judge, RAFT, DPO, and a report on all.

    python -m safety_jax.main --config=configs/recipe.py:demo --workdir=runs/demo
    python -m safety_jax.main --config=configs/recipe.py:real --config.recipe.base=MODEL \\
        --config.recipe.data=FOLDER --workdir=runs/ladder
    python -m safety_jax.main --config=configs/recipe.py --workdir=runs/safe_to_serve

Each group that has a `stage` is a step: the whole config of that stage, to be changed key by key
(`--config.dpo.optim.learning_rate=1e-5`). `@base`, `@data` and `@STEP` in its texts stand for
`recipe.base`, `recipe.data` and what that step exported. `recipe.steps` says which run, in order.
Run again, it goes on where it stopped. A finished step whose config changed is refused: remove its
folder, and what was made of it is made again, too.

Arguments, behind the colon and joined by commas:
    (none)    Safe to Serve's ladder (arXiv 2412.00074) at 7B: 20,000 Alpaca rows; the same with 100
              to 2,000 safety demonstrations; RAFT in one round of 500 and in five of 100; DPO; all
              judged by Llama Guard and the paper's reward models. For a TPU slice: see
              configs/plan.py for what fits
    real      one of each on real data: local folders laid out as the papers' repositories are
    demo      a tiny model and data that ship with the project; three minutes on two CPU cores

`recipe.max_flops` gives every step that tunes the base the same training compute: 6e18 is about an
epoch of 20,000 Alpaca rows with LoRA at 7B.

Expect (Safe to Serve's report, LLaMA 7B; answers that Llama Guard calls safe, per cent, on I-CoNa /
I-Malicious / I-Controversial): 41 / 41 / 45 at first, 65 / 65 / 70 with 100 demonstrations,
94 / 92 / 97 with 1,000; RAFT 39.9 / 54 / 40 and DPO 93 / 95 / 100, from 39.9 / 50 / 42.5.
docs/results.md has the figures of the demo.
"""

from ml_collections import ConfigDict

from configs import dpo, evaluate, raft, reward, sft
from configs.common import of_demo, parse_arg

SAFETY_ROWS = (100, 300, 500, 1000, 1500, 2000)


def get_config(arg: str | None = None) -> ConfigDict:
    choice = parse_arg(arg, demo=False, real=False)
    if choice.demo and choice.real:
        raise ValueError("config arguments 'demo' and 'real' exclude each other; drop one")

    config = ConfigDict()
    config.stage = "recipe"
    config.seed = 0  # of the recipe's own; each step has its seed

    config.recipe = recipe = ConfigDict()
    recipe.base = "meta-llama/Llama-2-7b-hf"  # @base
    recipe.data = ""  # @data
    recipe.steps = ()
    recipe.max_flops = 0.0  # of training, for each step that tunes the base; 0: as the steps say

    if choice.demo:
        demo(config)
    elif choice.real:
        real(config)
    else:
        safe_to_serve(config)
    return config


def safe_to_serve(config: ConfigDict):
    """arXiv 2412.00074: tuned models start from the base, RAFT and DPO from the tuned one."""
    config.helpful = sft.get_config("paper=report,safety=0")
    tuned = ["helpful"]
    for rows in SAFETY_ROWS:
        config[f"sit{rows}"] = sft.get_config(f"paper=report,safety={rows}")
        tuned.append(f"sit{rows}")
    for name in tuned:
        config[name].model.path = "@base"
    config.helpful.checkpoint.export_merged = True
    for name in ("b500", "b100"):
        config[f"raft_{name}"] = raft.get_config(f"paper={name}")
        config[f"raft_{name}"].data.prompts = (
            sft.TRAINING_DATA + "safety_only_data_Instructions.json",
        )
        tuned.append(f"raft_{name}")
    config.dpo = dpo.get_config("paper=report")
    tuned.append("dpo")
    for name in tuned[-3:]:
        config[name].model.path = "@helpful/merged"
    config.report = evaluate.get_config("paper=dpo,llama_guard,deberta,harmfulness,helpfulness")
    config.report.evaluate.models = models(tuned)
    config.report.evaluate.baseline = "helpful"
    config.recipe.steps = (*tuned, "report")


def real(config: ConfigDict):
    """Small enough for one device; the judge reads pairs of PKU-SafeRLHF, as DPO does."""
    config.recipe.base = ""
    stanford = "@data/alpaca/alpaca_data_safety_only.json"
    safety = "@data/safety_tuned_llamas/training/safety_only_data_Instructions.json"
    pairs = "@data/safe_to_serve/pku_safe_rlhf/DPO_safe_rlhf_eval_data.arrow?bad_rows=skip"
    config.sit = sft.get_config("safety=500")
    config.sit.data.train = (stanford,)
    config.sit.data.safety = safety
    config.sit.data.eval_rows = 100
    config.judge = reward.get_config()
    config.judge.data.train = (pairs,)
    config.judge.data.bad_rows = "skip"
    config.raft = raft.get_config()
    config.raft.data.prompts = (safety,)
    config.raft.data.ordinary = (stanford,)
    config.raft.data.ordinary_share = 0.25
    config.raft.raft.rounds = 3
    config.raft.raft.prompts = 320
    config.raft.raft.judges = ("judge=@judge",)
    config.dpo = dpo.get_config()
    config.dpo.data.train = (pairs,)
    config.dpo.data.bad_rows = "skip"
    config.dpo.data.prefer = "all"  # the file says which answer is better, not which is safe
    tuned = ["sit", "raft", "dpo"]
    for name in (*tuned, "judge"):
        config[name].model.path = "@base"
        config[name].data.overlong_prompt = "skip"
    config.report = evaluate.get_config()
    config.report.evaluate.data = "@data"
    config.report.evaluate.models = models(["base", *tuned])
    config.report.evaluate.judges = ("refusal", "judge=@judge")
    config.recipe.steps = ("sit", "judge", "raft", "dpo", "report")


def demo(config: ConfigDict):
    """A LLaMA of a million parameters and data, all made by launch/demo."""
    config.recipe.base = of_demo("model")
    config.recipe.data = of_demo("data")
    config.sit = sft.get_config("demo")
    config.judge = reward.get_config("demo,kind=binary")
    config.raft = raft.get_config("demo")
    config.raft.data.ordinary = ("@data/ordinary_prompts.jsonl",)
    config.raft.data.ordinary_share = 0.25
    config.raft.raft.reference_answers = False
    config.raft.score.judges = ConfigDict()  # not the rule, which sees no prompts
    config.raft.raft.judges = ("judge=@judge",)
    config.raft.raft.accept = ("judge",)
    config.raft.raft.rank_by = "judge"
    config.dpo = dpo.get_config("demo")
    tuned = ["sit", "raft", "dpo"]
    for name in (*tuned, "judge"):
        config[name].model.path = "@base"
    config.report = evaluate.get_config("demo")
    config.report.evaluate.models = models(["base", *tuned])
    config.report.evaluate.judges = ("refusal", "judge=@judge")
    config.recipe.steps = ("sit", "judge", "raft", "dpo", "report")


def models(names: list[str]) -> str:
    """As stage `evaluate` is given them."""
    return ",".join(f"{name}=@{name}" for name in names)
