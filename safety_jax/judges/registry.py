"""Makes judges from the entries of a config; `KINDS` has the kinds of judges.

An entry is a group of keys, `{"kind": "sequence", "path": ..., ...}`, with every key of its kind:
judges have no defaults. `plan` checks everything and reads no weights; `PlannedJudge.load` reads
them.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safety_jax.base import files
from safety_jax.base.errors import ConfigError
from safety_jax.judges import combine, crossed, moderation, refusal, sequence_specs
from safety_jax.judges.guards import beaver_dam
from safety_jax.judges.guards.catalogue import GUARDS
from safety_jax.judges.guards.specs import KEYS as GUARD_KEYS
from safety_jax.judges.judge import HARMFUL, Judge, JudgeCard
from safety_jax.judges.planned import (
    PlannedJudge,
    Resources,
    Spec,
    numbers,
)


@dataclasses.dataclass(frozen=True)
class JudgeKind:
    """A kind of judge.

    Attributes:
        keys: of its entries, beside `kind`.
        plan: from (name, entry, resources, the judges planned before it) to the judge.
    """

    keys: tuple[str, ...]
    plan: Callable[[str, Spec, Resources, Mapping[str, PlannedJudge]], PlannedJudge]


def plan(specs: Mapping[str, Spec], resources: Resources) -> dict[str, PlannedJudge]:
    """The judges of a config, by name; combinations come last.

    Raises:
        ConfigError: an entry of unknown kind, or with keys or values that do not fit.
        CheckpointError: a model folder that cannot be used.
    """
    if not specs:
        raise ConfigError("score.judges is empty; expected at least one judge")
    planned: dict[str, PlannedJudge] = {}
    # Combinations last, because they need their parts.
    for name in sorted(specs, key=lambda name: specs[name].get("kind") in COMBINING):
        spec = specs[name]
        kind = KINDS.get(spec.get("kind"))
        if kind is None:
            raise ConfigError(
                f"score.judges.{name}.kind {spec.get('kind')!r}: expected one of {', '.join(KINDS)}"
            )
        differing = set(spec) ^ {"kind", *kind.keys}
        if differing:
            raise ConfigError(
                f"score.judges.{name}: key {min(differing)!r} is "
                f"{'unknown' if min(differing) in spec else 'missing'}; a judge of the kind "
                f"{spec['kind']} has {', '.join(kind.keys) or 'no keys'}"
            )
        planned[name] = kind.plan(name, spec, resources, planned)
    return planned


def named(texts: Sequence[str]) -> dict[str, Spec]:
    """Entries from the short form of a flag: `refusal`, `FOLDER`, or `NAME=FOLDER`, with a folder
    that stage `reward` exported; `NAME=refusal`; or `NAME=FOLDER|FOLDER`, see crossed.py.

    Raises:
        ConfigError: two judges have the same name, or several folders have none.
    """
    rows: dict[str, Spec] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals:
            path, folder = text, Path(text)
            # runs/harm/export is named harm
            name = folder.parent.name if folder.name == "export" else folder.name
        if "|" in path and not equals:
            raise ConfigError(f"judges {text!r} have no name; expected NAME={text}")
        if name in rows:
            raise ConfigError(f"two judges are named {name!r}; rename one by NAME={path}")
        if path == "refusal":
            rows[name] = {"kind": "refusal"}
        elif "|" in path:
            rows[name] = {"kind": "cross_fitted", "paths": tuple(path.split("|"))}
        else:
            rows[name] = {"kind": "trained", "path": path}
    return rows


# ---------------------------------------------------------------------------- kinds


def _refusal(name: str, *_: Any) -> PlannedJudge:
    judge = refusal.RefusalJudge(name)
    return PlannedJudge(judge.card, lambda: judge, None)


def _moderation(name: str, spec: Spec, *_: Any) -> PlannedJudge:
    patience = {
        key: spec[key]
        for key in (
            "batch_size",
            "attempts",
            "timeout_seconds",
            "pause_seconds",
            "longest_pause_seconds",
        )
    }
    service = moderation.Service(
        url=spec["url"], model=spec["model"], key_variable=spec["key_variable"], **patience
    )
    card = JudgeCard(
        name=name,
        kind="moderation",
        model=spec["model"],
        weights_sha256=None,
        direction=HARMFUL,
        low=0.0,
        high=1.0,
        threshold=spec["threshold"],
        template="response",
        precision="",
        settings={"url": spec["url"], "category": spec["category"]},
    )
    cache = files.expand(spec["cache"] or files.cache_home("moderation"))
    judge = moderation.ModerationJudge(card, service, category=spec["category"], cache=cache)
    return PlannedJudge(card, lambda: judge, None)


def _part(name: str, part: str, planned: Mapping[str, PlannedJudge]) -> JudgeCard:
    if part not in planned or planned[part].combination is not None:
        known = [other for other, found in planned.items() if found.combination is None]
        raise ConfigError(
            f"score.judges.{name}: {part!r} is not a judge that can be combined; expected one of "
            f"{', '.join(known) or '(none)'}"
        )
    return planned[part].card


def _combined(
    combination: combine.Combination, planned: Mapping[str, PlannedJudge]
) -> PlannedJudge:
    parts = {name: planned[name] for name in combination.parts}

    def load() -> Judge:
        return combine.Combined(combination, {n: part.load() for n, part in parts.items()})

    return PlannedJudge(combination.card, load, combination)


def _weighted_sum(
    name: str, spec: Spec, _: Resources, planned: Mapping[str, PlannedJudge]
) -> PlannedJudge:
    weights = dict(spec["weights"])
    if not weights:
        raise ConfigError(f"score.judges.{name}.weights is empty; expected judge names and weights")
    cards = {part: _part(name, part, planned) for part in weights}
    return _combined(combine.weighted_sum(name, cards, weights), planned)


def _safe_first(
    name: str, spec: Spec, _: Resources, planned: Mapping[str, PlannedJudge]
) -> PlannedJudge:
    safety, helpfulness = (
        (part, _part(name, part, planned)) for part in (spec["safety"], spec["helpfulness"])
    )
    return _combined(combine.safe_first(name, safety, helpfulness), planned)


def _read_as(
    name: str, spec: Spec, _: Resources, planned: Mapping[str, PlannedJudge]
) -> PlannedJudge:
    part = (spec["part"], _part(name, spec["part"], planned))
    (threshold,) = numbers(name, "threshold", spec["threshold"], 1) or (None,)
    return _combined(combine.read_as(name, part, spec["direction"], threshold), planned)


KINDS: dict[Any, JudgeKind] = {
    "refusal": JudgeKind((), _refusal),
    "sequence": JudgeKind(
        (
            "path", "tokenizer", "template", "output", "activation", "direction", "range",
            "threshold", "max_tokens", "overlong", "append_eos",
        ),
        sequence_specs.headed,
    ),
    "trained": JudgeKind(("path",), sequence_specs.trained),
    "cross_fitted": JudgeKind(("paths",), crossed.cross_fitted),
    **{name: JudgeKind((*GUARD_KEYS, *kind.keys), kind.plan) for name, kind in GUARDS.items()},
    "beaver_dam": JudgeKind(beaver_dam.KEYS, beaver_dam.plan),
    "moderation": JudgeKind(
        (
            "url", "model", "key_variable", "category", "threshold", "cache", "batch_size",
            "attempts", "timeout_seconds", "pause_seconds", "longest_pause_seconds",
        ),
        _moderation,
    ),
    "weighted_sum": JudgeKind(("weights",), _weighted_sum),
    "safe_first": JudgeKind(("safety", "helpfulness"), _safe_first),
    "read_as": JudgeKind(("part", "direction", "threshold"), _read_as),
}  # fmt: skip
COMBINING = ("weighted_sum", "safe_first", "read_as")
