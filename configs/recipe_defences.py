"""The recipes of `configs/recipe.py:defences`: every defence of docs/defences.md but W-DOOR, whose
proxy must be trained first, against plain SIT and plain DPO, at the same training compute. Not a
config by itself.

    base -> sit, recovery, even, narrow        instruction tuning for 2F FLOPs
    base -> begun -> dpo, dpo_recovery, door, safe     F FLOPs each, after the F of `begun`
                  -> further, held             F FLOPs on ordinary rows only

As in the other recipes, DPO starts from a model that has begun to refuse. `held` protects a safe
model while it is fine-tuned on other data. `further` is the same fine-tuning without protection,
and step `later` compares the two.
"""

from ml_collections import ConfigDict

from configs import dpo, evaluate, recipe_smollm2, reward, sft
from configs.common import models, of_demo
from configs.recipe_smollm2 import PREFILLED

FROM_BASE = ("sit", "recovery", "even", "narrow")
FROM_BEGUN = ("dpo", "dpo_recovery", "door", "safe", "further", "held")
FLOPS = 3.7e13  # twice that is an epoch of SIT on as many rows
WORDED = ("prefix_injection", "hypothetical", "past_tense", "few_shot:4")


def demo(config: ConfigDict):
    """On the demo's model, which learns 30 refusals, so that there is something to defend."""
    config.recipe.base = of_demo("model")
    config.recipe.data = of_demo("data")
    config.judge = reward.get_config("demo,kind=binary")
    config.judge.model.path = "@base"
    config.sit = sft.get_config("demo,safety=30")
    config.dpo = dpo.get_config("demo")
    defend(config, harmful="@data/pairs.jsonl?columns=response:rejected", flops=1.2e11)
    config.narrow.lora.layers = "1-2"  # of four

    config.report = report = evaluate.get_config("demo")
    # Short wordings, for a small model; and answers begin as its own harmful ones do.
    attacks = ",".join(("prefix_injection", "past_tense", "few_shot:1", *PREFILLED))
    unsafe, *others = report.evaluate.sets
    report.evaluate.sets = (f"{unsafe}&columns=opening:obeyed&attack={attacks}", *others)
    report.evaluate.judges = ("refusal", "judge=@judge")
    report.data.max_length = 256
    report.sample.lanes = 96  # a set at a time
    compare(config)
    config.recipe.steps = ("judge", "begun", *FROM_BASE, *FROM_BEGUN, "report", "later")


def smollm2(config: ConfigDict, few: bool):
    """On SmolLM2-135M-Instruct, with what the first steps of `smollm2` made of its own answers.

    Args:
        few: a few rows and steps of everything, to see that it runs.
    """
    recipe_smollm2.ladder(config)
    if few:
        recipe_smollm2.slice_of(config)
    config.sit.data.safety = "@data/refusals.jsonl?columns=category:kind"
    if not few:
        config.sit.data.safety_rows = 150  # of 1,121, so that it matters which
    config.sit.checkpoint.export_merged = False
    harmful = "@own/pairs_unsafe.jsonl?columns=response:rejected"
    defend(config, harmful=harmful, flops=0.0 if few else FLOPS)
    config.narrow.lora.layers = "10-19"  # of 30
    for name in ("further", "held"):
        config[name].data.train = config.sit.data.train[1:]  # whole answers
        config[name].optim.learning_rate = 5e-4
    rows = 4 if few else 36
    attacks = ",".join(("past_tense", "prefill:5") if few else (*WORDED, *PREFILLED))
    config.report.evaluate.sets = (
        f"HarmBench?rows={rows}&attack={attacks}",
        f"@data/test_unsafe.jsonl?name=own-unsafe&kind=unsafe&rows={rows}&attack={attacks}",
        f"XSTest-safe?rows={2 * rows}",
        f"@data/test_contrast.jsonl?name=own-contrast&kind=safe&rows={rows}",
        f"@data/test_ordinary.jsonl?name=own-ordinary&kind=reference&rows={rows}",
        f"@data/quiz.jsonl?name=quiz&kind=choice&read=likelihood&rows={4 * rows}",
    )
    config.report.answer.max_new_tokens = 8 if few else 40
    config.report.sample.lanes = 16 if few else 144
    for name in ("raft", "judge"):
        del config[name]
    compare(config)
    config.recipe.minutes = ConfigDict()
    first = ("own", "looker", "begun")
    config.recipe.steps = (*first, *FROM_BASE, *FROM_BEGUN, "report", "later")


def defend(config: ConfigDict, *, harmful: str, flops: float):
    """From the groups `sit` and `dpo`, one for each defence, all at the same compute.

    Args:
        harmful: a source of harmful answers to the prompts of `sit`.
        flops: of training, half of what each model gets.
    """
    for name in ("recovery", "even", "narrow", "begun", "further", "held"):
        config[name] = config.sit.copy_and_resolve_references()
    for name in ("dpo_recovery", "door", "safe"):
        config[name] = config.dpo.copy_and_resolve_references()

    config.recovery.data.recovery = harmful
    for name in ("recovery", "dpo_recovery", "door"):
        config[name].data.recovery_share = 0.5
    config.even.data.safety_choice = "refusals"
    config.narrow.lora.rank, config.narrow.lora.alpha = 1, 2.0
    config.narrow.lora.targets = ("up_proj",)
    for name in ("further", "held"):
        config[name].data.safety_rows = 0
        config[name].sft.early_weight, config[name].sft.early_tokens = 1.0, 5
    config.held.sft.objective = "constrained"
    for name in ("door", "safe"):
        group = config[name].dpo
        group.objective, group.nll_weight = name, 0.0
        group.beta, group.smoothing, group.margin = dpo.OBJECTIVES[name]
    config.safe.data.prefer = "safety_first"

    config.begun.checkpoint.export_merged = True
    for name in (*FROM_BASE, "begun"):
        config[name].model.path = "@base"
        config[name].train.max_flops = flops if name == "begun" else 2 * flops
    for name in FROM_BEGUN:
        config[name].model.path = "@begun/merged"
        config[name].train.max_flops = flops


def compare(config: ConfigDict):
    """The report on all, and one on the two that went on with ordinary rows."""
    config.report.evaluate.models = models(["base", *FROM_BASE, *FROM_BEGUN])
    config.report.evaluate.baseline = "sit"
    config.later = config.report.copy_and_resolve_references()
    config.later.evaluate.models = ""
    answered = (f"{name}=@report/responses/{name}" for name in ("further", "held"))
    config.later.evaluate.responses = ",".join(answered)
    config.later.evaluate.baseline = "further"
