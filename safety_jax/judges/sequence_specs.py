"""Judges with a sequence head, from their config entries, and those that stage `reward` trained."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from safety_jax.base.errors import CheckpointError, ConfigError
from safety_jax.data import prompts
from safety_jax.judges import sequence
from safety_jax.judges.batching import Batcher
from safety_jax.judges.judge import Judge, JudgeCard
from safety_jax.judges.planned import (
    DESCRIPTION,
    PlannedJudge,
    Resources,
    Spec,
    described,
    max_tokens,
    numbers,
    resolve_folder,
)
from safety_jax.models.encoders import heads
from safety_jax.models.execution import Execution
from safety_jax.models.folders import config_hash, hub, tokenizer, tokenizer_files

LOG_ODDS = ("binary", "cost")  # kinds of stage `reward` whose scores are log-odds


def headed(
    name: str, spec: Spec, resources: Resources, _: Mapping[str, PlannedJudge]
) -> PlannedJudge:
    """A judge that is a model with a score head. See `registry.JudgeKind.plan`."""
    folder, mesh = resolve_folder(name, spec), resources.mesh
    _refuse_adapter(name, folder)
    scorer = heads.read_scorer(folder)
    heads.shardings(scorer, mesh)
    kernels = heads.kernels_of(scorer, resources.kernels)
    own = spec["tokenizer"]
    read_from = hub.resolve(own) if own else folder
    tokens = tokenizer.load_tokenizer(read_from)
    longest = max_tokens(name, spec["max_tokens"], scorer.max_tokens)
    encoder = sequence.Encoder(
        tokens,
        spec["template"],
        longest,
        spec["overlong"],
        spec["append_eos"],
        resources.special_text,
    )
    read = {
        "config_sha256": config_hash.of_scorer(folder),
        "tokenizer_sha256": tokenizer_files.fingerprint((read_from,)),
    }
    card = _card(name, spec, resources, folder, kernels, longest, read)
    output = sequence.output_index(name, scorer.label_names, spec["output"])
    sequence.check_activation(name, spec["activation"])
    execution = Execution.build(
        mesh,
        rules=scorer.rules,
        compute_dtype=resources.computed(),
        backend=resources.attention,
        remat="none",
    )
    stored = resources.stored()
    vocabulary_size = scorer.config.vocabulary_size
    batcher = Batcher(mesh, longest, resources.tokens_per_batch, vocabulary_size, spec["path"])

    def load() -> Judge:
        weights = heads.load(folder, scorer, mesh, stored, kernels)
        return sequence.SequenceJudge(
            card,
            scorer,
            weights,
            execution,
            encoder,
            batcher,
            output=output,
            activation=spec["activation"],
        )

    return PlannedJudge(card, load, None)


def _refuse_adapter(name: str, folder: Path) -> None:
    """Raises a CheckpointError for an adapter's folder, such as TRL's RewardTrainer writes."""
    if (folder / hub.ADAPTER).is_file() and not (folder / "config.json").is_file():
        raise CheckpointError(
            f"score.judges.{name}.path: {folder} is an adapter; expected a whole model with a "
            "score head; merge it with peft: AutoPeftModelForSequenceClassification"
            ".from_pretrained(...).merge_and_unload().save_pretrained(FOLDER), and give FOLDER"
        )


def _card(
    name: str,
    spec: Spec,
    resources: Resources,
    folder: Path,
    kernels: str,
    longest: int,
    read: Mapping[str, str],
) -> JudgeCard:
    """Args:
    read: hashes of what the judge reads beside its weights.
    """
    low, high = numbers(name, "range", spec["range"], 2) or (None, None)
    (threshold,) = numbers(name, "threshold", spec["threshold"], 1) or (None,)
    return JudgeCard(
        name=name,
        kind="sequence",
        model=spec["path"],
        weights_sha256=hub.shared_fingerprint(folder),
        direction=spec["direction"],
        low=low,
        high=high,
        threshold=threshold,
        template=prompts.identified(spec["template"]),
        precision=resources.precision(kernels),
        settings={
            "output": spec["output"],
            "activation": spec["activation"],
            "max_tokens": longest,
            "overlong": spec["overlong"],
            "append_eos": spec["append_eos"],
            "special_text": resources.special_text,
            **read,
        },
    )


def trained(
    name: str, spec: Spec, resources: Resources, others: Mapping[str, PlannedJudge]
) -> PlannedJudge:
    """The judge in a folder of stage `reward`, described by its `judge.json`."""
    folder = resolve_folder(name, spec)
    facts = described(folder)
    missing = {"template", "direction", "threshold", "max_length", "append_eos"} - set(facts)
    if missing:
        raise ConfigError(
            f"{folder / DESCRIPTION}: {min(missing)!r} is missing; expected a folder that stage "
            "reward exported, or an entry of the kind sequence with all keys"
        )
    threshold = facts["threshold"]
    row = {
        "path": spec["path"],
        "tokenizer": "",
        "template": facts["template"],
        "output": "",
        "activation": "none",
        "direction": facts["direction"],
        "range": (),
        "threshold": () if threshold is None else (threshold,),
        "max_tokens": facts["max_length"],
        "overlong": "unscored",
        "append_eos": facts["append_eos"],
    }
    found = headed(name, row, resources, others)
    return dataclasses.replace(found, log_odds=facts.get("kind") in LOG_ODDS)
