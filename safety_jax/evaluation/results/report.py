"""The results of an evaluation as plain data: the content of `report.json`, from which page, tables
and plots are made.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from safety_jax.evaluation.results.behaviour import (
    ConversationResult,
    GroupGap,
    InConversations,
    UnderAttack,
)
from safety_jax.evaluation.results.comparisons import Agreement, Comparison, Preference, Quality
from safety_jax.evaluation.results.estimates import Estimate
from safety_jax.evaluation.results.rows import ResultRow
from safety_jax.evaluation.results.transcripts import Transcript


@dataclasses.dataclass(frozen=True)
class Report:
    """The results of an evaluation.

    Attributes:
        title: of the run.
        baseline: the model that the others are compared with.
        safety, helpfulness: judges that the summary shows; "" without one.
        models: name to facts: path, weights_sha256, template, decoding.
        sets: name to facts: kind, items, sha256, licence, source, twin; under an attack, also
            attack, attack_version, and in `plain` the set without it; for conversations made from
            a set, `setting` and `plain`.
        judges: name to its card (`dataclasses.asdict(Card)`) and `protocol`.
        rows: by model, then set.
        comparisons: of every model with the baseline.
        derived: model to measures that need several sets or models: `refusal_discrimination`,
            `twin_gap/JUDGE`, `question_gap/JUDGE`, `win_rate/JUDGE`, ... (`measures/derived.py`)
        agreement: of judges, and with people.
        corrected: safe shares corrected for a judge's errors, if people labelled a sample: model
            to set to estimate.
        notes: sentences on what was left out, forced, or is doubtful.
        transcripts: items in the order of the sets.
        facts: command, versions, seed, date.
        quality: of judges, if people labelled a sample.
        preferences: of every model against the baseline, if a judge compared their answers: by set,
            and over several sets together.
        attacks: by model and set, for sets under attack.
        conversations: by model and set, for sets of conversations with several turns.
        requests: by model and set, for sets whose requests are also asked in conversations.
        groups: by model, set, measure and group, for sets of twin prompts.
    """

    title: str
    baseline: str
    safety: str
    helpfulness: str
    models: Mapping[str, Mapping[str, Any]]
    sets: Mapping[str, Mapping[str, Any]]
    judges: Mapping[str, Mapping[str, Any]]
    rows: tuple[ResultRow, ...]
    comparisons: tuple[Comparison, ...]
    derived: Mapping[str, Mapping[str, Estimate]]
    agreement: tuple[Agreement, ...]
    corrected: Mapping[str, Mapping[str, Estimate]]
    notes: tuple[str, ...]
    transcripts: tuple[Transcript, ...]
    facts: Mapping[str, Any]
    quality: Mapping[str, Quality] = dataclasses.field(default_factory=dict)
    preferences: tuple[Preference, ...] = ()
    attacks: tuple[UnderAttack, ...] = ()
    conversations: tuple[ConversationResult, ...] = ()
    requests: tuple[InConversations, ...] = ()
    groups: tuple[GroupGap, ...] = ()

    def row(self, model: str, name: str) -> ResultRow | None:
        """The row of a model and a set, if there is one."""
        return next((row for row in self.rows if (row.model, row.set) == (model, name)), None)
