"""Safety instruction tuning: SFT with a few percent of safety demonstrations mixed in.

Papers: Safety-Tuned LLaMAs (arXiv 2309.07875); Safe to Serve (arXiv 2412.00074), its SIT part.

    python -m safety_jax.main --config=configs/sft.py:safety=500 \\
        --config.model.path=MODEL --workdir=runs/sit-500

Arguments, after the colon and separated by commas:
    demo        the tiny model and data of launch/demo; a minute or two on a laptop
    safety=N    mix N safety demonstrations into the instruction data
    paper=...   a published recipe; `sft.protocol_notes` lists what differs here:
                report, script  Safe to Serve as its report or its shell script describes it
                safety_tuned_llamas  the defaults of that paper's training script

Cost: safety=500 makes 157 steps of 128 examples per epoch (500 rows are held out). A 7B base takes
13.5 GB in bfloat16 over all chips, plus the activations of one microbatch (full
rematerialisation).

Expect (Safe to Serve's report, LLaMA 7B; answers that Llama Guard calls safe, per cent, on
I-CoNa / I-Malicious / I-Controversial): 41 / 41 / 45 without safety rows, 65 / 65 / 70 with 100,
85 / 91 / 92 with 500, 89 / 92 / 100 with 2,000.
"""

from ml_collections import ConfigDict

from configs.common import auto, of_demo, parse_arg

TRAINING_DATA = "https://raw.githubusercontent.com/vinid/safety-tuned-llamas/main/data/training/"


def get_config(arg: str | None = None) -> ConfigDict:
    choice = parse_arg(
        arg, demo=False, safety=int, paper=("", "report", "script", "safety_tuned_llamas")
    )
    if choice.demo and choice.paper:
        raise ValueError("config arguments 'demo' and 'paper' exclude each other; drop one")

    config = defaults()
    config.data.safety_rows = choice.safety or 0  # number of them that are mixed in
    if choice.paper == "safety_tuned_llamas":
        safety_tuned_llamas(config)
    elif choice.paper:
        safe_to_serve(config, choice.paper)
    elif choice.demo:
        demo(config, choice.safety)
    return config


def defaults() -> ConfigDict:
    """Every key, with the value that it has without an argument."""
    config = ConfigDict()
    config.stage = "sft"
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
    lora.rank = 8  # 0: full fine-tuning
    lora.alpha = 16.0  # the adapter is scaled by alpha / rank
    lora.dropout = 0.05  # probability of dropping an input feature of the adapter
    lora.targets = ("q_proj", "v_proj")  # names of projections, or ("all-linear",)
    lora.initialization = "peft"  # B = 0 and A random, as in PEFT; or "zero_a": A = 0, B random
    lora.rslora = False  # scale by alpha / sqrt(rank) instead
    lora.layers = ""  # layers with adapters: numbers and ranges, 8-11,20; "": all

    config.data = data = ConfigDict()
    data.train = ("hf:yahma/alpaca-cleaned:train?rows=20000",)  # sources of training rows
    # source of safety demonstrations
    data.safety = TRAINING_DATA + "safety_only_data_Instructions.json"
    data.safety_rows = 0  # number of them that are mixed in
    data.safety_choice = "any"  # or "refusals": only rows that refuse, balanced over their category
    data.safety_form = ""  # rewrite their requests as instruction, question or opinion
    data.recovery_share = 0.0  # share of rows with a harmful answer that begin with its tokens
    data.recovery_tokens = 100  # the most tokens of such a beginning; they are not trained
    data.recovery = ""  # source of harmful answers, for rows without a rejected answer
    data.eval = ""  # source of held-out rows; "": eval_rows of the training rows
    data.eval_rows = 500  # rows that are held out if data.eval is empty
    data.decontaminate = ()  # test sets: training rows with nearly the same prompt are left out
    data.template = "alpaca"  # the prompt format: alpaca, plain, chat, ... or file:PATH
    # tokens in the loss: the answer's; or "everything": the prompt's, too
    data.train_on = "response"
    data.max_length = 512  # tokens of an example; longer ones are cut
    data.row_tokens = 0  # tokens of a packed row; 0: what packs best, at most max_length
    data.packing = True  # several examples per row, which do not attend to each other
    data.share_prompts = True  # process what all rows begin with once per row, if that saves tokens
    # on a prompt that fills max_length; or "skip": skipped.jsonl lists it
    data.overlong_prompt = "error"
    data.special_text = "text"  # a control token's spelling: plain text; or "error", "skip"
    data.reasoning = "keep"  # or "drop": remove the thoughts (reasoning) from rows
    data.enable_thinking = ""  # "true", "false": passed to chat templates that ask; "": not passed
    data.template_date = ""  # date that some chat templates write; "": the day of the first start
    data.prefetch_steps = 2  # batches that are prepared ahead

    config.train = train = ConfigDict()
    train.batch_size = 128  # examples per optimizer step
    train.rows_per_microbatch = auto()  # or rows over all devices; changes memory and time only
    train.chunk_tokens = 128  # tokens of a row whose logits exist at once; changes memory only
    train.max_steps = 0  # optimizer steps; 0: as many as the epochs have
    train.max_flops = 0.0  # training FLOPs, in place of epochs, to compare methods; 0: unused
    train.epochs = 2.0  # passes over the training rows

    config.optim = optim = ConfigDict()
    optim.learning_rate = 1e-4  # the highest, after the warm-up
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
    log.every_steps = 10  # steps between two log lines
    log.eval_every_steps = 50  # steps between evaluations of held-out rows
    log.tensorboard = False  # also log to TensorBoard
    log.wandb = False  # also log to Weights & Biases
    log.compilation_cache = ""  # folder of compiled programs; "": in your cache folder

    config.sft = sft = ConfigDict()
    sft.objective = "likelihood"  # or "constrained": holds each token close to the initial model
    sft.early_weight = 1.0  # likelihood: weight of the first early_tokens of an answer in the loss
    sft.early_tokens = 5  # the first tokens of an answer, to which early_weight or beta_early apply
    sft.beta_first = 0.5  # constrained: β of the first token; larger holds it closer
    sft.beta_early = 2.0  # constrained: β of the next tokens
    sft.beta_rest = 0.1  # constrained: β of all later tokens; near 0 it is plain SFT
    sft.reference = "cached"  # constrained: kept on disk; or "live": computed in every step
    sft.reference_folder = ""  # folder of reference log-probabilities; "": in your cache folder
    sft.protocol_notes = ()  # sentences that the model card adds on the recipe
    return config


def published(config: ConfigDict):
    """What all published recipes share; not written in their scripts: the trainer's defaults."""
    config.seed = 42
    config.data.train = (TRAINING_DATA + "alpaca_small.json",)  # 20,000 rows without safety content
    config.data.train_on = "everything"
    config.train.batch_size = 128
    config.lora.alpha = 16.0
    config.lora.dropout = 0.05
    config.lora.rslora = False
    config.optim.warmup_steps = 10
    config.optim.weight_decay = 0.0
    config.optim.beta1, config.optim.beta2, config.optim.epsilon = 0.9, 0.999, 1e-8
    config.optim.clip_norm = 1.0
    config.checkpoint.keep_last = 30
    config.model.base = "int8"
    config.sft.protocol_notes = (
        "base: 8-bit, as in the paper; its products there (LLM.int8) also round activations",
        "compute: float16 in the paper; bfloat16 here",
        "loss: a mean of microbatch means in the paper; the mean over a step's trained tokens here",
        "data: the paper's own draw of N safety rows is saferpaca_Instructions_N.json; here N rows "
        "of the same pool are drawn by seed",
    )


def safe_to_serve(config: ConfigDict, version: str):
    """arXiv 2412.00074, SIT: batch 32 x 4; the report and the shell script disagree."""
    published(config)
    config.lora.rank = 4
    config.data.eval_rows = 500
    config.data.max_length = 512
    config.optim.learning_rate = 1e-4
    config.optim.schedule = "cosine"
    config.log.eval_every_steps = 100
    if version == "report":
        config.model.path = "meta-llama/Llama-2-7b-hf"
        config.lora.targets = ("q_proj", "k_proj", "v_proj")
        config.train.epochs = 2.0
        disagreement = "the shell script has yahma/llama-7b-hf, 4 epochs, q and v only"
    else:
        config.model.path = "yahma/llama-7b-hf"
        config.lora.targets = ("q_proj", "v_proj")
        config.train.epochs = 4.0
        disagreement = "the report has LLaMA-2-7B, 2 epochs, q, k and v"
    # The papers save once an epoch.
    rows = 20_000 + config.data.safety_rows - config.data.eval_rows
    config.checkpoint.every_steps = -(-rows // config.train.batch_size)
    config.sft.protocol_notes += (
        f"recipe: {version} of arXiv 2412.00074; {disagreement}",
        "end of sequence: their trainer re-tokenised the text, which probably lost the appended "
        "EOS; here every response ends in one trained EOS",
    )


def safety_tuned_llamas(config: ConfigDict):
    """arXiv 2309.07875, the defaults of its training script: batch 4 x 32."""
    published(config)
    config.model.path = "yahma/llama-7b-hf"
    config.lora.rank = 8
    config.lora.targets = ("q_proj", "v_proj")
    config.data.eval_rows = 2000
    config.data.max_length = 256
    config.train.epochs = 3.0
    config.optim.learning_rate = 3e-4
    config.optim.schedule = "linear"
    config.log.eval_every_steps = 25
    config.checkpoint.every_steps = 25
    config.checkpoint.export = "best"
    config.sft.protocol_notes += (
        "recipe: script defaults of arXiv 2309.07875 (base model not named there); runs that "
        "replicate the paper use 4 epochs, learning rate 1e-4, length 512, rank 4, 500 held out",
    )


def demo(config: ConfigDict, safety_rows: int | None):
    """A LLaMA of a million parameters, made by launch/demo; a minute or two on two CPU cores."""
    config.model.path = of_demo("model")
    config.model.parameter_dtype = "float32"
    config.model.compute_dtype = "float32"
    config.lora.rank = 16
    config.lora.alpha = 32.0
    config.lora.targets = ("all-linear",)
    config.data.train = (of_demo("data/instructions.jsonl") + "?rows=240",)
    config.data.safety = of_demo("data/safety.jsonl")
    config.data.safety_rows = 120 if safety_rows is None else safety_rows
    config.data.eval = of_demo("data/held_out.jsonl")
    config.data.template = "plain"
    config.data.max_length = 128
    config.data.row_tokens = 256
    config.train.batch_size = 32
    config.train.epochs = 6.0
    config.optim.learning_rate = 5e-3
    config.checkpoint.every_steps = 24
    config.checkpoint.export_dtype = "float32"
    config.log.every_steps = 2
    config.log.eval_every_steps = 10
