"""ORPO: instruction tuning and preference training in one run, without a reference model.

Paper: ORPO (arXiv 2403.07691).

    python -m safety_jax.main --config=configs/orpo.py --config.model.path=BASE_MODEL \\
        --config.data.train=PAIRS --workdir=runs/orpo

The run starts from a base model. It learns the chosen answers as in SFT, while an odds-ratio term
makes the rejected answers less likely.

Arguments, after the colon and separated by commas:
    demo        the tiny model and pairs of launch/demo; about a minute on a laptop

Cost: one forward and one backward pass over both answers per step; nothing for a reference.

Expect, according to the paper (Mistral 7B on UltraFeedback): 12.2 % on AlpacaEval 2 and 7.32 on
MT-Bench.
"""

from ml_collections import ConfigDict

from configs.common import auto, of_demo, parse_arg


def get_config(arg: str | None = None) -> ConfigDict:
    choice = parse_arg(arg, demo=False)

    config = ConfigDict()
    config.stage = "orpo"
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
    data.share_prompts = True  # both answers read a common prompt once, where that saves
    data.overlong_prompt = "error"  # or "skip", counted and listed in skipped.jsonl
    data.special_text = "text"  # what spells a control token is letters; or "error", "skip"
    data.reasoning = "keep"  # or "drop": thoughts that rows have beside or in their answers
    data.enable_thinking = ""  # of chat templates that ask: "true", "false"; "": their own choice
    data.template_date = ""  # for chat templates that write it: 2024-07-26; "": the first start's
    data.bad_rows = "error"  # equal or empty answers; or "skip", likewise
    data.prefetch_steps = 2

    config.orpo = orpo = ConfigDict()
    orpo.weight = 0.1  # λ of the odds ratio beside the likelihood of chosen answers
    orpo.protocol_notes = ()  # what the model card must say about the recipe

    config.train = train = ConfigDict()
    train.batch_size = 64  # pairs an optimizer step
    train.rows_per_microbatch = auto()  # or double rows over all devices; memory and time only
    train.chunk_tokens = 128  # tokens of a row whose logits exist at once; memory only
    train.max_steps = 0  # 0: by epochs
    train.max_flops = 0.0  # of training, to compare methods at equal compute; 0: as the above say
    train.epochs = 1.0

    config.optim = optim = ConfigDict()
    optim.learning_rate = 8e-6
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

    if choice.demo:
        demo(config)
    return config


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
    config.train.epochs = 1.0
    config.optim.learning_rate = 1e-3
    config.checkpoint.every_steps = 24
    config.checkpoint.export_dtype = "float32"
    config.log.every_steps = 2
    config.log.eval_every_steps = 8
