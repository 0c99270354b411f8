"""Direct preference optimisation: trains a model to prefer safe answers to unsafe ones.

Papers: DPO (arXiv 2305.18290); Safe to Serve (arXiv 2412.00074), its DPO part; SafeDPO (arXiv
2505.20065); DOOR (arXiv 2503.03710).

    python -m safety_jax.main --config=configs/dpo.py --config.model.path=SFT_MODEL \\
        --config.data.train=PAIRS --workdir=runs/dpo

Arguments, after the colon and separated by commas:
    demo        the tiny model and pairs of launch/demo; about a minute on a laptop
    loss=...    an objective, with the hyperparameters of its paper:
                sigmoid       DPO
                conservative  assumes that labels are wrong with probability dpo.smoothing
                robust        the same, as an unbiased estimate
                hinge         SLiC
                ipo_sum, ipo_mean   IPO, log-probabilities summed or averaged over tokens
                sigmoid_mean  DPO on log-probabilities averaged over tokens (length-normalised)
                simpo         SimPO; needs no reference
                safe          SafeDPO: safety first, with a margin where only the rejected answer
                              is unsafe
                door          DOOR: learns the refusal and unlearns the harmful answer. In its paper
                              both follow harmful beginnings: set data.recovery_share=0.5 or more
                weighted_door W-DOOR: DOOR that weighs the refusal's tokens by dpo.proxy, a model
                              that DPO trained from the same start
    paper=...   Safe to Serve as its report (report) or its shell script (script) describes it;
                `dpo.protocol_notes` lists what differs here

Cost: one forward pass over the pairs for the reference, cached on disk, then one forward and one
backward pass over both answers per step. A 7B base takes 13.5 GB in bfloat16 over all chips, 3.9 GB
in nf4.

Expect (Safe to Serve's report, LLaMA 7B after 20k Alpaca rows; answers that Llama Guard calls safe,
per cent, on I-CoNa / I-Malicious / I-Controversial): 39.9 / 50 / 42.5 before, 93 / 95 / 100 after.
"""

from ml_collections import ConfigDict

from configs.common import auto, of_demo, parse_arg

# beta, smoothing, margin
OBJECTIVES = {
    "sigmoid": (0.1, 0.0, 0.0),
    "conservative": (0.1, 0.1, 0.0),
    "robust": (0.1, 0.1, 0.0),
    "hinge": (0.1, 0.0, 0.0),
    "ipo_sum": (0.1, 0.0, 0.0),
    "ipo_mean": (0.1, 0.0, 0.0),
    "sigmoid_mean": (5.0, 0.0, 0.0),
    "simpo": (2.0, 0.0, 1.0),
    "safe": (0.1, 0.0, 10.0),
    "door": (0.5, 0.0, 0.0),
    "weighted_door": (0.5, 0.0, 0.0),
}


def get_config(arg: str | None = None) -> ConfigDict:
    choice = parse_arg(arg, demo=False, loss=tuple(OBJECTIVES), paper=("", "report", "script"))
    if choice.demo and choice.paper:
        raise ValueError("config arguments 'demo' and 'paper' exclude each other; drop one")

    config = defaults()
    config.dpo.objective = choice.loss  # the loss; dpo:loss=NAME also sets its hyperparameters
    config.dpo.beta, config.dpo.smoothing, config.dpo.margin = OBJECTIVES[choice.loss]
    if choice.loss == "simpo":
        config.dpo.reference = "none"
    if choice.loss == "safe":
        config.data.prefer = "safety_first"
    if choice.paper:
        safe_to_serve(config, choice.paper)
    elif choice.demo:
        demo(config)
    return config


def defaults() -> ConfigDict:
    """Every key, with the value that it has without an argument."""
    config = ConfigDict()
    config.stage = "dpo"
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
    data.train = ("hf:PKU-Alignment/PKU-SafeRLHF:train",)  # sources of preference pairs
    # the chosen answer of a pair, and pairs that are kept: docs/data.md
    data.prefer = "safe_and_better"
    data.eval = ""  # source of held-out pairs; "": eval_rows of the training pairs
    data.eval_rows = 500  # rows that are held out if data.eval is empty
    data.decontaminate = ()  # test sets: training rows with nearly the same prompt are left out
    data.template = "alpaca"  # the prompt format: alpaca, plain, chat, ... or file:PATH
    data.max_length = 1024  # tokens of an example; longer ones are cut
    data.row_tokens = 0  # tokens of a packed row; 0: what packs best, at most max_length
    data.packing = True  # several examples per row, which do not attend to each other
    # share of pairs whose answers both begin with tokens of the rejected one
    data.recovery_share = 0.0
    data.recovery_tokens = 100  # the most tokens of such a beginning; they are not trained
    data.share_prompts = True  # process the prompt of a pair once, if that saves tokens
    # on a prompt that fills max_length; or "skip": skipped.jsonl lists it
    data.overlong_prompt = "error"
    data.special_text = "text"  # a control token's spelling: plain text; or "error", "skip"
    data.reasoning = "keep"  # or "drop": remove the thoughts (reasoning) from rows
    data.enable_thinking = ""  # "true", "false": passed to chat templates that ask; "": not passed
    data.template_date = ""  # date that some chat templates write; "": the day of the first start
    data.bad_rows = "error"  # on equal or empty answers; or "skip": skipped.jsonl lists them
    data.prefetch_steps = 2  # batches that are prepared ahead

    config.dpo = dpo = ConfigDict()
    dpo.objective = "sigmoid"  # the loss; dpo:loss=NAME also sets its hyperparameters
    beta, smoothing, margin = OBJECTIVES["sigmoid"]
    dpo.beta = beta  # β of the objective
    dpo.smoothing = smoothing  # conservative, robust: ε, the assumed share of wrong labels
    dpo.margin = margin  # simpo: γ; safe: δ
    dpo.nll_weight = 0.0  # weight of the likelihood of chosen answers, added to the loss
    # weighted_door: a DPO-trained model or PEFT folder, which weights the refusals' tokens
    dpo.proxy = ""
    dpo.temperature = 5.0  # weighted_door: τ; the larger it is, the more alike the weights
    # weighted_door: proxy over reference; or "inverse", as in its authors' code
    dpo.token_weights = "ratio"
    dpo.reference = "cached"  # kept on disk; or "live": computed in every step; "none": for simpo
    dpo.reference_folder = ""  # folder of reference log-probabilities; "": in your cache folder
    dpo.protocol_notes = ()  # sentences that the model card adds on the recipe

    config.train = train = ConfigDict()
    train.batch_size = 64  # pairs per optimizer step
    # or double rows over all devices; changes memory and time only
    train.rows_per_microbatch = auto()
    train.chunk_tokens = 128  # tokens of a row whose logits exist at once; changes memory only
    train.max_steps = 0  # optimizer steps; 0: as many as the epochs have
    train.max_flops = 0.0  # training FLOPs, in place of epochs, to compare methods; 0: unused
    train.epochs = 1.0  # passes over the training rows

    config.optim = optim = ConfigDict()
    optim.learning_rate = 5e-6  # the highest, after the warm-up
    optim.schedule = "cosine"  # cosine or linear decay to 0, or constant
    optim.warmup_steps = 10  # steps of linear warm-up from 0
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
    checkpoint.keep_last = 2  # checkpoints that are kept
    checkpoint.export = "last"  # the step that is exported; or "best" by best_metric
    # of held-out rows; decides which step is the best
    checkpoint.best_metric = "eval/rewards/accuracies"
    checkpoint.best_is = "highest"  # the best value of that metric: lowest or highest
    checkpoint.export_merged = False  # also write the full model with the adapter merged
    checkpoint.export_dtype = "bfloat16"  # number type of exported weights

    config.log = log = ConfigDict()
    log.every_steps = 5  # steps between two log lines
    log.eval_every_steps = 25  # steps between evaluations of held-out rows
    log.tensorboard = False  # also log to TensorBoard
    log.wandb = False  # also log to Weights & Biases
    log.compilation_cache = ""  # folder of compiled programs; "": in your cache folder
    return config


def safe_to_serve(config: ConfigDict, version: str):
    """arXiv 2412.00074, DPO on the model after 20,000 Alpaca rows; report and script differ in
    length."""
    config.seed = 42
    config.model.path = "yahma/llama-7b-hf"
    config.model.base = "nf4"
    config.lora.rank = 8
    config.lora.alpha = 32.0
    config.lora.dropout = 0.1
    config.lora.targets = ("q_proj", "k_proj", "v_proj")
    config.data.eval_rows = 3457
    config.data.max_length = 1024 if version == "report" else 1536
    config.data.overlong_prompt = "skip"
    config.train.batch_size = 4
    config.train.epochs = 2.0
    config.optim.learning_rate = 5e-5
    config.optim.warmup_steps = 1
    config.log.eval_every_steps = 25
    config.dpo.protocol_notes = (
        f"recipe: {version} of arXiv 2412.00074; the report has 1,024 tokens, the script 1,536",
        "base: 4-bit NF4, as in the paper, of the model after 20,000 Alpaca rows (give its folder "
        "as model.path or model.adapter)",
        "compute: float16 in the paper; bfloat16 here",
        "held out: 3,457 pairs, the paper's number; the paper's own draw is another",
    )


def demo(config: ConfigDict):
    """A LLaMA of a million parameters, made by launch/demo; about a minute on two CPU cores."""
    config.model.path = of_demo("model")
    config.model.parameter_dtype = "float32"
    config.model.compute_dtype = "float32"
    config.data.train = (of_demo("data/pairs.jsonl"),)
    config.data.eval = of_demo("data/held_out_pairs.jsonl")
    config.data.template = "plain"
    config.data.max_length = 128
    config.data.row_tokens = 256
    config.train.batch_size = 16
    config.train.epochs = 1.0  # more of it, and the chosen answers collapse, too
    config.optim.learning_rate = 1e-3
    config.checkpoint.every_steps = 24
    config.checkpoint.export_dtype = "float32"
    config.log.every_steps = 2
    config.log.eval_every_steps = 8
