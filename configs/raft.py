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
    config.seed = 0  # of all random choices of the run

    config.model = model = ConfigDict()
    model.path = ""  # a Hugging Face folder, hub id or GGUF file; must be given
    model.init = "pretrained"  # or "random": reads only config and tokenizer, and draws new weights
    model.adapter = ""  # a PEFT folder to start from, with its rank, alpha, targets and layers
    model.tokenizer = ""  # a folder with another tokenizer; "": the model's own
    model.parameter_dtype = "auto"  # type of frozen weights; auto: bfloat16, on a CPU float32
    model.base = "stored"  # frozen projections: as stored, or quantised to int8 or nf4
    model.compute_dtype = "auto"  # of products; auto: bfloat16, or float32 on CPUs without it
    model.attention = "auto"  # auto: cudnn on GPUs, splash on TPUs, where they work; else xla
    model.remat = "auto"  # recomputes activations; auto: as memory requires; none, dots, full

    config.lora = lora = ConfigDict()
    lora.rank = 16  # 0: full fine-tuning
    lora.alpha = 32.0  # the adapter is scaled by alpha / rank
    lora.dropout = 0.0  # probability of dropping an input feature of the adapter
    lora.targets = ("all-linear",)  # names of projections, or ("all-linear",)
    lora.initialization = "peft"  # B = 0 and A random, as in PEFT; or "zero_a": A = 0, B random
    lora.rslora = False  # scale by alpha / sqrt(rank) instead
    lora.layers = ""  # layers with adapters: numbers and ranges, 8-11,20; "": all

    config.data = data = ConfigDict()
    data.prompts = ("",)  # sources of unsafe prompts; must be given
    data.ordinary = ("",)  # sources of ordinary prompts, which train helpfulness
    data.ordinary_share = 0.0  # share of ordinary prompts in a round
    data.order = "shuffled"  # of the prompts; or "file": as in their files
    data.eval = ()  # sources of held-out prompts, answered and judged after every round
    data.decontaminate = ()  # test sets: training rows with nearly the same prompt are left out
    data.template = "alpaca"  # the prompt format: alpaca, plain, chat, ... or file:PATH
    # tokens in the loss: the answer's; or "everything": the prompt's, too
    data.train_on = "response"
    data.max_length = 512  # tokens of prompt and answer
    data.row_tokens = 0  # tokens of a packed row; 0: what packs best, at most max_length
    data.packing = True  # several examples per row, which do not attend to each other
    data.share_prompts = True  # process what all rows begin with once per row, if that saves tokens
    data.overlong_prompt = "error"  # on a prompt that fills max_length; or "skip"
    data.special_text = "text"  # a control token's spelling: plain text; or "error", "skip"
    data.reasoning = "keep"  # or "drop": remove the thoughts (reasoning) from rows
    data.enable_thinking = ""  # "true", "false": passed to chat templates that ask; "": not passed
    data.template_date = ""  # date that some chat templates write; "": the day of the first start
    data.prefetch_steps = 2  # batches that are prepared ahead

    config.raft = rounds()

    config.sample = answers(temperature=1.0, candidates=16, max_new_tokens=128)
    set_pace(config.sample, prompts_per_write=64)
    # of the prompts of data.eval
    config.answer = answers(temperature=0.0, candidates=1, max_new_tokens=128)
    config.score = judging()

    config.train = train = ConfigDict()
    train.batch_size = 32  # answers per optimizer step
    train.rows_per_microbatch = auto()  # or rows over all devices; changes memory and time only
    train.chunk_tokens = 128  # tokens of a row whose logits exist at once; changes memory only
    train.max_steps = 0  # optimizer steps of a round; 0: as many as the epochs have
    train.max_flops = 0.0  # training FLOPs of a round, for 16 epochs at most; 0: unused
    train.epochs = 2.0  # passes over the answers of a round

    config.optim = optim = ConfigDict()
    optim.learning_rate = 2e-4  # the highest, after the warm-up
    optim.schedule = "constant"  # or cosine, linear, which compile again if rounds differ in steps
    optim.warmup_steps = 2  # steps of linear warm-up from 0
    optim.weight_decay = 0.0  # of AdamW
    optim.beta1 = 0.9  # of AdamW
    optim.beta2 = 0.999  # of AdamW
    optim.epsilon = 1e-8  # of AdamW
    optim.clip_norm = 1.0  # largest norm of the gradient; 0: not clipped

    config.mesh = mesh = ConfigDict()
    mesh.data = -1  # devices among which rows are divided; -1: all that are left
    mesh.fsdp = 1  # devices among which both rows and weights are divided
    mesh.tensor = 1  # devices among which each matrix product is divided

    config.checkpoint = checkpoint = ConfigDict()
    checkpoint.every_steps = 100  # steps between checkpoints
    checkpoint.keep_last = 1  # checkpoints that are kept
    checkpoint.export = "last"  # the step that is exported
    checkpoint.best_metric = "loss"  # unused: the last step is exported
    checkpoint.best_is = "lowest"  # unused: the last step is exported
    checkpoint.export_merged = False  # also write the full model with the adapter merged
    checkpoint.export_dtype = "bfloat16"  # number type of exported weights

    config.log = log = ConfigDict()
    log.every_steps = 5  # steps between two log lines
    log.eval_every_steps = 1000000  # unused: rounds are evaluated by data.eval
    log.tensorboard = False  # also log to TensorBoard
    log.wandb = False  # also log to Weights & Biases
    log.compilation_cache = ""  # folder of compiled programs; "": in your cache folder
    return config


def rounds() -> ConfigDict:
    """What a round draws, keeps and goes on from."""
    raft = ConfigDict()
    raft.rounds = 5  # rounds of sampling and training
    raft.prompts = 512  # prompts per round
    raft.patience = 0  # end after so many rounds without a rise of the selected reward; 0: never
    raft.reuse_prompts = False  # start again when all prompts have been used
    raft.judges = ()  # FOLDER or NAME=FOLDER of runs of stage reward; or refusal
    raft.judges_resident = True  # keep the judges' weights in memory during training
    raft.rank_by = ""  # the judge that ranks candidates; "": the first
    raft.accept = ()  # judges whose threshold a candidate must pass before it is ranked
    raft.kl_weight = 0.0  # rank candidates by reward - kl_weight * log(p / p0)
    raft.unfinished = "reject"  # answers that were cut at max_new_tokens; or "keep"
    raft.reference_answers = False  # the answer in a prompt's row is one more candidate
    raft.people = False  # people choose the answers, in spreadsheets; judges only score them
    raft.adapter = "continue"  # or "merge": a new adapter every round, merged into the base
    raft.measure_kl = True  # also score every candidate with the initial model
    raft.diversity_alarm = 0.5  # alarm if distinct-2 falls below this share of the first round's
    raft.length_alarm = 2.0  # alarm if selected answers grow to so many times the first round's
    raft.protocol_notes = ()  # sentences that the model card adds on the recipe
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
