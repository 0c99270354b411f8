"""A guard: questions whose answers are read in order, and a rule that turns them into a score."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from safety_jax.data.messages import Message
from safety_jax.judges.guards.forms import Form, written
from safety_jax.judges.guards.reading import LabelReader, LabelReading, Labels, LabelTokens, Prefix
from safety_jax.judges.judge import HARMFUL, Conversation, JudgeCard, Score, scored


@dataclasses.dataclass(frozen=True)
class Continuation:
    """Text that is decoded greedily after a label, for the details of the score.

    Attributes:
        name: its key in the details.
        label: the continuation is decoded only after this label.
        begin: the text between the label and the continuation.
        tokens: the most tokens.
    """

    name: str
    label: str
    begin: str
    tokens: int


@dataclasses.dataclass(frozen=True)
class Question:
    """A label in the guard's answer.

    Attributes:
        name: unique among the questions of a guard.
        labels: from harmless to harmful.
        begin: the guard's answer before the label, which is forced.
        otherwise: the text to force instead of a label, for the questions after it, if no label is
            probable; "" leaves these questions without an answer, too.
    """

    name: str
    labels: Labels
    begin: str = ""
    otherwise: str = ""
    continuation: Continuation | None = None

    def said(self, prefix: Prefix, answer: LabelReading | Score) -> Prefix | Score:
        """`prefix`, which ends with `begin`, followed by the guard's label."""
        if isinstance(answer, Score):
            return prefix + self.otherwise if self.otherwise else answer
        return prefix + self.labels[answer.likeliest][-1]


@dataclasses.dataclass(frozen=True)
class Interview:
    """A form, and the questions of its answer, in order."""

    form: Form
    questions: tuple[Question, ...]


Answers = Mapping[str, LabelReading | Score]
Rule = Callable[[Answers], Score]


@dataclasses.dataclass(frozen=True)
class Design:
    """How guards of one kind are read.

    Attributes:
        template: names the forms on the card.
        rule: from the answers to all questions, by name, to a score.
        settings: further facts for the card; JSON values.
    """

    template: str
    interviews: tuple[Interview, ...]
    rule: Rule
    direction: str = HARMFUL
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    low: float = 0.0
    high: float = 1.0

    def reworded(self) -> "Design | None":
        """The same questions with reworded forms; None if no form has words of its own."""
        forms = [one.form.reworded() for one in self.interviews]
        if not any(forms):
            return None
        interviews = tuple(
            dataclasses.replace(one, form=form or one.form)
            for one, form in zip(self.interviews, forms, strict=True)
        )
        return dataclasses.replace(self, interviews=interviews)


class GuardJudge:
    """A judge with a design.

    Raises:
        ConfigError: the tokenizer lacks what a form needs.
        CheckpointError: the labels do not differ in their first token.
    """

    def __init__(self, card: JudgeCard, reader: LabelReader, design: Design):
        self.card, self._reader, self._design = card, reader, design
        self._compiled, self._greedy = reader.compile(), reader.compile_greedy()
        self._tokens: dict[str, LabelTokens] = {}
        probe = Conversation((Message("user", "a"),), "b", card.name)
        for interview in design.interviews:
            interview.form.check(card.name, reader.tokenizer)
            prefix = interview.form.write(probe, reader.tokenizer)
            for question in interview.questions:
                prefix += question.begin
                self._tokens[question.name] = reader.first_tokens(prefix, question.labels)
                prefix += list(question.labels.values())[-1][-1]

    def reworded(self, card: JudgeCard, design: Design) -> "GuardJudge":
        """The same model with another design."""
        return GuardJudge(card, self._reader, design)

    def score(self, conversations: Sequence[Conversation]) -> list[Score]:
        answers: list[dict[str, LabelReading | Score]] = [{} for _ in conversations]
        details: list[dict[str, str]] = [{} for _ in conversations]
        for interview in self._design.interviews:
            special = self._reader.special_text
            prefixes = written(interview.form, conversations, self._reader.tokenizer, special)
            for question in interview.questions:
                prefixes = self._ask(question, prefixes, answers)
                self._continue(question, prefixes, answers, details)
        scores = [self._design.rule(found) for found in answers]
        return [
            dataclasses.replace(score, details={**score.details, **more}) if more else score
            for score, more in zip(scores, details, strict=True)
        ]

    def _ask(
        self,
        question: Question,
        prefixes: Sequence[Prefix | Score],
        answers: Sequence[dict[str, LabelReading | Score]],
    ) -> list[Prefix | Score]:
        """Adds the answers to `answers`; returns the prefixes followed by the labels."""
        asked = [one if isinstance(one, Score) else one + question.begin for one in prefixes]
        said: list[Prefix | Score] = []
        found = self._reader.read(self._compiled, asked, self._tokens[question.name])
        for prefix, answer, known in zip(asked, found, answers, strict=True):
            known[question.name] = answer
            said.append(prefix if isinstance(prefix, Score) else question.said(prefix, answer))
        return said

    def _continue(
        self,
        question: Question,
        said: Sequence[Prefix | Score],
        answers: Sequence[Answers],
        details: Sequence[dict[str, str]],
    ) -> None:
        """Adds the question's continuation, if it has one, to `details`."""
        more = question.continuation
        if more is None or not more.tokens:
            return
        begun: dict[int, Prefix] = {}
        for i, prefix in enumerate(said):
            answer = answers[i][question.name]
            if isinstance(answer, LabelReading) and answer.likeliest == more.label:
                assert isinstance(prefix, Prefix)
                begun[i] = prefix + more.begin
        if begun:
            texts = self._reader.continuations(self._greedy, list(begun.values()), more.tokens)
            for i, text in zip(begun, texts, strict=True):
                details[i][more.name] = text


# ---------------------------------------------------------------------------- rules


def expected(question: str, values: Mapping[str, float]) -> Rule:
    """The mean of the labels' values, weighted by their probabilities.

    The score's label is the likeliest. Details: `verdict`, the probability of all labels together;
    the answers to other questions; and the shares, if there are more than two labels.
    """

    def rule(answers: Answers) -> Score:
        found = answers[question]
        if isinstance(found, Score):
            return found
        more = {name: told(answer) for name, answer in answers.items() if name != question}
        if len(found.shares) > 2:
            more["shares"] = told(found)
        value = sum(found.shares[label] * value for label, value in values.items())
        more = {name: value for name, value in more.items() if value is not None}
        return scored(value, found.likeliest, verdict=found.mass, **more)

    return rule


def told(answer: LabelReading | Score) -> Any:
    """An answer as a detail: the share of the second of two labels, or all shares."""
    if isinstance(answer, Score):
        return None
    shares = dict(answer.shares)
    return list(shares.values())[1] if len(shares) == 2 else shares


def highest(label: str) -> Rule:
    """The largest share of one label over all questions; the score's label is that question. If a
    question has no answer, the row is unscored, because its share might be the largest."""

    def rule(answers: Answers) -> Score:
        shares = {}
        for name, answer in answers.items():
            if isinstance(answer, Score):
                return answer
            shares[name] = answer.shares[label]
        name = max(shares, key=shares.__getitem__)
        mass = min(answer.mass for answer in answers.values() if isinstance(answer, LabelReading))
        more = shares if len(shares) > 1 else {}
        return scored(shares[name], name, verdict=mass, **more)

    return rule
