"""Generates training data from a model's own answers: preferences, answers to keep, judged answers.

Preference training works best on answers that the model itself gives (arXiv 2404.14367): its unsafe
answers become the rejected ones, its answers to ordinary requests the chosen ones.

    python -m safety_jax.main --config=configs/collect.py --config.model.path=MODEL \\
        --config.data.demonstrations=SAFE_ANSWERS.jsonl --config.data.ordinary=ORDINARY.jsonl \\
        --workdir=runs/own
    python -m safety_jax.main --config=configs/dpo.py --config.model.path=MODEL \\
        --config.data.train=runs/own/pairs_unsafe.jsonl \\
        --config.data.train=runs/own/pairs_ordinary.jsonl \\
        --config.data.prefer=all --workdir=runs/dpo

It writes `pairs_unsafe.jsonl` and `pairs_ordinary.jsonl` (for dpo, orpo and reward), `kept.jsonl`
(for sft), and `judged_a.jsonl` and `judged_b.jsonl` (for two judges that share no prompt, by
reward:kind=binary).

For an unsafe prompt, the chosen answer is the demonstration, or if there is none the best of the
model's own safe answers; the rejected answer is its worst unsafe one. For an ordinary prompt, the
chosen answer is the model's own and the rejected answer is a refusal.

Arguments, after the colon and separated by commas:
    demo    the tiny model and prompts of launch/demo; half a minute on a laptop

Cost: every prompt is answered `answer.candidates` times.

Expect (demo): the base model refuses nothing, so nearly every unsafe prompt gives a pair.
"""

from ml_collections import ConfigDict

from configs.common import answers, complies, judging, of_demo, parse_arg, set_pace


def get_config(arg: str | None = None) -> ConfigDict:
    choice = parse_arg(arg, demo=False)

    config = ConfigDict()
    config.stage = "collect"
    config.seed = 0  # of all random choices of the run

    config.model = model = ConfigDict()
    model.path = ""  # a folder (full or PEFT), hub id or GGUF file; must be given
    model.tokenizer = ""  # a folder with another tokenizer; "": the model's own
    model.parameter_dtype = "auto"  # type of the weights; auto: bfloat16, on a CPU float32
    model.base = "stored"  # frozen projections: as stored, or quantised to int8 or nf4
    model.compute_dtype = "auto"  # of products; auto: bfloat16, or float32 on CPUs without it
    model.attention = "auto"  # auto: cudnn on GPUs, splash on TPUs, where they work; else xla

    config.data = data = ConfigDict()
    data.demonstrations = ("",)  # sources of unsafe prompts with the answers that they should get
    data.prompts = ("",)  # sources of unsafe prompts; answers in their rows are ignored
    data.ordinary = ("",)  # sources of prompts to help with; answers in their rows are ignored
    data.decontaminate = ()  # test sets: training rows with nearly the same prompt are left out
    data.template = "chat"  # the prompt format: alpaca, plain, chat, ... or file:PATH
    data.max_length = 512  # tokens of prompt and answer
    data.overlong_prompt = "error"  # on a prompt that fills max_length; or "skip"
    data.special_text = "text"  # a control token's spelling: plain text; or "error", "skip"
    data.enable_thinking = ""  # "true", "false": passed to chat templates that ask; "": not passed
    data.template_date = ""  # date that some chat templates write; "": the day of the first start

    config.collect = collect = ConfigDict()
    collect.judges = ()  # NAME=FOLDER of runs of stage reward; added to score.judges
    collect.kept_tokens = 0  # the first tokens of an answer that kept.jsonl keeps; 0: all
    collect.unsafe_by = "complies"  # the judge that decides which answers are unsafe

    config.answer = answers(temperature=1.0, candidates=1, max_new_tokens=128)
    config.sample = ConfigDict()
    set_pace(config.sample, prompts_per_write=256)
    config.score = judging()
    config.score.judges.refusal = ConfigDict({"kind": "refusal"})
    config.score.judges.complies = complies()

    config.mesh = mesh = ConfigDict()
    mesh.data = -1  # devices among which rows are divided; -1: all that are left
    mesh.fsdp = 1  # devices among which both rows and weights are divided
    mesh.tensor = 1  # devices among which each matrix product is divided

    config.log = ConfigDict()
    config.log.compilation_cache = ""  # folder of compiled programs; "": in your cache folder

    if choice.demo:
        demo(config)
    return config


def demo(config: ConfigDict):
    """A LLaMA of a million parameters, made by launch/demo."""
    config.model.path = of_demo("model")
    config.model.parameter_dtype = "float32"
    config.model.compute_dtype = "float32"
    config.data.demonstrations = (of_demo("data/safety.jsonl"),)
    config.data.ordinary = (of_demo("data/ordinary_prompts.jsonl"),)
    config.data.template = "plain"
    config.data.max_length = 128
    config.answer.max_new_tokens = 32
    config.sample.lanes = 32
    config.sample.bucket_tokens = 64
    config.sample.cache_dtype = "float32"
