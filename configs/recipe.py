"""A whole comparison in one command: base, safety tuning, a judge, RAFT, DPO, and a report on all.

    python -m safety_jax.main --config=configs/recipe.py:demo --workdir=runs/demo
    make real
    python -m safety_jax.main --config=configs/recipe.py:real --config.recipe.data=FOLDER \\
        --workdir=runs/ladder
    python -m safety_jax.main --config=configs/recipe.py --workdir=runs/safe_to_serve

Each group that has a `stage` is a step. It is the whole config of that stage, and every key in it
can be set (`--config.dpo.optim.learning_rate=1e-5`). In paths, `@base` and `@data` stand for
`recipe.base` and `recipe.data`, `@STEP` for the export of a step, and `@STEP/FILE` for a file in
its folder. `recipe.steps` lists the steps in order. Run again, it resumes where it stopped. If the
config of a finished step has changed, the run is refused: remove the step's folder, and it and the
steps that depend on it run again.

Arguments, after the colon and separated by commas:
    (none)    all of Safe to Serve's runs (arXiv 2412.00074) at 7B: 20,000 Alpaca rows; the same
              with 100 to 2,000 safety demonstrations; RAFT in one round of 500 and in five of 100;
              DPO; all judged by Llama Guard and the paper's reward models. For a TPU slice: see
              configs/plan.py for what fits
    real      the papers' own data on SmolLM2-135M-Instruct, from a folder that contains them:
              Alpaca with safety demonstrations, RAFT, PKU-SafeRLHF's pairs, and the sets of both
              papers, with four judges trained on different data; see configs/recipe_real.py.
              real,slice: a few rows of it, as a check
    smollm2   SmolLM2-135M-Instruct and data that ship with the project, an hour on two CPU
              cores; `make real` downloads the model. With slice: a few rows and steps, as a check
    smollm2,pushed   how the safety of that model holds up: the base, SIT, DPO and SIT with recovery
              examples at the compute of SIT, under attacks, in conversations, by group, and after
              tampering. Reuses the steps that `smollm2` finished in the same folder
    smollm2,frontier   how much over-refusal each method costs for its safety: its adapter scaled to
              several strengths, 0 being the base, in one report; reuses steps like `pushed`
    demo      a tiny model and data that ship with the project; three minutes on two CPU cores
    curve     how much safety data is enough: 21 models with 0 to 2,000 demonstrations, three seeds
              each, trained together and judged; draws the curve with its threshold. `curve,demo`:
              the same with 12 tiny models, in minutes; `curve,smollm2`: on SmolLM2-135M-Instruct
    sizes     with `curve`: whether that amount depends on the size of the model, by the curves of
              Llama 3 with 1B to 70B. `curve,demo,sizes`: of the demo's model and one of ten million
              parameters that is trained first; `curve,smollm2,sizes`: of these and SmolLM2-135M,
              on the demo's data. See configs/recipe_sizes.py
    demo,defences, smollm2,defences   which defence of docs/defences.md keeps its safety under
              attack: each against plain SIT and plain DPO at equal compute, in one report
    demo,seeds, smollm2,seeds   whether SIT, RAFT and DPO differ at equal training compute, with
              three seeds each: shares by method, and every two compared; configs/recipe_seeds.py
    form      whether the form of requests matters: nine models that learned to refuse instructions,
              questions or opinions are each asked all three; `form,demo`: the same in minutes

`recipe.max_flops` gives every step that tunes the base the same training compute: 6e18 is about one
epoch of 20,000 Alpaca rows with LoRA at 7B.

Expect (Safe to Serve's report, LLaMA 7B; answers that Llama Guard calls safe, per cent, on I-CoNa /
I-Malicious / I-Controversial): 41 / 41 / 45 at first, 65 / 65 / 70 with 100 demonstrations,
94 / 92 / 97 with 1,000; RAFT 39.9 / 54 / 40 and DPO 93 / 95 / 100, from 39.9 / 50 / 42.5.
docs/results.md has the figures of the demo.
"""

from ml_collections import ConfigDict

from configs import (
    curve,
    dpo,
    evaluate,
    raft,
    recipe_defences,
    recipe_real,
    recipe_seeds,
    recipe_sizes,
    recipe_smollm2,
    reward,
    sft,
    sweep,
)
from configs.common import models, of_demo, parse_arg

FORMS = ("instruction", "opinion", "question")  # in the order of the table's rows
SAFETY_ROWS = (100, 300, 500, 1000, 1500, 2000)


def get_config(arg: str | None = None) -> ConfigDict:
    choice = parse_arg(
        arg,
        demo=False,
        real=False,
        smollm2=False,
        pushed=False,
        frontier=False,
        slice=False,
        curve=False,
        sizes=False,
        seeds=False,
        form=False,
        defences=False,
    )
    if choice.demo + choice.real + choice.smollm2 > 1:
        raise ValueError("config arguments 'demo', 'real' and 'smollm2' exclude each other")
    if (choice.pushed or choice.frontier) and not choice.smollm2:
        raise ValueError("config arguments 'pushed' and 'frontier' go with 'smollm2'")
    if choice.slice and not (choice.smollm2 or choice.real):
        raise ValueError("config argument 'slice' goes with 'smollm2' or 'real'")
    if (choice.curve and choice.real) or (choice.form and (choice.real or choice.smollm2)):
        raise ValueError(
            "config arguments 'curve' and 'form' go with 'demo', or alone; 'curve' with 'smollm2'"
        )
    if choice.sizes and not choice.curve:
        raise ValueError("config argument 'sizes' goes with 'curve'")
    kinds = ("curve", "form", "pushed", "frontier", "defences", "seeds")
    if sum(choice[kind] for kind in kinds) > 1:
        named = ", ".join(f"'{kind}'" for kind in kinds[:-1])
        raise ValueError(f"config arguments {named} and '{kinds[-1]}' exclude each other")
    for kind in ("defences", "seeds"):
        if choice[kind] and not (choice.demo or choice.smollm2):
            raise ValueError(f"config argument '{kind}' goes with 'demo' or 'smollm2'")

    config = ConfigDict()
    config.stage = "recipe"
    config.seed = 0  # of the recipe itself; each step has a seed of its own

    config.recipe = recipe = ConfigDict()
    recipe.base = "meta-llama/Llama-2-7b-hf"  # the model that is tuned; @base in paths
    recipe.data = ""  # the folder with the data; @data in paths
    recipe.trunk = ""  # what judges are trained from; @trunk in paths
    recipe.steps = ()  # names of the steps, in order
    recipe.max_flops = 0.0  # training FLOPs of each step that tunes the base; 0: as the steps say
    recipe.minutes = ConfigDict()  # what each step took once, to tell how much time is left

    if choice.sizes:
        recipe_sizes.sizes(config, choice.demo, choice.smollm2, choice.slice)
    elif choice.curve and choice.smollm2:
        recipe_sizes.smollm2(config, choice.slice)
    elif choice.curve:
        how_much(config, choice.demo)
    elif choice.form:
        which_form(config, choice.demo)
    elif choice.demo and choice.defences:
        recipe_defences.demo(config)
    elif choice.demo:
        demo(config)
        if choice.seeds:
            recipe_seeds.demo(config)
    elif choice.real:
        recipe_real.ladder(config)
        if choice.slice:
            recipe_real.slice_of(config)
    elif choice.defences:
        recipe_defences.smollm2(config, choice.slice)
    elif choice.seeds:
        recipe_seeds.smollm2(config, choice.slice)
    elif choice.smollm2:
        recipe_smollm2.ladder(config)
        if choice.slice:
            recipe_smollm2.slice_of(config)
        if choice.pushed:
            recipe_smollm2.pushed(config, choice.slice)
        elif choice.frontier:
            recipe_smollm2.frontier(config, choice.slice)
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


def how_much(config: ConfigDict, demo: bool):
    """The curve of Safety-Tuned LLaMAs and Safe to Serve, each point with seeds."""
    config.sweep = sweep.get_config("demo" if demo else "curve")
    config.sweep.model.path = "@base"
    config.report = evaluate.get_config("demo" if demo else "paper=sit,llama_guard")
    config.report.evaluate.models = "n=@sweep/."
    config.curve = curve.get_config()
    config.curve.curve.sweep = "@sweep/."
    config.curve.curve.report = "@report/."
    if demo:
        config.recipe.base = of_demo("model")
    else:
        config.report.evaluate.data = "@data"
    config.recipe.steps = ("sweep", "report", "curve")


def which_form(config: ConfigDict, demo: bool):
    """Safety-Tuned LLaMAs' question whether refusals of one form of request carry to another."""
    how_much(config, demo)
    config.sweep = sweep.get_config("form,demo" if demo else "form")
    config.sweep.model.path = "@base"
    config.curve.curve.axis = "data.safety_form"
    if demo:
        unsafe = of_demo("data/eval_unsafe.jsonl") + "?kind=unsafe"
        safe = of_demo("data/eval_safe.jsonl") + "?kind=safe"
        asked = {"unsafe": unsafe + "&", "ordinary": safe + "&"}
    else:
        asked = {name: f"{name}?" for name in ("I-MaliciousInstructions", "Q-Harm", "XSTest-safe")}
    config.report.evaluate.sets = tuple(
        f"{spec}form={form}&name={name}-{form}" for name, spec in asked.items() for form in FORMS
    )


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
    config.recipe.minutes = ConfigDict(
        {"sit": 0.4, "judge": 0.3, "raft": 0.5, "dpo": 0.2, "report": 0.4}
    )
    config.recipe.steps = ("sit", "judge", "raft", "dpo", "report")
