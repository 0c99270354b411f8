"""Guards, and the pairwise judge, from their config entries."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from safety_jax.base.errors import CheckpointError, ConfigError
from safety_jax.judges import pairwise
from safety_jax.judges.batching import Batcher
from safety_jax.judges.guards.guard import Design, GuardJudge
from safety_jax.judges.guards.reading import LabelReader
from safety_jax.judges.judge import BETTER, Judge, JudgeCard
from safety_jax.judges.planned import (
    PlannedJudge,
    Resources,
    Rewording,
    Spec,
    max_tokens,
    resolve_folder,
)
from safety_jax.models.folders import hub
from safety_jax.models.folders.model_folder import ModelFolder, open_model
from safety_jax.models.model import Model

# Of every entry.
KEYS = ("path", "threshold", "max_tokens", "min_verdict_probability")


@dataclasses.dataclass(frozen=True)
class GuardKind:
    """A kind of guard.

    Attributes:
        keys: of its entries, beside KEYS.
        design: from (the judge's name, its entry) to how it is read.
        refused: model types of such guards that cannot be read, with the reason.
    """

    keys: tuple[str, ...]
    design: Callable[[str, Spec], Design]
    refused: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def plan(
        self, name: str, spec: Spec, resources: Resources, _: Mapping[str, PlannedJudge]
    ) -> PlannedJudge:
        """See `registry.JudgeKind.plan`."""
        folder = resolve_folder(name, spec)
        found = hub.read_json(folder / "config.json") if (folder / "config.json").exists() else {}
        if (reason := self.refused.get(str(found.get("model_type")))) is not None:
            raise CheckpointError(f"{folder}: {reason}")
        design = self.design(name, spec)
        planned = plan_reading(
            name,
            spec,
            resources,
            direction=design.direction,
            span=(design.low, design.high),
            threshold=spec["threshold"],
            template=design.template,
            settings=design.settings,
            make=lambda card, reader: GuardJudge(card, reader, design),
        )
        other = design.reworded()
        if other is None:
            return planned
        card = dataclasses.replace(planned.card, template=f"{design.template}, reworded")

        def reword(judge: Judge) -> Judge:
            assert isinstance(judge, GuardJudge)
            return judge.reworded(card, other)

        return dataclasses.replace(planned, reworded=Rewording(card, reword))


def preferring(name: str, spec: Spec, resources: Resources) -> PlannedJudge:
    """The pairwise judge, see `pairwise.PreferenceJudge`. It is not in `registry.KINDS`, because it
    cannot score a single answer.

    Args:
        spec: kind, path, max_tokens, min_verdict_probability, as for guards.
    """
    return plan_reading(
        name,
        spec,
        resources,
        direction=BETTER,  # of the answer that is shown last
        span=(0.0, 1.0),
        threshold=None,
        template=pairwise.TEMPLATE,
        settings={},
        make=pairwise.PreferenceJudge,
    )


def plan_reading(
    name: str,
    spec: Spec,
    resources: Resources,
    *,
    direction: str,
    span: tuple[float, float],
    threshold: float | None,
    template: str,
    settings: Mapping[str, Any],
    make: Callable[[JudgeCard, LabelReader], Judge],
) -> PlannedJudge:
    """A judge that is a language model whose labels are read.

    Args:
        spec: kind, path, max_tokens, min_verdict_probability; `path` is a full model, or a PEFT
            adapter that names its base.
        span: the lowest and the highest value.
        make: makes the judge from its card and a reader.
    """
    found = _open_model(name, spec, resources)
    longest = max_tokens(name, spec["max_tokens"], found.config.max_positions)
    floor = _floor(name, spec)
    card = JudgeCard(
        name=name,
        kind=spec["kind"],
        model=spec["path"],
        weights_sha256=found.weights_sha256,
        direction=direction,
        low=span[0],
        high=span[1],
        threshold=threshold,
        template=template,
        precision=resources.precision(found.kernels),
        settings={
            **settings,
            "max_tokens": longest,
            "min_verdict_probability": floor,
            "special_text": resources.special_text,
            "config_sha256": found.config_sha256,
            "tokenizer_sha256": found.tokenizer_sha256,
        },
    )
    vocabulary_size = found.config.vocabulary_size
    batcher = Batcher(
        resources.mesh, longest, resources.tokens_per_batch, vocabulary_size, spec["path"]
    )
    unread = Model(found.config, found.execution, {}, None, found.tokenizer)
    reader = LabelReader(unread, batcher, floor, resources.special_text)
    make(card, reader)  # checks tokenizer and template before weights are read
    stored = resources.stored()

    def load() -> Judge:
        model = dataclasses.replace(found.load(stored), ends=())
        return make(card, dataclasses.replace(reader, model=model))

    return PlannedJudge(card, load, None)


def _open_model(name: str, spec: Spec, resources: Resources) -> ModelFolder:
    """The model of an entry, checked; its weights are not yet read."""
    resolve_folder(name, spec)
    return open_model(
        spec["path"],
        resources.mesh,
        own_tokenizer="",
        kernels=resources.kernels,
        compute_dtype=resources.computed(),
        backend=resources.attention,
        remat="none",
    )


def _floor(name: str, spec: Spec) -> float:
    """The least probability that a verdict must have."""
    floor = spec["min_verdict_probability"]
    if not 0 <= floor < 1:
        raise ConfigError(
            f"score.judges.{name}.min_verdict_probability is {floor}; expected 0 or more, below 1"
        )
    return floor
