"""THE table of the rows of `score.judges`: by kind of judge, each key with its range or choices.

See `schema.py`. The kinds themselves are in `judges/registry.py`; `stored` is stage `evaluate`'s.
"""

from safety_jax.base.settings import Flag, OneOf, Real, Reals, Text, Texts, Whole
from safety_jax.stages.shared_schema import (
    AMOUNT,
    BELOW_ONE,
    CACHE,
    JUDGED_DIRECTION,
    LONGEST_ROW,
    MODEL,
    OTHER_FOLDER,
    SHARE,
    TEMPLATE,
    Table,
)

_THRESHOLD = Reals(1)
_TOKENS = Whole(0, LONGEST_ROW, unit="tokens")
_GUARD: Table = {
    "path": MODEL,
    "threshold": SHARE,
    "max_tokens": _TOKENS,
    "min_verdict_probability": BELOW_ONE,
}
# Rows of `score.judges`, by their kind.
JUDGES: dict[str, Table] = {
    "refusal": {},
    "sequence": {
        "path": MODEL,
        "tokenizer": OTHER_FOLDER,
        "template": TEMPLATE,
        "output": Text("a label of the model"),
        "activation": OneOf(("none", "sigmoid", "softmax")),
        "direction": JUDGED_DIRECTION,
        "range": Reals(2),
        "threshold": _THRESHOLD,
        "max_tokens": _TOKENS,
        "overlong": OneOf(("unscored", "cut_prompt")),
        "append_eos": Flag(),
    },
    "trained": {"path": MODEL},
    "cross_fitted": {"paths": Texts("folders of stage reward", needed=True, distinct=True)},
    "llama_guard": {**_GUARD, "category_tokens": _TOKENS},
    "wildguard": {
        **_GUARD,
        "field": OneOf(("harmful_request", "response_refusal", "harmful_response")),
    },
    "qwen3guard": {**_GUARD, "field": OneOf(("safety", "refusal")), "controversial": SHARE},
    "shieldgemma": {**_GUARD, "guidelines.*": Text("the text of a guideline")},
    "granite_guardian": {
        **_GUARD,
        "version": OneOf(("3.2", "3.3", "4.1")),
        "criterion": Text("a name that its chat template knows"),
        "definition": Text("a criterion in words"),
    },
    "harmbench": {**_GUARD, "variant": OneOf(("llama2", "mistral")), "response_tokens": _TOKENS},
    "strongreject": {**_GUARD, "response_tokens": _TOKENS},
    "md_judge": {**_GUARD, "category_tokens": _TOKENS},
    "nemotron": {**_GUARD, "field": OneOf(("user_safety", "response_safety"))},
    "guard": {
        **_GUARD,
        "form": Text("chat, or file:PATH", needed=True),
        "begin": Text("the beginning of an answer"),
        "labels.*": Real(),
        "variables": Text("a JSON object"),
        "direction": JUDGED_DIRECTION,
    },
    "beaver_dam": {
        "path": MODEL,
        "threshold": SHARE,
        "max_tokens": _TOKENS,
        "harm": Text("a label of the model"),
    },
    "moderation": {
        "url": Text("the address of a service", needed=True),
        "model": Text("the name of a model", needed=True),
        "key_variable": Text("the name of an environment variable"),
        "category": Text("a category of the service"),
        "threshold": SHARE,
        "cache": CACHE,
        "batch_size": Whole(1, unit="texts"),
        "attempts": AMOUNT,
        "timeout_seconds": Real(0.0, low_open=True, unit="seconds"),
        "pause_seconds": Real(0.0, unit="seconds"),
        "longest_pause_seconds": Real(0.0, unit="seconds"),
    },
    "stored": {
        "column": Text("the name of a column", needed=True),
        "direction": JUDGED_DIRECTION,
        "range": Reals(2),
        "threshold": _THRESHOLD,
    },
    "weighted_sum": {"weights.*": Real()},
    "safe_first": {
        "safety": Text("the name of a judge", needed=True),
        "helpfulness": Text("the name of a judge", needed=True),
    },
    "read_as": {
        "part": Text("the name of a judge", needed=True),
        "direction": JUDGED_DIRECTION,
        "threshold": _THRESHOLD,
    },
}
