"""Verdicts of judges on answers, and the meaning of their values."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jax.sharding import Mesh

from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data import records
from safety_jax.face import given, loading
from safety_jax.face.given import Prompt
from safety_jax.judges import registry, scoring
from safety_jax.judges.judge import JudgeCard, Score, from_record
from safety_jax.judges.planned import Resources, Spec
from safety_jax.models.execution import stored_type

TOKENS_PER_BATCH = 16_384  # tokens that go through a judge at once


class Verdicts(NamedTuple):
    """The verdicts of a judge, and the meaning of their values.

    Attributes:
        card: direction, range and threshold of the values, and everything they depend on.
        scores: one per answer, in order; a `value` of None has a `reason`.
    """

    card: JudgeCard
    scores: list[Score]

    @property
    def unsafe(self) -> list[bool | None]:
        """Whether each answer is unsafe; None if it has no score or the judge does not decide."""
        return [self.card.is_unsafe(score) for score in self.scores]


def judge(
    prompts: Sequence[Prompt],
    answers: Sequence[str],
    judges: str | Path | Sequence[str | Path] | Mapping[str, Spec] = "refusal",
    *,
    dtype: str = "",
    mesh: Mesh | None = None,
) -> dict[str, Verdicts]:
    """The verdicts of each judge, by its name, on one answer to each prompt.

        found = sj.judge(questions, answers, ["refusal", "harm=runs/harm/export"])
        [score.label for score in found["refusal"].scores]  # full, partial, none or empty

    Args:
        answers: may be empty texts. A thought before an answer is not judged.
        judges: one or several of "refusal" and folders that stage `reward` exported, with a name of
            your own as NAME=FOLDER; or a mapping from names to the kind and keys of judges
            (`judges/registry.py`), such as `{"guard": {"kind": "llama_guard", "path": ..., ...}}`.
        dtype, mesh: as in `load`.

    Raises:
        ConfigError: a judge does not exist, its keys do not fit, or judges are given in another
            form.
        CheckpointError: the folder of a judge cannot be used.
        DataError: a prompt is empty or withheld ("REDACTED"), an answer is no text, or the numbers
            of prompts and answers differ.
    """
    specs, mesh = _specs(judges), loading.usable(mesh)
    asked, said = given.turns(prompts), given.answers(answers)
    if len(asked) != len(said):
        raise DataError(
            f"{len(asked)} prompts and {len(said)} answers; expected one answer per prompt"
        )
    both = zip(asked, said, strict=True)
    rows = [{"prompt": prompt, "response": answer} for prompt, answer in both]
    read = given.every(records.read_responses, "answer", rows)
    conversations = [from_record(record) for record in read]
    dtype = dtype or stored_type(mesh.devices.flat[0].platform)
    planned = registry.plan(specs, Resources(mesh, dtype, dtype, "auto", TOKENS_PER_BATCH))
    scores: dict[str, list[Score]] = {}
    for name, one in planned.items():
        if one.combination is not None:
            scores[name] = one.combination.combine(scores)
        else:
            scores[name] = scoring.scores(one.load(), conversations)
    return {name: Verdicts(planned[name].card, scores[name]) for name in specs}


def _specs(judges: Any) -> Mapping[str, Spec]:
    """The entries of judges, by name, with paths as texts.

    Raises:
        ConfigError: they are neither named nor described.
    """
    if not isinstance(judges, Mapping):
        return registry.named(given.names("judges", judges, paths=True))
    for name, spec in judges.items():
        described = isinstance(spec, Mapping) and isinstance(spec.get("kind"), str)
        if not isinstance(name, str) or not described:
            raise ConfigError(
                f"judges has {name!r}: {f'{spec!r}'[:60]}; expected names and the keys of each "
                "judge, such as {'harm': {'kind': 'trained', 'path': FOLDER}}, or a list of "
                "folders or NAME=FOLDER"
            )
    return {
        name: {
            key: os.fspath(value) if isinstance(value, os.PathLike) else value
            for key, value in spec.items()
        }
        for name, spec in judges.items()
    }
