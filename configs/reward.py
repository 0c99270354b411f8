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
    config.seed = 0  # of all random choices of the run

    config.model = model = ConfigDict()
    model.path = ""  # a Hugging Face folder, hub id or GGUF file; must be given
    model.init = "pretrained"  # or "random": reads only config and tokenizer, and draws new weights
    model.tokenizer = ""  # a folder with another tokenizer; "": the model's own
    # type of a frozen trunk's weights; auto: bfloat16, on a CPU float32
    model.parameter_dtype = "auto"
    model.base = "stored"  # frozen projections: as stored, or quantised to int8 or nf4
    model.compute_dtype = "auto"  # of products; auto as in sft; the head computes in float32
    model.attention = "auto"  # of LLaMA trunks; auto: cudnn on GPUs, splash on TPUs, else xla
    model.remat = "auto"  # recomputes activations; auto: as memory requires; none, dots, full

    config.lora = lora = ConfigDict()
    lora.rank = 0  # 0: full fine-tuning; the head is always trained
    lora.alpha = 32.0  # the adapter is scaled by alpha / rank
    lora.dropout = 0.0  # probability of dropping an input feature of the adapter
    lora.targets = ("all-linear",)  # names of projections, or ("all-linear",)
    lora.initialization = "peft"  # B = 0 and A random, as in PEFT; or "zero_a": A = 0, B random
    lora.rslora = False  # scale by alpha / sqrt(rank) instead
    lora.layers = ""  # layers with adapters: numbers and ranges, 8-11,20; "": all

    config.data = data = ConfigDict()
    data.train = ("hf:PKU-Alignment/PKU-SafeRLHF:train",)  # sources of pairs, ratings or labels
    data.prefer = "all"  # the better answer of a pair, and pairs that are kept: docs/data.md
    data.eval = ""  # source of held-out rows; "": eval_rows of the training rows, by prompt
    data.eval_rows = 500  # rows that are held out if data.eval is empty
    data.decontaminate = ()  # test sets: training rows with nearly the same prompt are left out
    data.template = "human_assistant"  # plain, beaver, alpaca, chat, file:PATH; pair: a text pair
    data.append_eos = False  # append EOS to the answer, in training and in use
    data.max_length = 512  # tokens of an example; longer ones are cut
    data.row_tokens = 0  # tokens of a packed row; 0: what packs best, at most max_length
    data.packing = True  # several examples per row, for LLaMA trunks; other trunks: one
    data.share_prompts = True  # process the prompt of a pair once, if that saves tokens
    # prompts that fill max_length are skipped and counted; or "error"
    data.overlong_prompt = "skip"
    data.special_text = "text"  # a control token's spelling: plain text; or "error", "skip"
    data.reasoning = "drop"  # remove the thoughts (reasoning) from rows; or "keep"
    data.bad_rows = "error"  # on equal or empty answers; or "skip": skipped.jsonl lists them
    data.prefetch_steps = 2  # batches that are prepared ahead

    config.reward = reward = ConfigDict()
    reward.kind = choice.kind  # what is learned: pairs, cost, regression or binary labels
    # what a higher score means
    reward.direction = "higher is better" if choice.kind == "pairs" else HARMFUL
    reward.margin = 0.0  # pairs: by how much the better answer's score should be higher
    reward.centring = 0.0  # pairs: pulls the mean of both scores to 0; TRL's docs use 0.01
    # cost: weight of the squared scores in the loss
    reward.regularization = 0.001 if choice.kind == "cost" else 0.0
    reward.protocol_notes = ()  # sentences that the model card adds on the recipe

    config.train = train = ConfigDict()
    train.batch_size = 64  # pairs or answers per optimizer step
    # or double rows over all devices; changes memory and time only
    train.rows_per_microbatch = auto()
    train.max_steps = 0  # optimizer steps; 0: as many as the epochs have
    train.epochs = 1.0  # passes over the training rows

    config.optim = optim = ConfigDict()
    optim.learning_rate = 2e-5  # the highest, after the warm-up
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
    checkpoint.export = "last"  # or "best": picked on the held-out rows, which flatters them
    # of held-out rows; decides which step is the best
    checkpoint.best_metric = "eval/mse" if choice.kind == "regression" else "eval/accuracy"
    # the best value of that metric: lowest or highest
    checkpoint.best_is = "lowest" if choice.kind == "regression" else "highest"
    checkpoint.export_dtype = "float32"  # number type of exported weights

    config.log = log = ConfigDict()
    log.every_steps = 5  # steps between two log lines
    log.eval_every_steps = 25  # steps between evaluations of held-out rows
    log.tensorboard = False  # also log to TensorBoard
    log.wandb = False  # also log to Weights & Biases
    log.compilation_cache = ""  # folder of compiled programs; "": in your cache folder

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
