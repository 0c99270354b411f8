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
    config.seed = 0

    config.model = model = ConfigDict()
    model.path = ""  # a folder (full or PEFT), hub id or GGUF file; must be given
    model.tokenizer = ""  # "": the model's own
    model.parameter_dtype = "auto"  # bfloat16; on a CPU float32
    model.base = "stored"  # kernels as folders have them; int8, nf4: quantised on reading
    model.compute_dtype = "auto"  # bfloat16; on a CPU without units for it float32
    model.attention = "auto"  # xla, cudnn (GPU), splash (TPU)

    config.attack = attack = ConfigDict()
    attack.set = ""  # unsafe requests: a name or a file, as in evaluate.sets; must be given
    attack.data = ""  # the folder below which the files of named sets are
    attack.mode = "universal"  # one suffix for all requests; or "individual", one for each
    attack.progressive = True  # universal: takes in the next request when the last ones' is reached
    attack.steps = 500  # of a search
    attack.candidates = 512  # tried in a step
    attack.top_k = 256  # tokens of a place that are drawn from
    attack.max_evaluations = 0  # of a search: losses of a candidate and a request; 0: no limit
    attack.stop_when_reached = True  # when the model would write every target by itself
    attack.start = " ".join("!" * 20)  # the suffix before the first step; its tokens are replaced
    attack.tokens = "ascii"  # what a suffix is made of; or "printable": letters of all languages
    attack.row_tokens = 512  # of a row, which holds a request once and candidates behind it
    attack.tokens_per_batch = 16384  # of rows, over all devices; memory, and speed
    attack.chunk_tokens = 64  # positions of a row whose logits exist at once

    config.data = data = ConfigDict()
    data.template = "chat"
    data.max_length = 0  # of request, suffix and target; 0: what the model was made for
    data.special_text = "text"  # what spells a control token is letters; or "error"
    data.enable_thinking = ""  # of chat templates that ask: "true", "false"; "": their own choice
    data.template_date = ""  # for chat templates that write it: 2024-07-26; "": the first start's

    config.mesh = mesh = ConfigDict()
    mesh.data = -1  # -1: what is left
    mesh.fsdp = 1
    mesh.tensor = 1

    config.log = ConfigDict()
    config.log.every_steps = 10
    config.log.compilation_cache = ""  # "": the user's cache folder

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
