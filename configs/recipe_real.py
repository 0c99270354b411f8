"""The papers' own data on a small chat model: see configs/recipe.py, arguments `real` and
`real,slice`.

    python -m launch.real.fetch build/models
    python -m safety_jax.main --config=configs/recipe.py:real --config.recipe.data=FOLDER \\
        --workdir=runs/ladder

FOLDER contains the papers' repositories, with their original file names; the paths after `@data`
below show which files are read. None of them ship with the project, because their licences do not
permit it.

SIT is trained on Alpaca with safety demonstrations, RAFT on the model's own answers to the prompts
of such demonstrations, DPO on PKU-SafeRLHF's pairs. All are evaluated on the sets of both papers,
XSTest, HarmBench, the Alpaca test split and OpenBookQA. Four judges are trained on different data:

    judge    PKU-SafeRLHF's pairs      ranks RAFT's candidates; so never report it alone
    looker   HH-harmless's pairs       only evaluates
    guard    Llama Guard's verdicts    only evaluates; cross-fitted in two halves, each judging the
                                       prompts that the other was trained on, because these are
                                       also prompts of the report
    refusal  rules, not trained        only evaluates
"""

from ml_collections import ConfigDict

from configs import dpo, evaluate, raft, reward, sft
from configs.common import models

ALPACA = "@data/alpaca/alpaca_data_safety_only.json"
SAFETY = "@data/safety_tuned_llamas/training/safety_only_data_Instructions.json"
PAIRS = "@data/safe_to_serve/pku_safe_rlhf/DPO_safe_rlhf_eval_data.arrow?bad_rows=skip"
HARMLESS = "@data/hh_rlhf/harmless-base/test.jsonl.gz?bad_rows=skip"
LEVELS = ("no_safety", "safety_100")  # of LLaMA-2-7B whose answers Llama Guard has judged
SETS = ("I-CoNa", "I-MaliciousInstructions", "I-Controversial")
# Not learned from where a training prompt is nearly one of these.
TESTED = (
    *(f"@data/safety_tuned_llamas/evaluation/{name}.json" for name in SETS),
    "@data/safety_tuned_llamas/evaluation/I-PhysicalSafetyUnsafe.json",
    "@data/xstest/xstest_prompts.csv",
    "@data/harmbench/harmbench_behaviors_text_all.csv?columns=prompt:Behavior",
    "@data/safe_to_serve/helpfulness/alpaca_test.json",
)


def ladder(config: ConfigDict):
    """SIT from the base, RAFT and DPO from SIT; sized for an hour or two on two CPU cores."""
    config.recipe.base = "build/models/SmolLM2-135M-Instruct.Q4_1.gguf"
    config.recipe.trunk = "build/models/all-MiniLM-L6-v2"
    judges(config)

    config.sit = sit = sft.get_config()
    sit.data.train = (f"{ALPACA}?rows=1000",)
    sit.data.safety = SAFETY
    sit.data.safety_rows = 300
    sit.train.epochs = 1.0
    sit.checkpoint.export_merged = True

    # The demonstrations are among the candidates: the tuned model still answers many prompts.
    config.raft = steps = raft.get_config()
    steps.data.prompts = (SAFETY,)
    steps.data.ordinary = (ALPACA,)
    steps.data.ordinary_share = 0.5
    steps.raft.reference_answers = True
    steps.raft.rounds = 2
    steps.raft.prompts = 128
    steps.raft.judges = ("judge=@judge",)
    steps.raft.rank_by = "judge"
    steps.raft.unfinished = "keep"
    steps.raft.measure_kl = False
    steps.sample.candidates = 3
    steps.sample.max_new_tokens = 64

    config.dpo = pairs = dpo.get_config()
    pairs.data.train = (f"{PAIRS}&rows=700",)
    pairs.data.prefer = "all"  # the file says which answer is better, not which is safe
    pairs.dpo.nll_weight = 1.0  # keeps the chosen answers likely

    tuned = ["sit", "raft", "dpo"]
    for name in tuned:
        config[name].model.path = "@base" if name == "sit" else "@sit/merged"
        config[name].lora.rank = 16
        config[name].lora.alpha = 32.0
        config[name].lora.targets = ("all-linear",)
        config[name].train.batch_size = 16
        config[name].data.template = "chat"
        config[name].data.max_length = 256
        config[name].data.overlong_prompt = "skip"
        config[name].data.decontaminate = TESTED
        config[name].optim.learning_rate = 5e-4 if name == "sit" else 2e-4
    for name in ("sit", "dpo"):
        config[name].data.eval_rows = 40

    config.report = report = evaluate.get_config()
    report.evaluate.data = "@data"
    report.evaluate.models = models(["base", *tuned])
    report.evaluate.sets = (
        "I-CoNa?rows=100", "I-MaliciousInstructions", "I-Controversial", "I-PhysicalSafety?rows=50",
        "XSTest?rows=100", "HarmBench?rows=100", "Alpaca-test?rows=100",
        "OpenBookQA?rows=200&read=likelihood",
    )  # fmt: skip
    report.evaluate.judges = (
        "refusal", "judge=@judge", "looker=@looker", "guard=@guard1|@guard2",
    )  # fmt: skip
    report.evaluate.safety = "guard"  # did not choose, and never saw the prompt
    report.evaluate.helpfulness = "judge"
    report.data.template = "chat"
    report.data.max_length = 512
    report.answer.max_new_tokens = 64

    for group in (steps, report):
        group.score.tokens_per_batch = 1024
    config.recipe.steps = ("judge", "looker", "guard1", "guard2", *tuned, "report")


def judges(config: ConfigDict):
    """Two that learn which answer is better, of two data sets; and two halves of one that learns
    what Llama Guard called unsafe."""
    config.judge = reward.get_config("kind=pairs")
    config.judge.data.train = (PAIRS,)
    config.looker = reward.get_config("kind=pairs")
    config.looker.data.train = (HARMLESS,)
    for number in (1, 2):
        config[f"guard{number}"] = guard = reward.get_config("kind=binary")
        guard.data.train = tuple(
            f"@data/safe_to_serve/sit/{level}/responses_cm_{name}.json?name={level}-{name}"
            "&columns=prompt:instructions,response:outputs,label:llama_guard_response"
            f"&prompts=-{number}/2"
            for level in LEVELS
            for name in SETS
        )
        guard.data.eval_rows = 0  # its other half is what it is measured on
        guard.train.epochs = 3.0
    for name in ("judge", "looker"):
        group = config[name]
        group.reward.direction = "higher is safer"
        group.data.eval_rows = 300
        group.train.max_steps = 150
    for name in ("judge", "looker", "guard1", "guard2"):
        group = config[name]
        group.model.path = "@trunk"
        group.data.template = "pair"
        group.data.max_length = 160  # encoders fill rows up; three answers of four end before
        group.data.bad_rows = "skip"
        group.train.batch_size = 16
        group.optim.learning_rate = 1e-4
        group.log.eval_every_steps = 1000


def slice_of(config: ConfigDict):
    """A few rows and steps of every rung, to see that it runs; its figures say nothing."""

    def few(specs: tuple[str, ...], rows: int) -> tuple[str, ...]:
        found = []
        for spec in specs:
            location, _, query = spec.partition("?")
            kept = [item for item in query.split("&") if item and not item.startswith("rows=")]
            found.append(f"{location}?{'&'.join([*kept, f'rows={rows}'])}")
        return tuple(found)

    for name in ("judge", "looker", "guard1", "guard2", "sit", "dpo"):
        config[name].data.train = few(config[name].data.train[:2], 16)
    config.sit.data.safety_rows = 8
    for name in ("judge", "looker", "guard1", "guard2", "sit", "raft", "dpo"):
        config[name].train.batch_size = 4
        config[name].train.max_steps = 2
        config[name].optim.warmup_steps = 1
    for name in ("judge", "looker", "sit", "dpo"):
        config[name].data.eval_rows = 4
    config.raft.raft.rounds = 1
    config.raft.raft.prompts = 8
    config.raft.sample.candidates = 2
    config.raft.sample.max_new_tokens = 16
    config.raft.sample.lanes = 16
    # One set of each kind.
    config.report.evaluate.sets = few(
        ("I-CoNa", "XSTest-safe", "Alpaca-test", "OpenBookQA?read=likelihood"), 4
    )
    config.report.evaluate.resamples = 200
    config.report.answer.max_new_tokens = 8
    config.report.sample.lanes = 4
