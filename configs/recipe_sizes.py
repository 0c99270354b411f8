"""The recipes of `configs/recipe.py:curve` on SmolLM2, and for models of several sizes. Not a
config by itself.

Models of several sizes learn the same rows with the same seeds, are asked the same prompts in one
report, and their curves are compared (docs/curve.md). Each size has a sweep, such as `sweep_8b`
with its base in `sweep_8b.model.path`. To leave a size out, give `recipe.steps`,
`report.evaluate.models` and `curve.curve.sweep` without it.
"""

from ml_collections import ConfigDict

from configs import curve, evaluate, recipe_smollm2, sft, sweep
from configs.common import of_demo

LLAMA = {
    "1b": "meta-llama/Llama-3.2-1B",
    "3b": "meta-llama/Llama-3.2-3B",
    "8b": "meta-llama/Llama-3.1-8B",
    "70b": "meta-llama/Llama-3.1-70B",
}
# On the demo's data, with their learning rates. At 2e-3, 10m refuses 21% of unsafe requests instead
# of 71% (docs/results/small-models.md).
SMALL = {"1m": (of_demo("model"), 5e-3), "10m": ("@larger", 5e-3)}
SMOLLM2 = {"135m": ("build/models/SmolLM2-135M-Instruct.Q4_1.gguf", 5e-4)}


def sizes(config: ConfigDict, of_demo_alone: bool, with_smollm2: bool, few: bool):
    """Args: few: a few steps and prompts, to see that it runs."""
    if of_demo_alone or with_smollm2:
        on_demo_data(config, SMALL | (SMOLLM2 if with_smollm2 else {}))
    else:
        llama(config)
    if few:
        slice_of(config)


def llama(config: ConfigDict):
    """Llama 3 on the papers' data, on a slice that holds the largest."""
    for name, path in LLAMA.items():
        config[f"sweep_{name}"] = group = sweep.get_config("curve")
        group.model.path = path
        group.mesh.data, group.mesh.fsdp = 1, -1
    config.sweep_70b.model.base = "nf4"
    config.sweep_70b.sweep.lanes = 3
    config.report = evaluate.get_config("paper=sit,llama_guard")
    config.report.evaluate.data = "@data"
    config.report.mesh.data, config.report.mesh.fsdp = 1, -1
    config.recipe.steps = compare(config, LLAMA)


def on_demo_data(config: ConfigDict, models: dict[str, tuple[str, float]]):
    """The demo's model of a million parameters beside larger ones.

    Args:
        models: base and learning rate by name.
    """
    config.larger = base = sft.get_config("demo,safety=0")  # trained as launch/demo/make_model.py
    base.model.path = of_demo("larger")
    base.model.tokenizer = of_demo("model")
    base.model.init = "random"
    base.model.compute_dtype = "auto"
    base.lora.rank = 0
    base.data.train = (of_demo("data/base.jsonl"),)
    base.train.epochs = 8.0  # after 2 it answers nothing rightly, and learns no refusals
    base.optim.learning_rate = 2e-3
    base.optim.beta2 = 0.95
    base.checkpoint.every_steps = 100
    base.checkpoint.export_dtype = "bfloat16"
    base.log.every_steps = 10
    base.log.eval_every_steps = 100

    for name, (path, rate) in models.items():
        config[f"sweep_{name}"] = group = sweep.get_config("demo")
        group.model.path = path
        group.model.compute_dtype = "auto"
        group.optim.learning_rate = rate
        group.data.train = (of_demo("data/instructions.jsonl") + "?rows=120",)
        group.train.epochs = 4.0
        group.log.eval_every_steps = 100
        group.sweep.axes = "data.safety_rows=0,15,60 seed=0,1,2"
        group.sweep.lanes = 9
    config.report = evaluate.get_config("demo")
    config.recipe.steps = ("larger", *compare(config, models))


def slice_of(config: ConfigDict):
    for name in config.recipe.steps[:-2]:
        config[name].train.max_steps = 2
        config[name].optim.warmup_steps = 1
        if "sweep" in config[name]:
            config[name].sweep.axes = "data.safety_rows=0,15 seed=0,1"
    report = config.report
    report.evaluate.sets = tuple(f"{spec}&rows=4" for spec in report.evaluate.sets)
    report.answer.max_new_tokens = 8


def compare(config: ConfigDict, names: dict) -> tuple[str, ...]:
    """One report on all sweeps, whose adapters answer on bases like those that they were trained
    on, and their curves beside each other; the steps."""
    sweeps = ",".join(f"{name}=@sweep_{name}/." for name in names)
    bases = {name: config[f"sweep_{name}"].model.base for name in names}
    config.report.evaluate.models = ",".join(
        f"{name}=@sweep_{name}/." + (f"?base={base}" if base != "stored" else "")
        for name, base in bases.items()
    )
    config.curve = curve.get_config()
    config.curve.curve.sweep = sweeps
    config.curve.curve.report = "@report/."
    return (*(f"sweep_{name}" for name in names), "report", "curve")


def smollm2(config: ConfigDict, few: bool):
    """How many of the refusals of `recipe:smollm2` are enough for its model."""
    recipe_smollm2.ladder(config)
    if few:
        recipe_smollm2.slice_of(config)
    config.sweep = config.sit.copy_and_resolve_references()
    config.sweep.checkpoint.export_merged = False
    config.sweep.stage = "sweep"
    config.sweep.sweep = group = sweep.group()
    group.axes = f"data.safety_rows={'0,16' if few else '0,20,80,1121'} seed=0,1,2"
    group.lanes = 6
    for name in ("judge", "sit", "raft", "dpo"):
        del config[name]
    config.report.evaluate.models = "n=@sweep/."
    config.curve = curve.get_config()
    config.curve.curve.sweep = "@sweep/."
    config.curve.curve.report = "@report/."
    config.recipe.minutes = ConfigDict()
    config.recipe.steps = ("own", "looker", "sweep", "report", "curve")
