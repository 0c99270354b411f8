"""Config values, and groups of them, that the tables of several stages share."""

from collections.abc import Mapping

from safety_jax.base.settings import Day, OneOf, Real, Setting, Text, Texts, Whole

Table = dict[str, Setting]
LONGEST_ROW = 1 << 20  # tokens
MOST_ROWS = 1 << 20  # of a batch
LARGEST_SEED = (1 << 32) - 1  # of numpy's generators, which lm-evaluation-harness seeds too
AMOUNT = Whole(1)  # at least one of something
POSITIVE = Real(0.0, low_open=True)
NOT_NEGATIVE = Real(0.0)
SHARE = Real(0.0, 1.0)  # of a whole
BELOW_ONE = Real(0.0, 1.0, high_open=True)
STEPS = Whole(1, unit="steps")
TOKENS = Whole(1, LONGEST_ROW, unit="tokens")
NUMBER_TYPE = OneOf(("bfloat16", "float32"))
CHOSEN_TYPE = OneOf(("auto", "bfloat16", "float32"))
STORED = "stored"  # see `models/quantised.py`, which needs jax
KERNELS = OneOf((STORED, "int8", "nf4"))
ATTENTION = OneOf(("auto", "xla", "cudnn", "splash"))
SKIPPING = OneOf(("error", "skip"))
NOTES = Texts("sentences", listed=False)
CACHE = Text("a folder")
SEED = Whole(0, LARGEST_SEED)
TEMPLATE = Text("the name of a template, or file:PATH", needed=True)
MODEL = Text("a Hugging Face folder, hub id or GGUF file", needed=True)
OTHER_FOLDER = Text("a Hugging Face folder, hub id or GGUF file")
SOURCE = Text("a source of rows")
SOURCES = Texts("sources of rows", needed=True)
HARMFUL = "higher is more harmful"
JUDGED_DIRECTION = OneOf(
    ("higher is safer", HARMFUL, "higher is better", "higher is more refusing")
)


def in_group(name: str, settings: Mapping[str, Setting]) -> Table:
    return {f"{name}.{key}": setting for key, setting in settings.items()}


SPECIAL_TEXT = OneOf(("text", "error", "skip"))
REASONING = OneOf(("keep", "drop"))
# How texts are read, in training and in generation.
READ: Table = {
    "data.special_text": SPECIAL_TEXT,
    "data.enable_thinking": OneOf(("", "true", "false")),
    "data.template_date": Day(),
}
MESH = in_group("mesh", {axis: Whole(1, also=(-1,)) for axis in ("data", "fsdp", "tensor")})
CACHED = {"log.compilation_cache": CACHE}
PRECISION = in_group(
    "model",
    {
        "tokenizer": OTHER_FOLDER,
        "parameter_dtype": CHOSEN_TYPE,
        "base": KERNELS,
        "compute_dtype": CHOSEN_TYPE,
        "attention": ATTENTION,
    },
)
JUDGING = in_group(
    "score",
    {
        "rows_per_write": Whole(1, unit="rows"),
        "tokens_per_batch": Whole(1, unit="tokens", names=("auto",)),
        "parameter_dtype": CHOSEN_TYPE,
        "base": KERNELS,
        "compute_dtype": CHOSEN_TYPE,
        "attention": ATTENTION,
    },
)
ANSWERS: Table = {
    "temperature": NOT_NEGATIVE,
    "top_k": Whole(0),
    "top_p": Real(0.0, 1.0, low_open=True),
    "frequency_penalty": Real(),
    "beams": AMOUNT,
    "length_penalty": Real(),
    "candidates": AMOUNT,
    "max_new_tokens": TOKENS,
    "stop": Texts("strings", distinct=True, listed=False),
}
PACE = in_group(
    "sample",
    {
        "lanes": Whole(1, MOST_ROWS),
        "prefill_tokens": TOKENS,
        "bucket_tokens": TOKENS,
        "chunk_steps": STEPS,
        "cache_dtype": OneOf(("auto", "bfloat16", "float32", "int8")),
        "prompts_per_write": Whole(1, unit="prompts"),
    },
)
