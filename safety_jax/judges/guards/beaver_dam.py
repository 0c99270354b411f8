"""BeaverDam-7B (arXiv 2307.04657): the probability of each of 14 harms, from a head on LLaMA.

It reads PKU's form, with EOS after the answer. The score is the largest of the probabilities, or
that of one harm.
"""

from collections.abc import Mapping

from safety_jax.judges import sequence, sequence_specs
from safety_jax.judges.judge import HARMFUL
from safety_jax.judges.planned import PlannedJudge, Resources, Spec

KEYS = ("path", "threshold", "max_tokens", "harm")


def plan(
    name: str, spec: Spec, resources: Resources, others: Mapping[str, PlannedJudge]
) -> PlannedJudge:
    """See `registry.JudgeKind.plan`."""
    row = {
        "path": spec["path"],
        "tokenizer": "",
        "template": "beaver",
        "output": spec["harm"] or sequence.LARGEST,
        "activation": "sigmoid",
        "direction": HARMFUL,
        "range": (0.0, 1.0),
        "threshold": (spec["threshold"],),
        "max_tokens": spec["max_tokens"],
        "overlong": "unscored",
        "append_eos": True,
    }
    return sequence_specs.headed(name, row, resources, others)
