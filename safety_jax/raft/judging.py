"""The judges of a run, and their scores of a round's candidates."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax

from safety_jax.data.messages import Message
from safety_jax.data.records import Record
from safety_jax.judges import judge, scoring
from safety_jax.judges.judge import Conversation, JudgeCard, Score
from safety_jax.judges.ledger import Ledger
from safety_jax.judges.planned import PlannedJudge
from safety_jax.raft.prompt_pool import Prompt
from safety_jax.raft.round_files import Candidate


class Judges:
    """The judges of all rounds, loaded when first needed.

    Args:
        planned: see `registry.plan`; may be empty if people choose.
        rows: conversations between two writes.
        resident: keep weights and compiled programs in memory between rounds; else they are
            loaded again each time.
    """

    def __init__(self, planned: Mapping[str, PlannedJudge], rows: int, resident: bool):
        self._rows = rows
        self._planned = {
            name: dataclasses.replace(one, load=functools.cache(one.load)) if resident else one
            for name, one in planned.items()
        }

    @property
    def cards(self) -> dict[str, JudgeCard]:
        return {name: planned.card for name, planned in self._planned.items()}

    @property
    def models(self) -> int:
        """The number of judges that read the candidates; a combination only reads scores."""
        return sum(planned.combination is None for planned in self._planned.values())

    def score(
        self, conversations: Sequence[Conversation], ledger: Path, title: str
    ) -> dict[str, list[Score]]:
        """One score a conversation, by judge; continues from the ledger."""
        group = scoring.ToJudge(conversations, Ledger(ledger, jax.process_index() == 0), title)
        return scoring.judge_by_each(self._planned, [group], rows=self._rows)[0]


def conversation(prompt: Prompt, answer: str) -> Conversation:
    """A candidate as judges read it."""
    return judge.from_record(answered(prompt, answer))


def answered(prompt: Prompt, answer: str, *, cut: bool = False) -> Record:
    """The prompt's record with this answer as its last message; `cut` if it was cut off."""
    record = prompt.record
    messages = record.messages
    if messages[-1].role == "assistant":
        messages = messages[:-1]
    whole = (*messages, Message("assistant", answer, cut=cut))
    return Record(whole, record.context, record.source, record.where)


def is_cut(prompt: Prompt, answer: Candidate) -> bool:
    """Whether an answer was cut off: a sampled one at its limit, that of the prompt's row as the
    row says."""
    return prompt.record.cut if answer.finish == "reference" else answer.finish == "length"


def to_learn(prompt: Prompt, answer: Candidate) -> Record:
    """The prompt's record with this candidate as the answer to learn."""
    return answered(prompt, answer.text, cut=is_cut(prompt, answer))


def by_prompt(
    scores: Mapping[str, Sequence[Score]], candidates: Sequence[Sequence[Candidate]]
) -> list[dict[str, list[Score]]]:
    """Splits the scores of all candidates into one dictionary a prompt."""
    rows, start = [], 0
    for row in candidates:
        stop = start + len(row)
        rows.append({name: list(found[start:stop]) for name, found in scores.items()})
        start = stop
    return rows
