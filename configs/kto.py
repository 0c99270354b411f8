"""KTO: trains on single answers that are desirable or not; needs no pairs.

Paper: KTO (arXiv 2402.01306).

    python -m safety_jax.main --config=configs/kto.py --config.model.path=SFT_MODEL \\
        --config.data.train=ROWS --workdir=runs/kto

Rows have a prompt, an answer and `label` (true means desirable), or `is_safe` as in BeaverTails and
PKU-SafeRLHF-QA. From a row with a preference pair, both answers are used.

Arguments, after the colon and separated by commas:
    demo        the tiny model and answers of launch/demo; about a minute on a laptop

Cost: one forward pass over the answers for the reference, each after its own prompt and after
another row's; then two forward passes and one backward pass per step. Memory as for DPO.

Expect, according to the paper: as good as DPO at 1B to 30B, even if only one in ten answers is
desirable.
"""

from ml_collections import ConfigDict

from configs.common import auto, of_demo, parse_arg


def get_config(arg: str | None = None) -> ConfigDict:
    choice = parse_arg(arg, demo=False)

    config = ConfigDict()
    config.stage = "kto"
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
    # sources of labelled answers, or of pairs
    data.train = ("hf:PKU-Alignment/BeaverTails:330k_train",)
    data.eval = ""  # source of held-out rows; "": eval_rows of the training rows
    data.eval_rows = 500  # rows that are held out if data.eval is empty
    data.decontaminate = ()  # test sets: training rows with nearly the same prompt are left out
    data.template = "alpaca"  # the prompt format: alpaca, plain, chat, ... or file:PATH
    data.max_length = 1024  # tokens of an example; longer ones are cut
    data.row_tokens = 0  # tokens of a packed row; 0: what packs best, at most max_length
    data.packing = True  # several examples per row, which do not attend to each other
    # on a prompt that fills max_length; or "skip": skipped.jsonl lists it
    data.overlong_prompt = "error"
    data.special_text = "text"  # a control token's spelling: plain text; or "error", "skip"
    data.reasoning = "keep"  # or "drop": remove the thoughts (reasoning) from rows
    data.enable_thinking = ""  # "true", "false": passed to chat templates that ask; "": not passed
    data.template_date = ""  # date that some chat templates write; "": the day of the first start
    data.bad_rows = "error"  # on empty answers or no label; or "skip": skipped.jsonl lists them
    data.prefetch_steps = 2  # batches that are prepared ahead

    config.kto = kto = ConfigDict()
    kto.beta = 0.1  # β of the loss
    kto.desirable_weight = 1.0  # the paper: weight times count of both kinds within 1:1 to 4:3
    kto.undesirable_weight = 1.0  # likewise, of undesirable answers
    kto.reference = "cached"  # log-probabilities of the initial model, computed once, on disk
    kto.reference_folder = ""  # folder of reference log-probabilities; "": in your cache folder
    kto.protocol_notes = ()  # sentences that the model card adds on the recipe

    config.train = train = ConfigDict()
    train.batch_size = 64  # answers per optimizer step; they give the reference point
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
    checkpoint.best_metric = "eval/loss"  # of held-out rows; decides which step is the best
    checkpoint.best_is = "lowest"  # the best value of that metric: lowest or highest
    checkpoint.export_merged = False  # also write the full model with the adapter merged
    checkpoint.export_dtype = "bfloat16"  # number type of exported weights

    config.log = log = ConfigDict()
    log.every_steps = 5  # steps between two log lines
    log.eval_every_steps = 25  # steps between evaluations of held-out rows
    log.tensorboard = False  # also log to TensorBoard
    log.wandb = False  # also log to Weights & Biases
    log.compilation_cache = ""  # folder of compiled programs; "": in your cache folder

    if choice.demo:
        demo(config)
    return config


def demo(config: ConfigDict):
    """A LLaMA of a million parameters, made by launch/demo; about a minute on two CPU cores."""
    config.model.path = of_demo("model")
    config.model.parameter_dtype = "float32"
    config.model.compute_dtype = "float32"
    config.data.train = (of_demo("data/pairs.jsonl"),)  # both answers of a pair, with labels
    config.data.eval = of_demo("data/held_out_pairs.jsonl")
    config.data.template = "plain"
    config.data.max_length = 128
    config.data.row_tokens = 256
    config.train.batch_size = 16
    config.train.epochs = 1.0
    config.optim.learning_rate = 1e-3
    config.checkpoint.every_steps = 24
    config.checkpoint.export_dtype = "float32"
    config.log.every_steps = 2
    config.log.eval_every_steps = 8
