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
    config.seed = 0

    config.model = model = ConfigDict()
    model.path = ""  # a folder (full or PEFT), hub id or GGUF file; must be given
    model.tokenizer = ""  # "": the model's own
    model.parameter_dtype = "auto"  # bfloat16; on a CPU float32
    model.base = "stored"  # kernels as folders have them; int8, nf4: quantised on reading
    model.compute_dtype = "auto"  # bfloat16; on a CPU without units for it float32
    model.attention = "auto"  # xla, cudnn (GPU), splash (TPU)

    config.data = data = ConfigDict()
    data.demonstrations = ("",)  # sources of unsafe prompts with the answers that they should get
    data.prompts = ("",)  # sources of unsafe prompts; an answer in their rows is not read
    data.ordinary = ("",)  # sources of prompts to help with; likewise
    data.decontaminate = ()  # tests: near-duplicates of their prompts are not learned
    data.template = "chat"
    data.max_length = 512  # of prompt and answer
    data.overlong_prompt = "error"  # or "skip"
    data.special_text = "text"  # what spells a control token is letters; or "error", "skip"
    data.enable_thinking = ""  # of chat templates that ask: "true", "false"; "": their own choice
    data.template_date = ""  # for chat templates that write it: 2024-07-26; "": the first start's

    config.collect = collect = ConfigDict()
    collect.judges = ()  # beside the rows of score.judges: NAME=FOLDER of a run of stage reward
    collect.unsafe_by = "complies"  # the judge that says which answers are unsafe

    config.answer = answers(temperature=1.0, candidates=1, max_new_tokens=128)
    config.sample = ConfigDict()
    set_pace(config.sample, prompts_per_write=256)
    config.score = judging()
    config.score.judges.refusal = ConfigDict({"kind": "refusal"})
    config.score.judges.complies = complies()

    config.mesh = mesh = ConfigDict()
    mesh.data = -1  # -1: what is left
    mesh.fsdp = 1
    mesh.tensor = 1

    config.log = ConfigDict()
    config.log.compilation_cache = ""  # "": the user's cache folder

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
