"""Models that are read at their first word, from their config rows: Llama Guard, WildGuard, and the
judge of preferences."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from safety_jax.base.errors import ConfigError
from safety_jax.judges import guard, pairwise
from safety_jax.judges.batching import Batcher
from safety_jax.judges.judge import BETTER, HARMFUL, REFUSING, Judge, JudgeCard
from safety_jax.judges.planned import PlannedJudge, Resources, Spec, max_tokens, resolve_folder
from safety_jax.models import llama
from safety_jax.models.execution import Execution
from safety_jax.models.folders import hf, hf_config, hub, tokenizer
from safety_jax.models.model import Model


def _guard(
    name: str,
    spec: Spec,
    resources: Resources,
    *,
    direction: str,
    threshold: float | None,
    template: str,
    settings: Mapping[str, Any],
    make: Callable[[JudgeCard, guard.FirstTokenReader], Judge],
) -> PlannedJudge:
    """A generative judge; `make` gives the judge once the weights are there."""
    folder, mesh = resolve_folder(name, spec), resources.mesh
    config = hf_config.read_config(folder)
    llama.shardings(config, mesh)
    longest = max_tokens(name, spec["max_tokens"], config.max_positions)
    floor = spec["min_verdict_probability"]
    if not 0 <= floor < 1:
        raise ConfigError(
            f"score.judges.{name}.min_verdict_probability is {floor}; expected 0 or more, below 1"
        )
    card = JudgeCard(
        name=name,
        kind=spec["kind"],
        model=spec["path"],
        weights_sha256=hub.shared_fingerprint(folder),
        direction=direction,
        low=0.0,
        high=1.0,
        threshold=threshold,
        template=template,
        precision=resources.precision,
        settings={
            **settings,
            "max_tokens": longest,
            "min_verdict_probability": floor,
            "special_text": resources.special_text,
        },
    )
    run = Execution.build(
        mesh,
        window=config.window,
        compute_dtype=resources.computed(),
        backend=resources.attention,
        remat="none",
    )
    unread = Model(config, run, {}, None, tokenizer.load_tokenizer(folder))
    batcher = Batcher(mesh, longest, resources.tokens_per_batch)
    reader = guard.FirstTokenReader(unread, batcher, floor, resources.special_text)
    make(card, reader)  # whatever can be wrong with tokenizer and template shows without weights
    stored = resources.stored()

    def load() -> Judge:
        model = dataclasses.replace(unread, weights=hf.load(folder, config, mesh, stored))
        return make(card, dataclasses.replace(reader, model=model))

    return PlannedJudge(card, load, None)


def llama_guard(
    name: str, spec: Spec, resources: Resources, _: Mapping[str, PlannedJudge]
) -> PlannedJudge:
    categories = spec["category_tokens"]
    return _guard(
        name,
        spec,
        resources,
        direction=HARMFUL,
        threshold=spec["threshold"],
        template="the guard's chat template",
        settings={"category_tokens": categories},
        make=lambda card, reader: guard.LlamaGuard(card, reader, category_tokens=categories),
    )


def wildguard(
    name: str, spec: Spec, resources: Resources, _: Mapping[str, PlannedJudge]
) -> PlannedJudge:
    field = spec["field"]
    return _guard(
        name,
        spec,
        resources,
        direction=REFUSING if field == "response_refusal" else HARMFUL,
        threshold=spec["threshold"],
        template="wildguard",
        settings={"field": field},
        make=lambda card, reader: guard.WildGuard(card, reader, field=field),
    )


def preferring(name: str, spec: Spec, resources: Resources) -> PlannedJudge:
    """The judge that compares two answers, see `preference.PreferenceJudge`. It is no kind of
    `registry.KINDS`, because it has nothing to say of one answer alone.

    Args:
        spec: kind, path, max_tokens, min_verdict_probability, as guards have them.
    """
    return _guard(
        name,
        spec,
        resources,
        direction=BETTER,  # of the answer that is shown last
        threshold=None,
        template=pairwise.TEMPLATE,
        settings={},
        make=pairwise.PreferenceJudge,
    )
