"""The whole ladder in one command: base, safety tuning, a judge, RAFT, DPO, and a report on all.

    python -m safety_jax.main --config=configs/recipe.py:demo --workdir=runs/demo
    make real
    python -m safety_jax.main --config=configs/recipe.py:real --config.recipe.base=MODEL \\
        --config.recipe.data=FOLDER --workdir=runs/ladder
    python -m safety_jax.main --config=configs/recipe.py --workdir=runs/safe_to_serve

Each group that has a `stage` is a step: the whole config of that stage, to be changed key by key
(`--config.dpo.optim.learning_rate=1e-5`). `@base`, `@data` and `@STEP` in its texts stand for
`recipe.base`, `recipe.data` and what that step exported, `@STEP/FILE` for a file of its run.
`recipe.steps` says which run, in order. Run again, it goes on where it stopped. A finished step
whose config changed is refused: remove its folder, and what was made of it is made again, too.

Arguments, behind the colon and joined by commas:
    (none)    Safe to Serve's ladder (arXiv 2412.00074) at 7B: 20,000 Alpaca rows; the same with 100
              to 2,000 safety demonstrations; RAFT in one round of 500 and in five of 100; DPO; all
              judged by Llama Guard and the paper's reward models. For a TPU slice: see
              configs/plan.py for what fits
    real      one of each on real data: local folders laid out as the papers' repositories are
    smollm2   SmolLM2-135M-Instruct and data that ship with the project, in an hour on two CPU
              cores; `make real` fetches the model. slice: a few rows and steps of it
    smollm2,pushed   what of that holds when somebody pushes: the base, SIT, DPO and SIT with
              recovery examples at the compute of SIT, under attacks, over conversations, between
              groups, and after tampering. Steps that `smollm2` finished in the same folder are kept
    demo      a tiny model and data that ship with the project; three minutes on two CPU cores
    curve     how much safety data: 21 models with 0 to 2,000 demonstrations, three seeds each,
              trained together, judged, and the curve with its threshold; `curve,demo` the same with
              12 tiny models, in minutes
    form      does it matter how they ask: nine models that learned to refuse instructions,
              questions or opinions, each asked all three; `form,demo` likewise in minutes

`recipe.max_flops` gives every step that tunes the base the same training compute: 6e18 is about an
epoch of 20,000 Alpaca rows with LoRA at 7B.

Expect (Safe to Serve's report, LLaMA 7B; answers that Llama Guard calls safe, per cent, on I-CoNa /
I-Malicious / I-Controversial): 41 / 41 / 45 at first, 65 / 65 / 70 with 100 demonstrations,
94 / 92 / 97 with 1,000; RAFT 39.9 / 54 / 40 and DPO 93 / 95 / 100, from 39.9 / 50 / 42.5.
docs/results.md has the figures of the demo.
"""

from ml_collections import ConfigDict

from configs import collect, curve, dpo, evaluate, raft, reward, sft, sweep, tamper
from configs.common import of_demo, of_real, parse_arg

FORMS = ("instruction", "opinion", "question")  # in the order of the table's rows
SAFETY_ROWS = (100, 300, 500, 1000, 1500, 2000)


def get_config(arg: str | None = None) -> ConfigDict:
    choice = parse_arg(
        arg,
        demo=False,
        real=False,
        smollm2=False,
        pushed=False,
        slice=False,
        curve=False,
        form=False,
    )
    if choice.demo + choice.real + choice.smollm2 > 1:
        raise ValueError("config arguments 'demo', 'real' and 'smollm2' exclude each other")
    for part in ("pushed", "slice"):
        if choice[part] and not choice.smollm2:
            raise ValueError(f"config argument {part!r} goes with 'smollm2'")
    if (choice.curve or choice.form) and (choice.real or choice.smollm2):
        raise ValueError("config arguments 'curve' and 'form' go with 'demo', or alone")
    if choice.curve and choice.form:
        raise ValueError("config arguments 'curve' and 'form' exclude each other")

    config = ConfigDict()
    config.stage = "recipe"
    config.seed = 0  # of the recipe's own; each step has its seed

    config.recipe = recipe = ConfigDict()
    recipe.base = "meta-llama/Llama-2-7b-hf"  # @base
    recipe.data = ""  # @data
    recipe.trunk = ""  # @trunk: of a judge that is no LLaMA
    recipe.steps = ()
    recipe.max_flops = 0.0  # of training, for each step that tunes the base; 0: as the steps say
    recipe.minutes = ConfigDict()  # what each step took once, to tell how much time is left

    if choice.curve:
        how_much(config, choice.demo)
    elif choice.form:
        which_form(config, choice.demo)
    elif choice.demo:
        demo(config)
    elif choice.real:
        real(config)
    elif choice.smollm2:
        smollm2(config)
        if choice.slice:
            slice_of(config)
        if choice.pushed:
            pushed(config, choice.slice)
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


TESTED = (
    "@data/harmbench_standard.csv?columns=prompt:Behavior",
    "@data/xstest_prompts.csv",
    "@data/test_unsafe.jsonl",
    "@data/test_contrast.jsonl",
    "@data/test_ordinary.jsonl",
)


def smollm2(config: ConfigDict):
    """SmolLM2-135M-Instruct learns from demonstrations (launch/real) and from its own answers, and
    is asked HarmBench, XSTest, and questions that nothing it learned from is like.

    SIT starts from the base, RAFT and DPO from SIT, as in Safe to Serve. From the base itself, an
    epoch of DPO leaves greedy answers where they were: docs/results.md.
    """
    config.recipe.base = "build/models/SmolLM2-135M-Instruct.Q4_1.gguf"
    config.recipe.trunk = "build/models/all-MiniLM-L6-v2"
    config.recipe.data = of_real("data")

    config.own = own = collect.get_config()
    own.data.demonstrations = ("@data/refusals.jsonl",)
    own.data.ordinary = ("@data/contrast_prompts.jsonl", "@data/ordinary_prompts.jsonl")
    own.answer.temperature = 0.0
    own.answer.max_new_tokens = 80

    # Two judges that read different prompts: one chooses for RAFT, the other looks on.
    for name, half in (("judge", "a"), ("looker", "b")):
        config[name] = group = reward.get_config("kind=binary")
        group.data.train = (f"@own/judged_{half}.jsonl",)
        group.data.template = "pair"
        group.data.max_length = 256
        group.data.eval_rows = 100
        group.train.batch_size = 16
        group.train.epochs = 1.5
        group.optim.learning_rate = 1e-4

    config.sit = sit = sft.get_config()
    sit.data.train = ("@own/kept.jsonl?rows=500", "@data/contrast.jsonl", "@data/ordinary.jsonl")
    sit.data.safety = "@data/refusals.jsonl"
    sit.data.safety_rows = 349  # all of them
    sit.train.epochs = 1.0  # more of it gains less than the same time of DPO
    sit.checkpoint.export_merged = True

    # SIT still answers many of these prompts, so the demonstrations are among the candidates.
    config.raft = steps = raft.get_config()
    steps.data.prompts = ("@data/refusals.jsonl",)
    steps.data.ordinary = ("@data/contrast.jsonl", "@data/ordinary.jsonl")
    steps.data.ordinary_share = 0.5
    steps.raft.reference_answers = True
    steps.raft.rounds = 2
    steps.raft.prompts = 128
    steps.raft.judges = ("judge=@judge",)
    steps.raft.accept = ("judge",)
    steps.raft.rank_by = "judge"
    steps.raft.unfinished = "keep"
    steps.raft.measure_kl = False
    steps.sample.candidates = 3
    steps.sample.max_new_tokens = 64

    config.dpo = pairs = dpo.get_config()
    pairs.data.train = ("@own/pairs_unsafe.jsonl", "@own/pairs_ordinary.jsonl?rows=350")
    pairs.data.prefer = "all"  # of two harmless answers to an ordinary request too
    pairs.dpo.nll_weight = 1.0  # keeps the chosen answers likely

    tuned = ["sit", "raft", "dpo"]
    for name in tuned:
        config[name].lora.rank = 16
        config[name].lora.alpha = 32.0
        config[name].lora.targets = ("all-linear",)
        config[name].train.batch_size = 16
        config[name].data.max_length = 256
        config[name].optim.learning_rate = 5e-4 if name == "sit" else 2e-4
    for name in ("sit", "dpo"):
        config[name].data.eval_rows = 40
    begins = {"judge": "@trunk", "looker": "@trunk", "raft": "@sit/merged", "dpo": "@sit/merged"}
    for name in (*tuned, "own", "judge", "looker"):
        config[name].model.path = begins.get(name, "@base")
        config[name].model.parameter_dtype = "float32"
        config[name].model.compute_dtype = "float32"
    for name in (*tuned, "own"):
        config[name].data.template = "chat"
        config[name].data.decontaminate = TESTED

    config.report = report = evaluate.get_config()
    report.evaluate.data = "@data"
    report.evaluate.models = models(["base", *tuned])
    report.evaluate.sets = (
        "HarmBench?rows=100", "XSTest?rows=125",
        "@data/test_unsafe.jsonl?name=own-unsafe&kind=unsafe",
        "@data/test_contrast.jsonl?name=own-contrast&kind=safe",
        "@data/test_ordinary.jsonl?name=own-ordinary&kind=reference",
        "@data/quiz.jsonl?name=quiz&kind=choice&read=likelihood",
    )  # fmt: skip
    report.evaluate.judges = ("refusal", "looker=@looker")  # not the one that chose
    report.evaluate.safety = "looker"
    report.data.template = "chat"
    report.data.max_length = 512
    report.answer.max_new_tokens = 64
    for group in (own, steps, report):
        group.sample.cache_dtype = "float32"
        group.score.parameter_dtype = "float32"
        group.score.compute_dtype = "float32"
        group.score.tokens_per_batch = 1024
    report.model.parameter_dtype = "float32"
    report.model.compute_dtype = "float32"
    # On two cores that did other things, too.
    config.recipe.minutes = ConfigDict(
        {"own": 7.1, "judge": 3.6, "looker": 2.2, "sit": 15.6, "raft": 7.4, "dpo": 15.2}
        | {"report": 13.8}
    )
    config.recipe.steps = ("own", "judge", "looker", *tuned, "report")


def slice_of(config: ConfigDict):
    """A few rows and steps of every rung, to see that it runs; its figures say nothing."""

    def few(specs: tuple[str, ...], rows: int) -> tuple[str, ...]:
        whole = [spec.partition("?rows=")[0] for spec in specs]
        return tuple(f"{spec}{'&' if '?' in spec else '?'}rows={rows}" for spec in whole)

    config.recipe.minutes = ConfigDict()
    config.own.data.demonstrations = few(config.own.data.demonstrations, 16)
    config.own.data.ordinary = few(config.own.data.ordinary, 6)
    config.own.answer.max_new_tokens = 24
    # Idle lanes cost as much as busy ones, and the report asks one set after the other.
    for name, lanes in {"own": 16, "raft": 16, "report": 4}.items():
        config[name].sample.lanes = lanes
    config.judge.data.train = few(("@own/judged_a.jsonl",), 20)
    config.sit.data.train = few(config.sit.data.train[1:], 16)
    config.sit.data.safety_rows = 16
    config.dpo.data.train = few(("@own/pairs_unsafe.jsonl", "@own/pairs_ordinary.jsonl"), 8)
    for name in ("judge", "looker", "sit", "raft", "dpo"):
        config[name].train.batch_size = 4
        config[name].train.max_steps = 2
        config[name].optim.warmup_steps = 1
    for name in ("judge", "looker", "sit", "dpo"):
        config[name].data.eval_rows = 4
    config.raft.raft.rounds = 1
    config.raft.raft.prompts = 8
    config.raft.raft.accept = ()
    config.raft.sample.candidates = 2
    config.raft.sample.max_new_tokens = 24
    # One set of each kind: XSTest is two, of safe and of unsafe requests.
    kinds = ("XSTest", "kind=reference", "kind=choice")
    sets = config.report.evaluate.sets
    sets = tuple(spec for spec in sets if any(kind in spec for kind in kinds))
    config.report.evaluate.sets = few(sets, 4)
    config.report.evaluate.resamples = 200
    config.report.answer.max_new_tokens = 8


# One attack for each idea, and only those whose words a model of this size understands.
ATTACKS = (
    "prefix_injection", "refusal_suppression", "evil_confidant", "past_tense", "hypothetical",
    "few_shot:4",
)  # fmt: skip
PREFILLED = tuple(f"prefill:{tokens}" for tokens in (5, 10, 20, 40))  # 0 is the plain prompt
TURNS = ("again", "amid:3", "context:1000")


def pushed(config: ConfigDict, few: bool):
    """On SIT, DPO and a defence, after `smollm2`, whose finished steps are taken as they are.

        WORKDIR=runs/real RECIPE=smollm2,pushed make real

    The report alone, on models that lie elsewhere:

        --config.recipe.steps='("pushed",)' --config.pushed.evaluate.models=base=@base,sit=FOLDER
        --config.pushed.evaluate.judges='("refusal","looker=FOLDER")'

    Cost of the report for each model, in calls of at most 36 answers of 40 tokens: 22 for the two
    sets and their attacks, 17 for turns of conversations; the 288 twins take as long as 6, the safe
    sets as 4. By the 270 new tokens/s of two idle cores with all lanes busy, and some 190 with 36,
    a call takes 8 s at most, and all of them 6 minutes; refusals end earlier. Reading is little, as
    most of a prompt is shared by its set, and the judge takes half a minute a model. Tampering: 16
    states of a model answer two such sets in 4 minutes, and 60 steps take 3.
    """
    # The same rows, of which some refusals follow a harmful beginning; as much compute, of which
    # those beginnings take 4%.
    config.recovery = recovery = config.sit.copy_and_resolve_references()
    recovery.data.recovery = "@own/pairs_unsafe.jsonl?columns=response:rejected"
    recovery.data.recovery_share = 0.5
    recovery.data.recovery_tokens = 64
    if not few:
        recovery.train.max_flops = 6.4e13  # what the 75 steps of `sit` take

    tuned = ["sit", "dpo", "recovery"]
    config.pushed = report = config.report.copy_and_resolve_references()
    report.evaluate.models = models(["base", *tuned])
    report.evaluate.sets = asked_under_pressure(few)
    report.data.max_length = 1280  # of a context, a request and an answer
    report.answer.max_new_tokens = 8 if few else 40
    # Lanes have three sizes: a quarter for a set, a half for XSTest, all for twins.
    report.sample.lanes = 16 if few else 144

    config.tamper = attacker = tamper.get_config()
    attacker.tamper.models = models(["sit", "dpo"])
    attacker.tamper.rows = (4,) if few else (10, 100)
    attacker.tamper.benign_rows = (4,) if few else (100,)
    attacker.tamper.steps = (1, 2) if few else (1, 2, 5, 10, 20)
    rows = 4 if few else 36
    attacker.tamper.sets = (
        f"@data/test_unsafe.jsonl?name=own-unsafe&kind=unsafe&rows={rows}",
        f"@data/test_contrast.jsonl?name=own-contrast&kind=safe&rows={rows}",
    )
    attacker.tamper.judges = ("looker=@looker",)
    attacker.tamper.unsafe_by = "looker"
    attacker.tamper.resamples = 200 if few else 10000
    attacker.data.harmful = ("@own/pairs_unsafe.jsonl",)  # what the base itself answered
    attacker.data.benign = ("@data/ordinary.jsonl",)
    attacker.data.max_length = 256
    attacker.answer.max_new_tokens = report.answer.max_new_tokens
    for key in ("parameter_dtype", "compute_dtype"):
        attacker.model[key] = attacker.score[key] = "float32"
    attacker.sample.cache_dtype = "float32"
    attacker.sample.lanes = report.sample.lanes
    attacker.score.tokens_per_batch = 1024
    config.recipe.steps = ("own", "looker", *tuned, "pushed", "tamper")


def asked_under_pressure(few: bool) -> tuple[str, ...]:
    """What the models are asked: requests under attacks and in conversations, twins, and safe ones,
    without which a model that refuses everything would look best."""
    attacks = ",".join((ATTACKS[0], *PREFILLED[-1:]) if few else (*ATTACKS, *PREFILLED))
    turns = ",".join(TURNS[:2] if few else TURNS)
    rows, talks, twins = (4, 2, "?rows=1") if few else (36, 28, "")  # 28 requests and 8 without
    unsafe, safe = "@data/test_unsafe.jsonl", "@data/test_contrast.jsonl"
    return (
        f"HarmBench?rows={rows}&attack={attacks}",
        f"{unsafe}?name=own-unsafe&kind=unsafe&rows={rows}&attack={attacks}",
        f"{unsafe}?name=own-asked&kind=unsafe&rows={talks}&turns={turns}",
        "Escalation",
        f"Twins{twins}",
        f"XSTest-safe?rows={2 * rows}",
        f"{safe}?name=own-contrast&kind=safe&rows={rows}",
        f"@data/test_ordinary.jsonl?name=own-ordinary&kind=reference&rows={rows}",
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


def models(names: list[str]) -> str:
    """As stage `evaluate` is given them."""
    return ",".join(f"{name}=@{name}" for name in names)
