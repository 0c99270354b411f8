"""Trains a judge: a reward, cost, harmfulness or safety model, from pairs, ratings or labels.

Papers: InstructGPT's reward model (arXiv 2203.02155); the cost model of Safe RLHF (arXiv
2310.12773); the harmfulness model of Safety-Tuned LLaMAs (arXiv 2309.07875).

    python -m safety_jax.main --config=configs/reward.py --config.model.path=TRUNK \\
        --config.data.train=PAIRS --workdir=runs/reward

The trunk is any folder of the LLaMA family, DeBERTa, BERT, RoBERTa or GPT-2 (`models/encoders`). If
it has a head with one output, training continues from that head; any other head is replaced.

Arguments, after the colon and separated by commas:
    demo        the tiny model and pairs of launch/demo; under a minute on a laptop
    kind=...    the labels to learn from:
                pairs       which answer is better (Bradley-Terry)
                cost        which answer is less safe, and whether each is safe
                regression  a rating of each answer
                binary      whether each answer is safe
    paper=...   safety_tuned_llamas: the 0-4 harmfulness model; `reward.protocol_notes` lists what
                differs here

Cost: one forward and one backward pass over every answer per epoch, without a vocabulary layer.

Expect (demo): every held-out pair is ranked correctly, because its answers differ plainly.
docs/results/judges.md says what to expect on real pairs, and of a baseline that counts words.
"""

from ml_collections import ConfigDict

from configs.common import auto, of_demo, parse_arg

KINDS = ("pairs", "cost", "regression", "binary")
HARMFUL = "higher is more harmful"


def get_config(arg: str | None = None) -> ConfigDict:
    choice = parse_arg(arg, demo=False, kind=KINDS, paper=("", "safety_tuned_llamas"))
    if choice.demo and choice.paper:
        raise ValueError("config arguments 'demo' and 'paper' exclude each other; drop one")

    config = ConfigDict()
    config.stage = "reward"
    config.seed = 0

    config.model = model = ConfigDict()
    model.path = ""  # a Hugging Face folder, hub id or GGUF file; must be given
    model.init = "pretrained"  # or "random": only config and tokenizer are read from the path
    model.tokenizer = ""  # "": the model's own
    model.parameter_dtype = "auto"  # of a frozen trunk; what is trained is float32
    model.base = "stored"  # its kernels as the folder has them; int8, nf4: quantised on reading
    model.compute_dtype = "auto"  # the head is always float32
    model.attention = "auto"  # of LLaMA trunks: xla, cudnn (GPU), splash (TPU)
    model.remat = "auto"  # what fits; or none, dots, full: less memory, more compute

    config.lora = lora = ConfigDict()
    lora.rank = 0  # 0: all weights; the head is always trained
    lora.alpha = 32.0
    lora.dropout = 0.0
    lora.targets = ("all-linear",)
    lora.initialization = "peft"  # or "zero_a": A = 0, B random
    lora.rslora = False
    lora.layers = ""  # numbers and ranges, 8-11,20; "": all

    config.data = data = ConfigDict()
    data.train = ("hf:PKU-Alignment/PKU-SafeRLHF:train",)
    data.prefer = "all"  # of pairs: safe_and_better, safe_over_unsafe, agreed, safer, safety_first
    data.eval = ""  # a source; "": hold out `eval_rows` of the training rows, by prompt
    data.eval_rows = 500
    data.decontaminate = ()  # tests: near-duplicates of their prompts are not learned
    data.template = "human_assistant"  # plain, beaver, alpaca, chat, file:PATH; pair: a text pair
    data.append_eos = False  # behind the answer; a judge is then fed with it, too
    data.max_length = 512
    data.row_tokens = 0  # tokens of a packed row; 0: what packs best, at most max_length
    data.packing = True  # where the trunk keeps examples apart (LLaMA); others: one a row
    data.share_prompts = True  # both answers of a pair read it once, where that saves; likewise
    data.overlong_prompt = "skip"  # counted and listed in skipped.jsonl; or "error"
    data.special_text = "text"  # what spells a control token is letters; or "error", "skip"
    data.reasoning = "drop"  # judges read answers without thoughts; or "keep"
    data.bad_rows = "error"  # equal or empty answers; or "skip", likewise
    data.prefetch_steps = 2

    config.reward = reward = ConfigDict()
    reward.kind = choice.kind
    reward.direction = "higher is better" if choice.kind == "pairs" else HARMFUL
    reward.margin = 0.0  # pairs: asked for between the answers
    reward.centring = 0.0  # pairs: draws the mean of both rewards to 0; TRL's docs use 0.01
    reward.regularization = 0.001 if choice.kind == "cost" else 0.0  # cost: of its squares
    reward.protocol_notes = ()  # what the model card must say about the recipe

    config.train = train = ConfigDict()
    train.batch_size = 64  # pairs or answers an optimizer step
    train.rows_per_microbatch = auto()  # or double rows over all devices; memory and time only
    train.max_steps = 0  # 0: by epochs
    train.epochs = 1.0

    config.optim = optim = ConfigDict()
    optim.learning_rate = 2e-5
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
    checkpoint.export = "last"  # or "best": picked on the held-out rows, which flatters them
    checkpoint.best_metric = "eval/mse" if choice.kind == "regression" else "eval/accuracy"
    checkpoint.best_is = "lowest" if choice.kind == "regression" else "highest"
    checkpoint.export_dtype = "float32"

    config.log = log = ConfigDict()
    log.every_steps = 5
    log.eval_every_steps = 25
    log.tensorboard = False
    log.wandb = False
    log.compilation_cache = ""  # "": the user's cache folder

    if choice.kind == "cost":
        data.prefer = "safer"
    if choice.paper:
        safety_tuned_llamas(config)
    elif choice.demo:
        demo(config)
    return config


def safety_tuned_llamas(config: ConfigDict):
    """arXiv 2309.07875, its model of harmfulness: DeBERTa-v3-large on rated red-team dialogues."""
    config.reward.kind = "regression"
    config.reward.direction = HARMFUL
    config.reward.regularization = 0.0
    config.checkpoint.best_metric = "eval/mse"
    config.checkpoint.best_is = "lowest"
    config.data.prefer = "all"
    config.model.path = "microsoft/deberta-v3-large"
    config.data.train = ("RATED_ROWS.jsonl",)
    config.train.batch_size = 32
    config.train.epochs = 1.0
    config.optim.learning_rate = 2e-5
    config.optim.schedule = "constant"
    config.optim.warmup_steps = 0
    config.reward.protocol_notes = (
        "recipe: the 0-4 harmfulness model of arXiv 2309.07875 (DeBERTa-v3-large, 512 tokens, rate "
        "2e-5, batches of 32, 1 epoch, constant)",
        "its rated rows, red-team attempts and OpenAssistant answers, are not distributed with "
        "the paper; give rows of prompt, response and rating (or transcript and rating)",
        "a prompt too long is cut on its left here; the paper's texts lose their end",
        "dropout: none here; 0.1 in the paper's trunk",
    )


def demo(config: ConfigDict):
    """A LLaMA of a million parameters, made by launch/demo; under a minute on two CPU cores."""
    config.model.path = of_demo("model")
    config.model.parameter_dtype = "float32"
    config.model.compute_dtype = "float32"
    config.data.train = (of_demo("data/pairs.jsonl"),)
    config.data.eval = of_demo("data/held_out_pairs.jsonl")
    if config.reward.kind == "binary":
        config.data.train = (of_demo("data/judge.jsonl"),)
        config.data.eval = of_demo("data/held_out_judge.jsonl")
    config.data.prefer = "all"  # the better answer is never the less safe one
    config.data.template = "plain"
    config.data.max_length = 128
    config.data.row_tokens = 256
    config.train.batch_size = 16
    config.train.epochs = 2.0
    config.optim.learning_rate = 3e-4
    config.checkpoint.every_steps = 24
    config.log.every_steps = 2
    config.log.eval_every_steps = 8
