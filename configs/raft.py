"""Reward-ranked fine-tuning: sample answers, keep the best safe one, fine-tune on it, repeat.

Papers: RAFT (arXiv 2304.06767); Safe to Serve (arXiv 2412.00074), its RAFT part.

    python -m safety_jax.main --config=configs/raft.py --config.model.path=SFT_MODEL \\
        --config.data.prompts=PROMPTS --config.raft.judges=runs/judge/export --workdir=runs/raft

Judges: the export of a run of stage `reward`, as FOLDER or NAME=FOLDER (several as a tuple,
quoted); judges in `score.judges` as in configs/score.py; `refusal`, which cannot rank but is
logged.

Arguments, after the colon and separated by commas:
    demo        the tiny model, prompts and a rule as judge; two minutes on a laptop
    paper=...   original: RAFT's own hyperparameters (arXiv 2304.06767)
                b500: Safe to Serve, 500 prompts in one round; b100: 100 prompts in five rounds;
                `raft.protocol_notes` lists what differs here

Cost: every round answers `raft.prompts` prompts `sample.candidates` times, scores all answers with
every judge, and trains on the chosen ones for `train.epochs`. Sampling takes by far the longest.

Expect (Safe to Serve's report, LLaMA 7B; answers that Llama Guard calls safe, per cent, on I-CoNa /
I-Malicious / I-Controversial): 39.9 / 50 / 42.5 before, 39.9 / 54 / 40 after b500 and
39.9 / 54 / 44.5 after b100. The defaults here differ: they reject candidates that the safety judge
does not accept, sample more candidates and train longer on them. docs/results/small-models.md
says what that changes.
"""

from ml_collections import ConfigDict

from configs.common import (
    answers,
    auto,
    complies,
    judging,
    of_demo,
    parse_arg,
    published_judge,
    set_pace,
)


def get_config(arg: str | None = None) -> ConfigDict:
    choice = parse_arg(arg, demo=False, paper=("", "b500", "b100", "original"))
    if choice.demo and choice.paper:
        raise ValueError("config arguments 'demo' and 'paper' exclude each other; drop one")

    config = defaults()
    if choice.paper == "original":
        original(config)
    elif choice.paper:
        safe_to_serve(config, choice.paper)
    elif choice.demo:
        demo(config)
    return config


def defaults() -> ConfigDict:
    """Every key, with the value that it has without an argument."""
    config = ConfigDict()
    config.stage = "raft"
    config.seed = 0

    config.model = model = ConfigDict()
    model.path = ""  # a Hugging Face folder, hub id or GGUF file; must be given
    model.init = "pretrained"  # or "random": only config and tokenizer are read from the path
    model.adapter = ""  # a PEFT folder to start from
    model.tokenizer = ""  # "": the model's own
    model.parameter_dtype = "auto"  # of the frozen base; what is trained is float32
    model.base = "stored"  # its kernels as the folder has them; int8, nf4: quantised on reading
    model.compute_dtype = "auto"  # bfloat16; on a CPU without units for it float32
    model.attention = "auto"  # xla, cudnn (GPU), splash (TPU)
    model.remat = "auto"  # what fits; or none, dots, full: less memory, more compute

    config.lora = lora = ConfigDict()
    lora.rank = 16  # 0: full fine-tuning
    lora.alpha = 32.0
    lora.dropout = 0.0
    lora.targets = ("all-linear",)
    lora.initialization = "peft"  # or "zero_a": A = 0, B random
    lora.rslora = False
    lora.layers = ""  # numbers and ranges, 8-11,20; "": all

    config.data = data = ConfigDict()
    data.prompts = ("",)  # sources of unsafe prompts; must be given
    data.ordinary = ("",)  # sources of ordinary prompts, so that helpfulness is trained too
    data.ordinary_share = 0.0  # of the prompts of a round
    data.order = "shuffled"  # or "file"
    data.eval = ()  # sources of prompts that are answered and judged after every round
    data.decontaminate = ()  # tests: near-duplicates of their prompts are not learned
    data.template = "alpaca"
    data.train_on = "response"  # or "everything"
    data.max_length = 512  # of prompt and answer
    data.row_tokens = 0  # tokens of a packed row; 0: what packs best, at most max_length
    data.packing = True
    data.share_prompts = True  # what all answers begin with is read once for several
    data.overlong_prompt = "error"  # or "skip"
    data.special_text = "text"  # what spells a control token is letters; or "error", "skip"
    data.reasoning = "keep"  # or "drop": thoughts that rows have beside or in their answers
    data.enable_thinking = ""  # of chat templates that ask: "true", "false"; "": their own choice
    data.template_date = ""  # for chat templates that write it: 2024-07-26; "": the first start's
    data.prefetch_steps = 2

    config.raft = rounds()

    config.sample = answers(temperature=1.0, candidates=16, max_new_tokens=128)
    set_pace(config.sample, prompts_per_write=64)
    # of the prompts of data.eval
    config.answer = answers(temperature=0.0, candidates=1, max_new_tokens=128)
    config.score = judging()

    config.train = train = ConfigDict()
    train.batch_size = 32  # answers an optimizer step
    train.rows_per_microbatch = auto()  # or rows over all devices; memory and time only
    train.chunk_tokens = 128  # tokens of a row whose logits exist at once; memory only
    train.max_steps = 0  # of a round; 0: by epochs
    train.max_flops = 0.0  # of a round's training; 0: as the above say
    train.epochs = 2.0

    config.optim = optim = ConfigDict()
    optim.learning_rate = 2e-4
    optim.schedule = "constant"  # cosine, linear: compiled anew where rounds differ in steps
    optim.warmup_steps = 2
    optim.weight_decay = 0.0
    optim.beta1 = 0.9
    optim.beta2 = 0.999
    optim.epsilon = 1e-8
    optim.clip_norm = 1.0

    config.mesh = mesh = ConfigDict()
    mesh.data = -1  # -1: what is left
    mesh.fsdp = 1
    mesh.tensor = 1

    config.checkpoint = checkpoint = ConfigDict()
    checkpoint.every_steps = 100
    checkpoint.keep_last = 1
    checkpoint.export = "last"
    checkpoint.best_metric = "loss"
    checkpoint.best_is = "lowest"
    checkpoint.export_merged = False  # also write the full model, adapters added
    checkpoint.export_dtype = "bfloat16"

    config.log = log = ConfigDict()
    log.every_steps = 5
    log.eval_every_steps = 1000000
    log.tensorboard = False
    log.wandb = False
    log.compilation_cache = ""  # "": the user's cache folder
    return config


def rounds() -> ConfigDict:
    """What a round draws, keeps and goes on from."""
    raft = ConfigDict()
    raft.rounds = 5
    raft.prompts = 512  # of a round
    raft.patience = 0  # rounds without a rise of the selected reward before the end; 0: never
    raft.reuse_prompts = False  # begin again when all prompts were drawn
    raft.judges = ()  # see above
    raft.judges_resident = True  # keep their weights in memory while the policy trains
    raft.rank_by = ""  # the judge that ranks; "": the first
    raft.accept = ()  # judges whose threshold a candidate must pass
    raft.kl_weight = 0.0  # ranks by reward - kl_weight * log(p / p0)
    raft.unfinished = "reject"  # or "keep": answers cut at max_new_tokens
    raft.reference_answers = False  # the answer of a prompt's row is one more candidate
    raft.people = False  # people choose, in files; judges only look on
    raft.adapter = "continue"  # or "merge": a fresh adapter every round, merged into the base
    raft.measure_kl = True  # reads every candidate with the first model too
    raft.diversity_alarm = 0.5  # distinct-2 below so much of the first round's
    raft.length_alarm = 2.0  # selected answers above so many times the first round's
    raft.protocol_notes = ()  # what the model card must say about the recipe
    return raft


def original(config: ConfigDict):
    """arXiv 2304.06767, section 4, on LLaMA 7B."""
    config.raft.rounds = 15
    config.raft.prompts = 2048
    config.raft.patience = 3
    config.raft.unfinished = "keep"
    config.sample.temperature = 0.85
    config.sample.candidates = 8
    config.data.max_length = 384
    config.data.overlong_prompt = "skip"
    config.lora.rank = 0
    config.model.parameter_dtype = "float32"
    config.optim.learning_rate = 2e-5
    config.optim.schedule = "linear"
    config.optim.warmup_steps = 0
    config.train.epochs = 2.0
    config.raft.protocol_notes = (
        "recipe: arXiv 2304.06767, as its authors' LMFlow files have it; the paper's batch size "
        "and reward model are not here: set train.batch_size and raft.judges",
    )


def safe_to_serve(config: ConfigDict, version: str):
    """arXiv 2412.00074, from the model after 20,000 Alpaca rows."""
    rounds, prompts = {"b500": (1, 500), "b100": (5, 100)}[version]
    config.seed = 42
    config.model.path = "yahma/llama-7b-hf"
    config.lora.rank = 4
    config.lora.alpha = 16.0
    config.lora.dropout = 0.05
    config.lora.targets = ("q_proj", "v_proj")
    config.data.order = "file"
    config.data.train_on = "everything"
    config.data.overlong_prompt = "skip"
    config.raft.rounds = rounds
    config.raft.prompts = prompts
    config.raft.unfinished = "keep"
    config.raft.adapter = "merge"
    config.sample.temperature = 0.85
    config.sample.top_p = 0.95
    config.sample.candidates = 8
    config.sample.max_new_tokens = 120
    config.answer.top_p = 0.95
    config.answer.frequency_penalty = 1.0
    config.answer.max_new_tokens = 120
    config.score.judges.deberta = published_judge("deberta")
    config.raft.rank_by = "deberta"
    config.train.batch_size = 32 * 4
    config.train.epochs = 4.0
    config.optim.learning_rate = 1e-4
    config.optim.schedule = "cosine"
    config.optim.warmup_steps = 10
    config.raft.protocol_notes = (
        f"recipe: {version} of arXiv 2412.00074: argmax by a reward model, a fresh adapter a "
        "round, merged",
        "base: 4-bit NF4 in the paper, and the model after 20,000 Alpaca rows (give its folder as "
        "model.path); bfloat16 here, because adapters are merged into it",
        "judge: loaded in 4 bits in the paper; bfloat16 here",
    )


def demo(config: ConfigDict):
    """A LLaMA of a million parameters, made by launch/demo; two minutes on two CPU cores."""
    config.model.path = of_demo("model")
    config.model.parameter_dtype = "float32"
    config.model.compute_dtype = "float32"
    config.data.prompts = (of_demo("data/raft_prompts.jsonl"),)
    config.data.eval = (of_demo("data/held_out.jsonl"),)
    config.data.template = "plain"
    config.data.max_length = 128
    config.data.row_tokens = 256
    config.raft.rounds = 2
    config.raft.prompts = 60
    config.raft.accept = ("refuses",)
    config.raft.rank_by = "refuses"
    config.score.judges.refusal = ConfigDict({"kind": "refusal"})
    # A judge that sees no difference between prompts: in the end the model refuses everything, the
    # ordinary ones of the held-out prompts too. Real judges read the prompt.
    config.score.judges.refuses = complies()
    config.sample.candidates = 8
    config.sample.max_new_tokens = 32
    config.sample.bucket_tokens = 64
    config.sample.cache_dtype = "float32"
    config.answer.max_new_tokens = 32
    config.score.parameter_dtype = "float32"
    config.score.compute_dtype = "float32"
    config.train.batch_size = 8
    config.train.epochs = 5.0
    config.optim.learning_rate = 3e-3
    config.checkpoint.export_dtype = "float32"
    config.log.every_steps = 2
