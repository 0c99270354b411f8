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
    config.data.safety_rows = choice.safety or 0
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
    lora.rank = 8  # 0: full fine-tuning
    lora.alpha = 16.0
    lora.dropout = 0.05
    lora.targets = ("q_proj", "v_proj")  # or ("all-linear",)
    lora.initialization = "peft"  # or "zero_a": A = 0, B random
    lora.rslora = False
    lora.layers = ""  # numbers and ranges, 8-11,20; "": all

    config.data = data = ConfigDict()
    data.train = ("hf:yahma/alpaca-cleaned:train?rows=20000",)
    data.safety = TRAINING_DATA + "safety_only_data_Instructions.json"
    data.safety_rows = 0  # rows of it that are mixed in
    data.safety_choice = "any"  # or "refusals": these alone, spread evenly over their `category`
    data.safety_form = ""  # their requests put as instruction, question or opinion
    data.recovery_share = 0.0  # of rows with a harmful answer: they begin with some of it
    data.recovery_tokens = 100  # of such a beginning, at most; it is read and not learned
    data.recovery = ""  # a source of harmful answers, for rows that reject none themselves
    data.eval = ""  # a source; "": hold out `eval_rows` of the training rows
    data.eval_rows = 500
    data.decontaminate = ()  # tests: near-duplicates of their prompts are not learned
    data.template = "alpaca"
    data.train_on = "response"  # or "everything": the prompt too
    data.max_length = 512
    data.row_tokens = 0  # tokens of a packed row; 0: what packs best, at most max_length
    data.packing = True
    data.share_prompts = True  # what all rows begin with is read once for several, where that saves
    data.overlong_prompt = "error"  # or "skip", counted
    data.special_text = "text"  # what spells a control token is letters; or "error", "skip"
    data.reasoning = "keep"  # or "drop": thoughts that rows have beside or in their answers
    data.enable_thinking = ""  # of chat templates that ask: "true", "false"; "": their own choice
    data.template_date = ""  # for chat templates that write it: 2024-07-26; "": the first start's
    data.prefetch_steps = 2

    config.train = train = ConfigDict()
    train.batch_size = 128  # examples an optimizer step
    train.rows_per_microbatch = auto()  # or rows over all devices; memory and time only
    train.chunk_tokens = 128  # tokens of a row whose logits exist at once; memory only
    train.max_steps = 0  # 0: by epochs
    train.max_flops = 0.0  # of training, to compare methods at equal compute; 0: as the above say
    train.epochs = 2.0

    config.optim = optim = ConfigDict()
    optim.learning_rate = 1e-4
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
    checkpoint.best_metric = "eval/loss"
    checkpoint.best_is = "lowest"  # or "highest"
    checkpoint.export_merged = False  # also write the full model, adapters added
    checkpoint.export_dtype = "bfloat16"

    config.log = log = ConfigDict()
    log.every_steps = 10
    log.eval_every_steps = 50
    log.tensorboard = False
    log.wandb = False
    log.compilation_cache = ""  # "": the user's cache folder

    config.sft = sft = ConfigDict()
    sft.objective = "likelihood"  # or "constrained": each token is held to the start by its β
    sft.beta_first = 0.5  # of an answer's first token; larger holds it more
    sft.beta_early = 2.0  # of the others up to `early_tokens`
    sft.early_tokens = 5
    sft.beta_rest = 0.1  # of all behind; towards 0 it is plain likelihood
    sft.reference = "cached"  # of the start; or "live": computed in every step
    sft.reference_folder = ""  # "": the user's cache folder
    sft.protocol_notes = ()  # what the model card must say about the recipe
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
