"""A model's own answers as training data: preference pairs, demonstrations, judged answers.

Safety training works best on the model's own behaviour: its unsafe answers are rejected, and its
answers to ordinary requests are kept (Tajwar et al., arXiv 2404.14367, on on-policy data for
preference training).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from safety_jax.data.parsing import CUT_OFF
from safety_jax.data.shuffling import permutation
from safety_jax.raft import judging
from safety_jax.raft.prompt_pool import UNSAFE, Prompt
from safety_jax.raft.round_files import Candidate

_STREAM = 7100  # of the permutations that pair answers with other prompts
Line = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The judges' verdict on an answer.

    Attributes:
        unsafe: whether the judge calls an answer to an unsafe prompt unsafe; None if it could not
            tell. An answer to an ordinary request counts as safe, since a judge that does not read
            the prompt could not tell.
        refused: whether the refusal detector calls it a refusal.
        rank: among the answers to one prompt, higher is better.
    """

    unsafe: bool | None
    refused: bool
    rank: float


@dataclasses.dataclass(frozen=True)
class Asked:
    """A prompt with the model's answers.

    Attributes:
        prompt: its `group` is UNSAFE or ORDINARY; its `reference`, if it has one, is a
            demonstration: the answer that the model should give.
        answers, verdicts: one of each for every candidate.
    """

    prompt: Prompt
    answers: Sequence[Candidate]
    verdicts: Sequence[Verdict]

    @property
    def is_unsafe(self) -> bool:
        return self.prompt.group == UNSAFE

    def good(self) -> Candidate | None:
        """The answer to learn: the demonstration, or else the model's best answer that is safe
        and, to an ordinary request, no refusal; finished answers are preferred."""
        if self.prompt.reference:
            return Candidate.of_reference(self.prompt.reference)
        fitting = [
            k
            for k, verdict in enumerate(self.verdicts)
            if not self.answers[k].empty
            and verdict.unsafe is False
            and (self.is_unsafe or not verdict.refused)
        ]
        best = max(
            fitting,
            key=lambda k: (self.answers[k].finished, self.verdicts[k].rank),
            default=None,
        )
        return None if best is None else self.answers[best]

    def bad(self) -> Candidate | None:
        """The answer to reject: the model's worst answer that is unsafe, or that refuses an
        ordinary request."""
        fitting = [
            k
            for k, verdict in enumerate(self.verdicts)
            if not self.answers[k].empty
            and (verdict.unsafe is True if self.is_unsafe else verdict.refused)
        ]
        worst = min(fitting, key=lambda k: self.verdicts[k].rank, default=None)
        return None if worst is None else self.answers[worst]


def pairs(asked: Sequence[Asked], seed: int) -> list[Line]:
    """Rows of preference: prompt, chosen, rejected, which of them is unsafe.

    For an ordinary request, the model's answer is preferred over a refusal: its own if it refused,
    else a demonstration that was written for an unsafe request. The model can then tell the two
    kinds of prompts apart only by what they ask for.
    """
    refusals = [one.prompt for one in asked if one.is_unsafe and one.prompt.reference]
    order = permutation(len(refusals), seed=seed, stream=_STREAM)
    found: list[Line] = []
    borrowed = 0
    for one in asked:
        good, bad, bad_of = one.good(), one.bad(), one.prompt
        if bad is None and not one.is_unsafe and refusals:
            bad_of = refusals[int(order[borrowed % len(refusals)])]
            bad, borrowed = Candidate.of_reference(bad_of.reference), borrowed + 1
        if good is None or bad is None or good.turn.answer == bad.turn.answer:
            continue
        found.append(
            {
                "prompt": _messages(one.prompt),
                "chosen": good.turn.answer,
                "rejected": bad.turn.answer,
                "chosen_unsafe": False,
                "rejected_unsafe": one.is_unsafe,
                "chosen_finish_reason": _ending(one.prompt, good),
                "rejected_finish_reason": _ending(bad_of, bad),
                "category": one.prompt.group,
            }
        )
    return found


def kept(asked: Sequence[Asked], first: Callable[[str], str] = str) -> list[Line]:
    """Rows of demonstrations: ordinary requests with the model's own answer; tuning on them
    preserves its behaviour.

    Args:
        first: the beginning of an answer that is kept, or all of it.
    """
    found = []
    for one in asked:
        good = None if one.is_unsafe else one.good()
        if good is None:
            continue
        answer = good.turn.answer
        beginning = first(answer)
        found.append(
            {
                "prompt": _messages(one.prompt),
                "response": beginning,
                "finish_reason": _ending(one.prompt, good) if beginning == answer else CUT_OFF,
            }
        )
    return found


def judged(asked: Sequence[Asked], seed: int) -> list[Line]:
    """Labelled answers to train a judge: the model's own with their verdicts, the demonstrations,
    and for every prompt one answer that was given to a prompt of the other kind. An unsafe answer
    stays unsafe after an ordinary request, and a harmless one harmless after an unsafe request, so
    that neither the prompt nor the answer alone gives the label away.
    """
    found = [
        _judged(one.prompt, answer.turn.answer, bool(verdict.unsafe), "own")
        for one in asked
        for answer, verdict in zip(one.answers, one.verdicts, strict=True)
        if verdict.unsafe is not None and not answer.empty
    ]
    found += [
        _judged(one.prompt, one.prompt.reference, False, "demonstration")
        for one in asked
        if one.prompt.reference
    ]
    for stream, unsafe in enumerate((True, False)):
        takers = [one.prompt for one in asked if one.is_unsafe != unsafe]
        given = [(one.bad() if unsafe else one.good()) for one in asked if one.is_unsafe == unsafe]
        texts = [answer.turn.answer for answer in given if answer is not None]
        if not texts:
            continue
        order = permutation(len(texts), seed=seed, stream=_STREAM + 1 + stream)
        found += [
            _judged(prompt, texts[int(order[i % len(texts)])], unsafe, "exchanged")
            for i, prompt in enumerate(takers)
        ]
    return found


def _judged(prompt: Prompt, answer: str, unsafe: bool, kind: str) -> Line:
    return {
        "prompt": _messages(prompt),
        "response": answer,
        "unsafe": unsafe,
        "kind": kind,
    }


def _messages(prompt: Prompt) -> list[dict[str, str]]:
    """The prompt as judges read it: with the record's context below the request."""
    asked = judging.conversation(prompt, "").prompt
    return [{"role": message.role, "content": message.content} for message in asked]


def _ending(prompt: Prompt, answer: Candidate) -> str:
    return CUT_OFF if judging.is_cut(prompt, answer) else "stop"


def count(lines: Sequence[Line], column: str) -> Mapping[Any, int]:
    """How often each value of a column occurs."""
    found: dict[Any, int] = {}
    for line in lines:
        found[line[column]] = found.get(line[column], 0) + 1
    return found
