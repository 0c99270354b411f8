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
    config.dpo.objective = choice.loss
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
    data.train = ("hf:PKU-Alignment/PKU-SafeRLHF:train",)
    data.prefer = "safe_and_better"  # all, safe_over_unsafe, agreed, safer, safety_first
    data.eval = ""  # a source; "": hold out `eval_rows` of the training pairs
    data.eval_rows = 500
    data.decontaminate = ()  # tests: near-duplicates of their prompts are not learned
    data.template = "alpaca"
    data.max_length = 1024
    data.row_tokens = 0  # tokens of a packed row; 0: what packs best, at most max_length
    data.packing = True
    data.recovery_share = 0.0  # of pairs: both answers begin with some of the rejected one
    data.recovery_tokens = 100  # of such a beginning, at most; it is read and not learned
    data.share_prompts = True  # both answers read a common prompt once, where that saves
    data.overlong_prompt = "error"  # or "skip", counted and listed in skipped.jsonl
    data.special_text = "text"  # what spells a control token is letters; or "error", "skip"
    data.reasoning = "keep"  # or "drop": thoughts that rows have beside or in their answers
    data.enable_thinking = ""  # of chat templates that ask: "true", "false"; "": their own choice
    data.template_date = ""  # for chat templates that write it: 2024-07-26; "": the first start's
    data.bad_rows = "error"  # equal or empty answers; or "skip", likewise
    data.prefetch_steps = 2

    config.dpo = dpo = ConfigDict()
    dpo.objective = "sigmoid"
    dpo.beta, dpo.smoothing, dpo.margin = OBJECTIVES["sigmoid"]
    dpo.nll_weight = 0.0  # adds a share of the likelihood of chosen answers, against their collapse
    dpo.proxy = ""  # of weighted_door: a model or PEFT folder, which weighs the refusals' tokens
    dpo.temperature = 5.0  # of these weights: the larger, the more alike they are
    dpo.token_weights = "ratio"  # proxy over reference; "inverse": the other way, as W-DOOR's code
    dpo.reference = "cached"  # or "live": in every step; "none" of objectives without one
    dpo.reference_folder = ""  # "": the user's cache folder
    dpo.protocol_notes = ()  # what the model card must say about the recipe

    config.train = train = ConfigDict()
    train.batch_size = 64  # pairs an optimizer step
    train.rows_per_microbatch = auto()  # or double rows over all devices; memory and time only
    train.chunk_tokens = 128  # tokens of a row whose logits exist at once; memory only
    train.max_steps = 0  # 0: by epochs
    train.max_flops = 0.0  # of training, to compare methods at equal compute; 0: as the above say
    train.epochs = 1.0

    config.optim = optim = ConfigDict()
    optim.learning_rate = 5e-6
    optim.schedule = "cosine"  # constant, linear
    optim.warmup_steps = 10
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
    checkpoint.keep_last = 2
    checkpoint.export = "last"  # or "best"
    checkpoint.best_metric = "eval/rewards/accuracies"
    checkpoint.best_is = "highest"  # or "lowest"
    checkpoint.export_merged = False  # also write the full model, adapters added
    checkpoint.export_dtype = "bfloat16"

    config.log = log = ConfigDict()
    log.every_steps = 5
    log.eval_every_steps = 25
    log.tensorboard = False
    log.wandb = False
    log.compilation_cache = ""  # "": the user's cache folder
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
