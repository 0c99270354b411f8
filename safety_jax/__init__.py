"""safety_jax: make LLaMA-family models safe and still helpful, in JAX, and measure both.

    import safety_jax as sj

    model = sj.load("FOLDER or hub id")
    answers = sj.generate(model, ["How do I bake bread?"])
    verdicts = sj.judge(["How do I bake bread?"], answers)

`face/` and docs/quickstart.ipynb show more. Importing the package has no side effects, and imports
neither jax nor anything else: each name is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safety_jax.face.generating import generate, sample
    from safety_jax.face.loading import load, lora, merge
    from safety_jax.face.preferences import Preferred, dpo, logprobs
    from safety_jax.face.verdicts import Verdicts, judge
    from safety_jax.maths import losses, statistics
    from safety_jax.models.model import Model

__version__ = "0.1.0"
__all__ = [
    "Model", "Preferred", "Verdicts", "dpo", "generate", "judge", "load", "logprobs", "lora",
    "losses", "merge", "sample", "statistics",
]  # fmt: skip
_MODULES = {"losses": "safety_jax.maths.losses", "statistics": "safety_jax.maths.statistics"}
_OWNERS = {
    "safety_jax.face.generating": ("generate", "sample"),
    "safety_jax.face.loading": ("load", "lora", "merge"),
    "safety_jax.face.preferences": ("Preferred", "dpo", "logprobs"),
    "safety_jax.face.verdicts": ("Verdicts", "judge"),
    "safety_jax.models.model": ("Model",),
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    for owner, names in _OWNERS.items():
        if name in names:
            return getattr(importlib.import_module(owner), name)
    raise AttributeError(f"module 'safety_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
