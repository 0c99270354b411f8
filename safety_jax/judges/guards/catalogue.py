"""THE table of guards: by the kind of their config rows."""

from safety_jax.judges.guards import (
    granite_guardian,
    harmbench,
    llama_guard,
    md_judge,
    nemotron,
    own,
    qwen3guard,
    shieldgemma,
    strongreject,
    wildguard,
)
from safety_jax.judges.guards.specs import GuardKind

GUARDS: dict[str, GuardKind] = {
    "llama_guard": llama_guard.KIND,
    "wildguard": wildguard.KIND,
    "qwen3guard": qwen3guard.KIND,
    "shieldgemma": shieldgemma.KIND,
    "granite_guardian": granite_guardian.KIND,
    "harmbench": harmbench.KIND,
    "strongreject": strongreject.KIND,
    "md_judge": md_judge.KIND,
    "nemotron": nemotron.KIND,
    "guard": own.KIND,
}
