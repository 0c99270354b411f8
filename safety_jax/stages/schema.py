"""THE table of every value that a config may have: by stage, each key with its range or choices.

What a value means stands beside it in `configs/*.py`; docs/reference/configs.md has both.
`checks.py` holds a config against the table. What only files can decide (whether a tokenizer has a
chat template, whether a judge of that name is there) is looked at by whoever reads them.
"""

from collections.abc import Mapping

from safety_jax.base.settings import Day, Flag, OneOf, Real, Setting, Text, Texts, Whole, Wholes
from safety_jax.data.forms import FORMS
from safety_jax.stages.metric_names import (
    DPO_METRICS,
    KTO_METRICS,
    METRICS_OF_JUDGES,
    ORPO_METRICS,
    REWARD_METRICS,
    SFT_METRICS,
)

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
STORED = "stored"  # see `models/quantised.py`, which needs jax
KERNELS = OneOf((STORED, "int8", "nf4"))
ATTENTION = OneOf(("auto", "xla", "cudnn", "splash"))
SKIPPING = OneOf(("error", "skip"))
NOTES = Texts("sentences")
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


# ---------------------------------------------------------------------------- shared groups

_SPECIAL_TEXT = OneOf(("text", "error", "skip"))
_REASONING = OneOf(("keep", "drop"))
# How texts are read, in training and in use.
_READ: Table = {
    "data.special_text": _SPECIAL_TEXT,
    "data.enable_thinking": OneOf(("", "true", "false")),
    "data.template_date": Day(),
}
_MESH = in_group("mesh", {axis: Whole(1, also=(-1,)) for axis in ("data", "fsdp", "tensor")})
_CACHED = {"log.compilation_cache": CACHE}
_PRECISION = in_group(
    "model",
    {
        "tokenizer": OTHER_FOLDER,
        "parameter_dtype": NUMBER_TYPE,
        "base": KERNELS,
        "compute_dtype": NUMBER_TYPE,
        "attention": ATTENTION,
    },
)
_JUDGING = in_group(
    "score",
    {
        "rows_per_write": Whole(1, unit="rows"),
        "tokens_per_batch": Whole(1, unit="tokens", names=("auto",)),
        "parameter_dtype": NUMBER_TYPE,
        "base": KERNELS,
        "compute_dtype": NUMBER_TYPE,
        "attention": ATTENTION,
    },
)
_ANSWERS: Table = {
    "temperature": NOT_NEGATIVE,
    "top_k": Whole(0),
    "top_p": Real(0.0, 1.0, low_open=True),
    "frequency_penalty": Real(),
    "beams": AMOUNT,
    "length_penalty": Real(),
    "candidates": AMOUNT,
    "max_new_tokens": TOKENS,
    "stop": Texts("strings", distinct=True),
}
_PACE = in_group(
    "sample",
    {
        "lanes": Whole(1, MOST_ROWS),
        "prefill_tokens": TOKENS,
        "bucket_tokens": TOKENS,
        "chunk_steps": STEPS,
        "cache_dtype": OneOf(("bfloat16", "float32", "int8")),
        "prompts_per_write": Whole(1, unit="prompts"),
    },
)
# What all stages have that train; metrics and limits of their own follow.
_TRAINING: Table = {
    "stage": Text("the name of a stage", needed=True),
    "seed": SEED,
    "model.path": MODEL,
    "model.init": OneOf(("pretrained", "random")),
    **_PRECISION,
    "model.remat": OneOf(("auto", "none", "dots", "full")),
    "lora.rank": Whole(0, 1 << 16),
    "lora.alpha": POSITIVE,
    "lora.dropout": BELOW_ONE,
    "lora.targets": Texts("names of projections", needed=True, distinct=True),
    "lora.initialization": OneOf(("peft", "zero_a")),
    "lora.rslora": Flag(),
    "lora.layers": Text("numbers and ranges of layers, such as 8-11,20"),
    "data.template": TEMPLATE,
    "data.decontaminate": Texts("sources of rows", distinct=True),
    "data.max_length": Whole(2, LONGEST_ROW, unit="tokens"),
    "data.row_tokens": Whole(0, LONGEST_ROW, unit="tokens"),
    "data.packing": Flag(),
    "data.overlong_prompt": SKIPPING,
    "data.prefetch_steps": Whole(0, 1000, unit="steps"),
    "train.batch_size": Whole(1, MOST_ROWS),
    "train.rows_per_microbatch": Whole(1, MOST_ROWS, unit="rows", names=("auto",)),
    "train.max_steps": Whole(0, 10_000_000, unit="steps"),
    "train.epochs": Real(0.0, unit="epochs"),
    "optim.learning_rate": POSITIVE,
    "optim.schedule": OneOf(("constant", "linear", "cosine")),
    "optim.warmup_steps": Whole(0, unit="steps"),
    "optim.weight_decay": NOT_NEGATIVE,
    "optim.beta1": BELOW_ONE,
    "optim.beta2": BELOW_ONE,
    # In 32 bits, 0 / (0 + epsilon) must stay 0.
    "optim.epsilon": Real(1e-30, 1.0),
    "optim.clip_norm": NOT_NEGATIVE,
    **_MESH,
    "checkpoint.every_steps": STEPS,
    "checkpoint.keep_last": AMOUNT,
    "checkpoint.export": OneOf(("last", "best")),
    "checkpoint.best_is": OneOf(("lowest", "highest")),
    "checkpoint.export_dtype": NUMBER_TYPE,
    "log.every_steps": STEPS,
    "log.eval_every_steps": STEPS,
    "log.tensorboard": Flag(),
    "log.wandb": Flag(),
    **_CACHED,
}
# Of stages whose model answers: it has a vocabulary, and may be an adapter.
_POLICY: Table = {
    "model.adapter": Text("a PEFT folder"),
    "train.chunk_tokens": TOKENS,
    "train.max_flops": NOT_NEGATIVE,
    "checkpoint.export_merged": Flag(),
    **_READ,
    "data.reasoning": _REASONING,
}
_PREFER = OneOf(
    ("all", "safe_and_better", "safe_over_unsafe", "agreed", "safer", "safety_first")
)  # fmt: skip

# ---------------------------------------------------------------------------- stages

_SFT: Table = {
    **_TRAINING,
    **_POLICY,
    "data.train": SOURCES,
    "data.safety": SOURCE,
    "data.safety_rows": Whole(0, unit="rows"),
    "data.safety_choice": OneOf(("any", "refusals")),
    "data.safety_form": OneOf(("", *FORMS)),
    "data.recovery_share": SHARE,
    "data.recovery_tokens": TOKENS,
    "data.recovery": SOURCE,
    "data.eval": SOURCE,
    "data.eval_rows": Whole(0, unit="rows"),
    "data.train_on": OneOf(("response", "everything")),
    "checkpoint.best_metric": SFT_METRICS,
    "sft.objective": OneOf(("likelihood", "constrained")),
    "sft.beta_first": POSITIVE,
    "sft.beta_early": POSITIVE,
    "sft.early_tokens": Whole(1, LONGEST_ROW, unit="tokens"),
    "sft.beta_rest": POSITIVE,
    "sft.reference": OneOf(("cached", "live")),
    "sft.reference_folder": CACHE,
    "sft.protocol_notes": NOTES,
}
_SWEEP: Table = {
    **_SFT,
    "sweep.axes": Text("KEY=VALUE,VALUE,... KEY=VALUE,..."),
    "sweep.runs": Text("KEY=VALUE KEY=VALUE; KEY=VALUE"),
    "sweep.lanes": Whole(1, 1024, unit="runs"),
}
_DPO: Table = {
    **_TRAINING,
    **_POLICY,
    "data.train": SOURCES,
    "data.prefer": _PREFER,
    "data.share_prompts": Flag(),
    "data.recovery_share": SHARE,
    "data.recovery_tokens": TOKENS,
    "data.eval": SOURCE,
    "data.eval_rows": Whole(0, unit="pairs"),
    "data.bad_rows": SKIPPING,
    "checkpoint.best_metric": DPO_METRICS,
    "dpo.objective": OneOf(
        ("sigmoid", "conservative", "robust", "hinge", "ipo_sum", "ipo_mean", "sigmoid_mean",
         "simpo", "safe", "door")
    ),
    "dpo.beta": POSITIVE,
    "dpo.smoothing": Real(0.0, 0.5, high_open=True),
    "dpo.margin": NOT_NEGATIVE,
    "dpo.nll_weight": NOT_NEGATIVE,
    "dpo.reference": OneOf(("cached", "live", "none")),
    "dpo.reference_folder": CACHE,
    "dpo.protocol_notes": NOTES,
}  # fmt: skip
_PREFERENCE_DATA: Table = {
    **_TRAINING,
    **_POLICY,
    "data.train": SOURCES,
    "data.eval": SOURCE,
    "data.bad_rows": SKIPPING,
}
_KTO: Table = {
    **_PREFERENCE_DATA,
    "data.eval_rows": Whole(0, unit="rows"),
    "checkpoint.best_metric": KTO_METRICS,
    "kto.beta": POSITIVE,
    "kto.desirable_weight": NOT_NEGATIVE,
    "kto.undesirable_weight": NOT_NEGATIVE,
    "kto.reference": OneOf(("cached",)),
    "kto.reference_folder": CACHE,
    "kto.protocol_notes": NOTES,
}
_ORPO: Table = {
    **_PREFERENCE_DATA,
    "data.prefer": _PREFER,
    "data.share_prompts": Flag(),
    "data.eval_rows": Whole(0, unit="pairs"),
    "checkpoint.best_metric": ORPO_METRICS,
    "orpo.weight": NOT_NEGATIVE,
    "orpo.protocol_notes": NOTES,
}
_REWARD: Table = {
    **_TRAINING,
    "data.special_text": _SPECIAL_TEXT,
    "data.reasoning": _REASONING,
    "data.train": SOURCES,
    "data.prefer": _PREFER,
    "data.share_prompts": Flag(),
    "data.eval": SOURCE,
    "data.eval_rows": Whole(0, unit="rows"),
    "data.append_eos": Flag(),
    "data.bad_rows": SKIPPING,
    "checkpoint.best_metric": REWARD_METRICS,
    "reward.kind": OneOf(tuple(METRICS_OF_JUDGES)),
    "reward.direction": OneOf(JUDGED_DIRECTION.names[:3]),
    "reward.margin": NOT_NEGATIVE,
    "reward.centring": NOT_NEGATIVE,
    "reward.regularization": NOT_NEGATIVE,
    "reward.protocol_notes": NOTES,
}
_RAFT: Table = {
    **_TRAINING,
    **_POLICY,
    "data.prompts": SOURCES,
    "data.ordinary": Texts("sources of rows"),
    "data.ordinary_share": SHARE,
    "data.order": OneOf(("shuffled", "file")),
    "data.eval": Texts("sources of rows"),
    "data.train_on": OneOf(("response", "everything")),
    # A round ends with its last step: nothing is measured while it trains.
    "checkpoint.export": OneOf(("last",)),
    "checkpoint.best_metric": OneOf(("loss",)),
    **in_group(
        "raft",
        {
            "rounds": AMOUNT,
            "prompts": Whole(1, unit="prompts"),
            "patience": Whole(0, unit="rounds"),
            "reuse_prompts": Flag(),
            "judges": Texts("FOLDER, NAME=FOLDER or refusal", distinct=True),
            "judges_resident": Flag(),
            "rank_by": Text("the name of a judge"),
            "accept": Texts("names of judges", distinct=True),
            "kl_weight": NOT_NEGATIVE,
            "unfinished": OneOf(("reject", "keep")),
            "reference_answers": Flag(),
            "people": Flag(),
            "adapter": OneOf(("continue", "merge")),
            "measure_kl": Flag(),
            "diversity_alarm": NOT_NEGATIVE,
            "length_alarm": NOT_NEGATIVE,
            "protocol_notes": NOTES,
        },
    ),
    **in_group("sample", _ANSWERS),
    **in_group("answer", _ANSWERS),
    **_PACE,
    **_JUDGING,
}
_COLLECT: Table = {
    "stage": Text("the name of a stage", needed=True),
    "seed": SEED,
    "model.path": MODEL,
    **_PRECISION,
    "data.demonstrations": Texts("sources of rows"),
    "data.prompts": Texts("sources of rows"),
    "data.ordinary": Texts("sources of rows"),
    "data.decontaminate": Texts("sources of rows", distinct=True),
    "data.template": TEMPLATE,
    "data.max_length": Whole(2, LONGEST_ROW, unit="tokens"),
    "data.overlong_prompt": SKIPPING,
    **_READ,
    "collect.judges": Texts("FOLDER, NAME=FOLDER or refusal", distinct=True),
    "collect.unsafe_by": Text("the name of a judge", needed=True),
    **in_group("answer", _ANSWERS),
    **_PACE,
    **_JUDGING,
    **_MESH,
    **_CACHED,
}
_SCORE: Table = {
    "stage": Text("the name of a stage", needed=True),
    "seed": SEED,
    "data.responses": SOURCES,
    "data.stored": Texts("sources of rows"),
    "data.special_text": _SPECIAL_TEXT,
    "score.stored": Texts("names of columns", distinct=True),
    **_JUDGING,
    **_MESH,
    **_CACHED,
}
# What `judges/audit` does to responses, and to a judge's own form.
CHANGES = (
    "longer", "shorter", "framed", "disavowed", "refused_first", "repeated", "empty", "swapped",
    "reworded",
)  # fmt: skip
_AUDIT: Table = {
    "stage": Text("the name of a stage", needed=True),
    "seed": SEED,
    "data.responses": SOURCES,
    "data.label": Text("the name of a column"),
    "data.positive": Texts("values of that column", distinct=True),
    "data.negative": Texts("values of that column", distinct=True),
    "data.means": OneOf(("harmful", "refusing")),
    "data.groups": Texts("names of columns", distinct=True),
    "data.special_text": _SPECIAL_TEXT,
    "audit.changes": Texts("names of changes", distinct=True),
    "audit.rows": Whole(0, unit="rows"),
    "audit.resamples": Whole(1, 10_000_000),
    "audit.bins": Whole(2, 1000),
    **_JUDGING,
    **_MESH,
    **_CACHED,
}
_EVALUATE: Table = {
    "stage": Text("the name of a stage", needed=True),
    "seed": SEED,
    **in_group(
        "evaluate",
        {
            "models": Text("NAME=FOLDER,NAME=FOLDER"),
            "responses": Text("NAME=FOLDER_OR_FILE,NAME=FOLDER_OR_FILE"),
            "match": OneOf(("row", "prompt")),
            "baseline": Text("the name of a model"),
            "sets": Texts("names of sets, or files", needed=True, distinct=True),
            "choice_tokens": TOKENS,
            "data": Text("a folder"),
            "judges": Texts("FOLDER, NAME=FOLDER or refusal", distinct=True),
            "safety": Text("the name of a judge"),
            "helpfulness": Text("the name of a judge"),
            "preference": OTHER_FOLDER,
            "preference_probability": BELOW_ONE,
            "force": Flag(),
            "margin_share": SHARE,
            "margin_score": NOT_NEGATIVE,
            "resamples": Whole(1, 10_000_000),
            "sheet_answers": Whole(0, unit="answers"),
            "labels": Texts("files", distinct=True),
            "tasks": Texts("names or YAML files of tasks", distinct=True),
            "task_examples": Whole(0, unit="examples"),
            "task_shots": Whole(0, 1000, unit="examples"),
        },
    ),
    **_PRECISION,
    "data.template": TEMPLATE,
    "data.max_length": Whole(0, LONGEST_ROW, unit="tokens"),
    "data.overlong_prompt": SKIPPING,
    **_READ,
    **in_group("answer", _ANSWERS),
    **_PACE,
    **_JUDGING,
    **_MESH,
    **_CACHED,
}
_ATTACK: Table = {
    "stage": Text("the name of a stage", needed=True),
    "seed": SEED,
    "model.path": MODEL,
    **_PRECISION,
    **in_group(
        "attack",
        {
            "set": Text("the name of a set, or a file", needed=True),
            "data": Text("a folder"),
            "mode": OneOf(("universal", "individual")),
            "progressive": Flag(),
            "steps": STEPS,
            "candidates": Whole(1, MOST_ROWS),
            "top_k": AMOUNT,
            "max_evaluations": Whole(0),
            "stop_when_reached": Flag(),
            "start": Text("words", needed=True),
            "tokens": OneOf(("ascii", "printable")),
            "row_tokens": TOKENS,
            "tokens_per_batch": Whole(1, unit="tokens"),
            "chunk_tokens": TOKENS,
        },
    ),
    "data.template": TEMPLATE,
    "data.max_length": Whole(0, LONGEST_ROW, unit="tokens"),
    **_READ,
    **_MESH,
    "log.every_steps": STEPS,
    **_CACHED,
}
# What tampering has of training: how long it trains, and what it keeps, follow from its steps.
_TAMPERED = (
    "stage", "seed", *_PRECISION, "model.remat",
    *(f"lora.{key}" for key in ("alpha", "dropout", "targets", "initialization", "rslora",
                                "layers")),
    "data.template", "data.max_length", "data.row_tokens", "data.packing", "data.overlong_prompt",
    "data.prefetch_steps", "train.batch_size", "train.rows_per_microbatch",
    *(f"optim.{key}" for key in ("learning_rate", "warmup_steps", "weight_decay", "beta1", "beta2",
                                 "epsilon", "clip_norm")),
)  # fmt: skip
_TAMPER: Table = {
    **{key: _TRAINING[key] for key in _TAMPERED},
    "lora.rank": Whole(1, 1 << 16),
    "optim.schedule": OneOf(("constant",)),
    "train.chunk_tokens": TOKENS,
    **_READ,
    "data.reasoning": _REASONING,
    "data.harmful": Texts("sources of rows"),
    "data.benign": Texts("sources of rows"),
    **in_group(
        "tamper",
        {
            "models": Text("NAME=FOLDER,NAME=FOLDER", needed=True),
            "steps": Wholes(1, unit="steps", needed=True),
            "rows": Wholes(1, unit="rows"),
            "benign_rows": Wholes(1, unit="rows"),
            "sets": Texts("names of sets, or files", needed=True, distinct=True),
            "data": Text("a folder"),
            "judges": Texts("FOLDER, NAME=FOLDER or refusal", distinct=True),
            "unsafe_by": Text("the name of a judge", needed=True),
            "target": Real(0.0, 1.0, low_open=True),
            "resamples": Whole(1, 10_000_000),
            "keep_weights": Flag(),
        },
    ),
    **in_group("answer", _ANSWERS),
    **_PACE,
    **_JUDGING,
    **_MESH,
    **_CACHED,
}
_CURVE: Table = {
    "stage": Text("the name of a stage", needed=True),
    "seed": SEED,
    "curve.sweep": Text("the --workdir of a sweep", needed=True),
    "curve.report": Text("the --workdir of its evaluation", needed=True),
    "curve.axis": Text("a key of the sweep's axes", needed=True),
    "curve.margin_share": SHARE,
}
_RECIPE: Table = {
    "stage": Text("the name of a stage", needed=True),
    "seed": SEED,
    "recipe.base": OTHER_FOLDER,
    "recipe.data": Text("a folder"),
    "recipe.steps": Texts("names of groups that are whole configs", needed=True, distinct=True),
    "recipe.max_flops": NOT_NEGATIVE,
    "recipe.trunk": OTHER_FOLDER,
    "recipe.minutes.*": NOT_NEGATIVE,
}
_PLAN: Table = {
    "stage": Text("the name of a stage", needed=True),
    "plan.run": Texts("configs, with arguments behind a colon", needed=True, distinct=True),
    "plan.set": Texts("KEY=VALUE"),
    "plan.slice": Texts("CHIP:SHAPE", needed=True, distinct=True),
    "plan.mesh": OneOf(("auto", "run")),
    "plan.example_tokens": Whole(0, LONGEST_ROW, unit="tokens"),
    "plan.search": Flag(),
    "plan.compile": Flag(),
    "plan.price": Texts("CHIP=PRICE", distinct=True),
    "model.size": Texts("names of sizes, or folders", needed=True, distinct=True),
}
STAGES: dict[str, Table] = {
    "sft": _SFT,
    "dpo": _DPO,
    "kto": _KTO,
    "orpo": _ORPO,
    "raft": _RAFT,
    "reward": _REWARD,
    "collect": _COLLECT,
    "score": _SCORE,
    "evaluate": _EVALUATE,
    "audit": _AUDIT,
    "attack": _ATTACK,
    "tamper": _TAMPER,
    "sweep": _SWEEP,
    "curve": _CURVE,
    "plan": _PLAN,
    "recipe": _RECIPE,
}
