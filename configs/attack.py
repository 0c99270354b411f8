"""Searches for suffixes that make a model answer what it should refuse: GCG (arXiv 2307.15043).

    python -m safety_jax.main --config=configs/attack.py \\
        --config.model.path=MODEL '--config.attack.set=requests.jsonl?kind=unsafe' \\
        --config.attack.mode=universal --config.data.template=chat --workdir=runs/attack

    python -m safety_jax.main --config=configs/evaluate.py --config.evaluate.models=base=MODEL \\
        '--config.evaluate.sets=requests.jsonl?kind=unsafe&attack=suffix:runs/attack/suffix.txt' \\
        --config.data.template=chat --workdir=runs/attacked

The first command writes a file of suffixes. The second asks the requests with these suffixes and
has a judge decide whether the answers are unsafe. Use the same set and the same template in both
commands, because a suffix works only with the text that surrounded it during the search.

The set is written as in evaluate.sets. The search looks for answers that begin with the file's own
`opening` (`columns=opening:target` for AdvBench), or else with "Sure, here is how to ...".

After a kill, the same command resumes and finds the same suffix. attack.steps may be raised later.

Arguments, after the colon:
    demo    the tiny model and eight of its requests; a minute on a laptop

Cost: in each step the model reads every candidate's suffix, the template and the target once for
each request in use. The paper takes 500 steps of 512 candidates for 25 requests. The log shows the
number of candidates per second.

Expect (demo): in twenty steps the loss of the first request falls from 9.8 to 6.7 nats per token,
and that of all eight requests from 10.0 to 8.1. It stays high because the tiny model has hardly
ever seen text like these targets.
"""

from ml_collections import ConfigDict

from configs.common import of_demo, parse_arg


def get_config(arg: str | None = None) -> ConfigDict:
    choice = parse_arg(arg, demo=False)

    config = ConfigDict()
    config.stage = "attack"
    config.seed = 0  # of all random choices of the run

    config.model = model = ConfigDict()
    model.path = ""  # a folder (full or PEFT), hub id or GGUF file; must be given
    model.tokenizer = ""  # a folder with another tokenizer; "": the model's own
    model.parameter_dtype = "auto"  # type of the weights; auto: bfloat16, on a CPU float32
    model.base = "stored"  # frozen projections: as stored, or quantised to int8 or nf4
    model.compute_dtype = "auto"  # of products; auto: bfloat16, or float32 on CPUs without it
    model.attention = "auto"  # auto: cudnn on GPUs, splash on TPUs, where they work; else xla

    config.attack = attack = ConfigDict()
    attack.set = ""  # unsafe requests: a name or a file, as in evaluate.sets; must be given
    attack.data = ""  # folder with the files of named sets, at any depth
    attack.mode = "universal"  # one suffix for all requests; or "individual": one for each
    attack.progressive = True  # universal: add the next request when all targets so far are reached
    attack.steps = 500  # steps of a search
    attack.candidates = 512  # new suffixes tried in each step
    attack.top_k = 256  # tokens per position that replacements are drawn from
    attack.max_evaluations = 0  # most losses (of a candidate and a request) per search; 0: no limit
    attack.stop_when_reached = True  # end when greedy decoding gives every target
    attack.start = " ".join("!" * 20)  # the initial suffix; its number of tokens does not change
    attack.tokens = "ascii"  # characters of a suffix; or "printable": letters of all languages
    attack.row_tokens = 512  # tokens of a row, which has a request once and candidates after it
    attack.tokens_per_batch = 16384  # tokens processed at a time, over all devices
    attack.chunk_tokens = 64  # tokens of a row whose logits exist at once; changes memory only

    config.data = data = ConfigDict()
    data.template = "chat"  # the prompt format: alpaca, plain, chat, ... or file:PATH
    data.max_length = 0  # tokens of request, suffix and target; 0: the model's context length
    data.special_text = "text"  # a control token's spelling: plain text; or "error"
    data.enable_thinking = ""  # "true", "false": passed to chat templates that ask; "": not passed
    data.template_date = ""  # date that some chat templates write; "": the day of the first start

    config.mesh = mesh = ConfigDict()
    mesh.data = -1  # devices among which rows are divided; -1: all that are left
    mesh.fsdp = 1  # devices among which both rows and weights are divided
    mesh.tensor = 1  # devices among which each matrix product is divided

    config.log = ConfigDict()
    config.log.every_steps = 10  # steps between two log lines
    config.log.compilation_cache = ""  # folder of compiled programs; "": in your cache folder

    if choice.demo:
        demo(config)
    return config


def demo(config: ConfigDict):
    """A LLaMA of a million parameters, made by launch/demo."""
    config.model.path = of_demo("model")
    config.model.parameter_dtype = "float32"
    config.model.compute_dtype = "float32"
    config.attack.set = of_demo("data/eval_unsafe.jsonl") + "?name=unsafe&kind=unsafe&rows=8"
    config.attack.steps = 20
    config.attack.candidates = 64
    config.attack.top_k = 32
    config.attack.start = " ".join("!" * 8)
    config.attack.tokens_per_batch = 2048
    config.data.template = "plain"
    config.data.max_length = 128
