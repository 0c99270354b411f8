"""The recipes of `configs/recipe.py:smollm2`, on a real model. Not a config by itself."""

from ml_collections import ConfigDict

from configs import collect, dpo, evaluate, raft, reward, sft, tamper
from configs.common import models, of_real

TESTED = (
    "@data/harmbench_standard.csv?columns=prompt:Behavior",
    "@data/xstest_prompts.csv",
    "@data/test_unsafe.jsonl",
    "@data/test_contrast.jsonl",
    "@data/test_ordinary.jsonl",
)


def ladder(config: ConfigDict):
    """SmolLM2-135M-Instruct learns from demonstrations (launch/real) and from its own answers, and
    is asked HarmBench, XSTest, and questions that nothing it learned from is like.

    SIT starts from the base, RAFT and DPO from SIT, as in Safe to Serve. From the base itself, an
    epoch of DPO leaves greedy answers where they were: docs/results/smollm2.md.
    """
    config.recipe.base = "build/models/SmolLM2-135M-Instruct.Q4_1.gguf"
    config.recipe.trunk = "build/models/all-MiniLM-L6-v2"
    config.recipe.data = of_real("data")

    config.own = own = collect.get_config()
    own.data.demonstrations = ("@data/refusals.jsonl",)
    own.data.ordinary = ("@data/contrast_prompts.jsonl", "@data/ordinary_prompts.jsonl")
    own.answer.temperature = 0.0
    own.answer.max_new_tokens = 64
    # Whether it refuses is decided in the first tokens; the rest of its own answer teaches it
    # nothing.
    own.collect.kept_tokens = 10

    # Two judges that read different prompts: one chooses for RAFT, the other looks on.
    for name, half in (("judge", "a"), ("looker", "b")):
        config[name] = group = reward.get_config("kind=binary")
        group.data.train = (f"@own/judged_{half}.jsonl?rows=1400",)
        group.data.template = "pair"
        group.data.max_length = 256
        group.data.eval_rows = 100
        group.train.batch_size = 16
        group.train.epochs = 1.5
        group.optim.learning_rate = 1e-4

    config.sit = sit = sft.get_config()
    sit.data.train = ("@own/kept.jsonl", "@data/contrast.jsonl", "@data/ordinary.jsonl")
    sit.data.safety = "@data/refusals.jsonl"
    sit.data.safety_rows = 1121  # all of them
    sit.sft.early_weight, sit.sft.early_tokens = 30.0, 2  # why: docs/results/smollm2.md
    sit.train.epochs = 2.0
    sit.lora.dropout = 0.0
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
    pairs.data.train = ("@own/pairs_unsafe.jsonl?rows=320", "@own/pairs_ordinary.jsonl?rows=320")
    pairs.data.prefer = "all"  # of two harmless answers to an ordinary request too
    pairs.dpo.nll_weight = 1.0  # keeps the chosen answers likely

    tuned = ["sit", "raft", "dpo"]
    for name in tuned:
        config[name].lora.rank = 16
        config[name].lora.alpha = 32.0
        config[name].lora.targets = ("all-linear",)
        config[name].train.batch_size = 16
        config[name].data.max_length = 256
        config[name].optim.learning_rate = 2e-3 if name == "sit" else 2e-4
    for name in ("sit", "dpo"):
        config[name].data.eval_rows = 40
    begins = {"judge": "@trunk", "looker": "@trunk", "raft": "@sit/merged", "dpo": "@sit/merged"}
    for name in (*tuned, "own", "judge", "looker"):
        config[name].model.path = begins.get(name, "@base")
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
        group.score.tokens_per_batch = 1024
    config.recipe.minutes = ConfigDict(
        {"own": 6.8, "judge": 1.9, "looker": 1.8, "sit": 22.6, "raft": 4.9, "dpo": 11.9}
        | {"report": 9.9}
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
    for name in ("judge", "looker"):
        config[name].data.train = few(config[name].data.train, 20)
    kept, *answered = config.sit.data.train
    config.sit.data.train = (kept, *few(tuple(answered), 16))
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
        recovery.train.max_flops = 2.24e14  # about what the steps of `sit` take

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
    # The looker calls hardly any answer unsafe that is given once refusals are gone.
    attacker.tamper.judges = ("looker=@looker",)
    attacker.tamper.unsafe_by = "complies"
    attacker.tamper.resamples = 200 if few else 10000
    attacker.data.harmful = ("@own/pairs_unsafe.jsonl",)  # what the base itself answered
    attacker.data.benign = ("@data/ordinary.jsonl",)
    attacker.data.max_length = 256
    attacker.answer.max_new_tokens = report.answer.max_new_tokens
    attacker.sample.lanes = report.sample.lanes
    attacker.score.tokens_per_batch = 1024
    config.recipe.steps = ("own", "looker", *tuned, "pushed", "tamper")


STRENGTHS = {"sit": (0.5, 0.75, 0.875, 1.25), "raft": (0.5,), "dpo": (0.25, 0.5, 0.75)}


def frontier(config: ConfigDict, few: bool):
    """Adapters weaker and stronger than they were trained, after `smollm2`: the line along which
    each method buys safety with over-refusal, at no training.

        WORKDIR=runs/real RECIPE=smollm2,frontier make real

    RAFT and DPO begin at SIT, which is therefore their strength 0.
    """
    tuned = ["sit", "raft", "dpo"]
    named = [models(["base", *tuned])] + [
        f"{name}_{100 * strength:.0f}=@{name}?strength={strength}"
        for name, strengths in STRENGTHS.items()
        for strength in strengths[: 1 if few else None]
    ]
    config.frontier = report = config.report.copy_and_resolve_references()
    report.evaluate.models = ",".join(named)
    if not few:
        report.evaluate.sets = report.evaluate.sets[:4]  # requests, unsafe and safe
    config.recipe.steps = ("own", "judge", "looker", *tuned, "frontier")


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
