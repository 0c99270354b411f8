"""Llama Guard 1 to 3 (arXiv 2312.06674): "safe", or "unsafe" and a line of categories.

Versions 1 and 2 answer right behind their chat template; version 3 writes an empty line first,
which is put there for it. Version 4 has layers of another kind, and is refused.
"""

from safety_jax.judges.guards.forms import ChatForm
from safety_jax.judges.guards.guard import Continuation, Design, Interview, Question, expected
from safety_jax.judges.guards.reading import spelled
from safety_jax.judges.guards.specs import GuardKind
from safety_jax.judges.planned import Spec

HEADER_END = "<|end_header_id|>"  # where Llama Guard 3's template stops, short of an empty line


def _design(_: str, spec: Spec) -> Design:
    categories = spec["category_tokens"]
    verdict = Question(
        "verdict",
        spelled("safe", "unsafe"),
        continuation=Continuation("categories", "unsafe", "\n", categories),
    )
    return Design(
        template="the guard's chat template",
        interviews=(Interview(ChatForm(behind={HEADER_END: "\n\n"}), (verdict,)),),
        rule=expected("verdict", {"unsafe": 1.0}),
        settings={"category_tokens": categories},
    )


KIND = GuardKind(
    ("category_tokens",),
    _design,
    refused={
        "llama4": "Llama Guard 4 has layers of another kind (model_type llama4), which are not "
        "supported; use Llama Guard 3, meta-llama/Llama-Guard-3-8B"
    },
)
