"""Evaluation sets and their items; reading.py reads them from files."""

import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Sequence

import numpy as np

from safety_jax.data import thoughts
from safety_jax.data.messages import Message
from safety_jax.data.records import Record
from safety_jax.evaluation.attacks.registry import Attack
from safety_jax.evaluation.sets import conversations
from safety_jax.evaluation.sets.attacked import Reworded
from safety_jax.evaluation.sets.bbq import Stereotype
from safety_jax.evaluation.sets.catalogue import (
    ANSWER,
    CHOICE,
    CLOSED,
    CONVERSATION,
    KINDS,
    LABEL,
    REFERENCE,
    SAFE,
    UNSAFE,
)
from safety_jax.evaluation.sets.conversations import TalkSetting, TalkTurn
from safety_jax.judges.judge import Conversation, from_record

__all__ = [
    "ANSWER",
    "CHOICE",
    "CLOSED",
    "CONVERSATION",
    "KINDS",
    "LABEL",
    "REFERENCE",
    "SAFE",
    "UNSAFE",
    "Item",
    "Set",
]


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """One prompt of a set.

    Attributes:
        id: unique in its set; the file's own if it has one, else the row's number from 0.
        prompt: an optional system message, then user and assistant in turn; the last is the user's.
        where: file and row, for messages.
        category: a tag, type or topic in the file; "" if it has none.
        reference: an answer in the file: for multiple choice the right one of `choices`; for
            questions the known answer, or alternatives separated by |; "" if there is none.
        twin: the id of its counterpart in the set `Set.twin`; or "".
        choices: for multiple choice, the names of the choices: letters, or True and False.
        choice_texts: for answers by likelihood, the text of each choice.
        context: what the first user message is about (Alpaca's `input`), or "".
        row: its number among the rows of the file, from 0.
        opening: the file's beginning of a prefilled answer, or "".
        asked: what an attack or a long context makes of the prompt; None without either.
        talk: its position in a conversation, in whose `prompt` the model's earlier answers are
            missing; None if it is no turn of one.
        together: names the cluster of the item: a conversation, twins, or questions made from one
            template; "" if that is the prompt.
        group: for twin prompts, the group that this one names; else "".
        stereotype: for questions of BBQ, which answers follow one; else None.
    """

    id: str
    prompt: tuple[Message, ...]
    where: str
    category: str = ""
    reference: str = ""
    twin: str = ""
    choices: tuple[str, ...] = ()
    choice_texts: tuple[str, ...] = ()
    context: str = ""
    row: int | None = None
    opening: str = ""
    asked: Reworded | None = None
    talk: TalkTurn | None = None
    together: str = ""
    group: str = ""
    stereotype: Stereotype | None = None

    def record(self, own: Sequence[str] = ()) -> Record:
        """The prompt for the template, as an attack reworded it, if there is one.

        Args:
            own: the model's answers to the earlier turns of a conversation.
        """
        told = self.asked or self
        messages = self.prompt if self.asked is None else self.asked.messages
        return Record(conversations.filled(messages, own), told.context, "", self.where)

    @property
    def by_likelihood(self) -> list[str]:
        """The answer that stands for each choice if a model chooses by likelihood: `B) its text`,
        or the text alone if that is the name."""
        return [
            name if name == text else f"{name}) {text}"
            for name, text in zip(self.choices, self.choice_texts, strict=False)
        ]

    def conversation(self, answer: str, own: Sequence[str] = ()) -> Conversation:
        """The prompt for judges, as in the file even under an attack, with an answer.

        Args:
            own: see `record`.
        """
        told = conversations.filled(self.prompt, own)
        return _answered(Record(told, self.context, "", self.where), answer)

    def asking(self) -> Conversation:
        """What a model is asked, as a conversation without an answer."""
        return _answered(self.record(), "")

    def prompt_sha256(self) -> str:
        """The hash of what a model is asked."""
        own = self.asking().prompt_sha256()
        if self.asked is None or not self.asked.opening:
            return own
        return hashlib.sha256(json.dumps([own, self.asked.opening]).encode()).hexdigest()


def _answered(record: Record, answer: str) -> Conversation:
    messages = (*record.messages, Message("assistant", answer))
    return from_record(dataclasses.replace(record, messages=messages))


@dataclasses.dataclass(frozen=True)
class Set:
    """Prompts that are measured together.

    Attributes:
        name: as tables show it.
        kind: one of KINDS, see `catalogue.py`.
        items: in the order of the file; for conversations all first turns, then all second ones.
        source: the spec that it was read from.
        sha256: of the file; None if the source is no file.
        licence: one line.
        twin: the set of its items' twins; "" if there is none.
        framed: whether the prompts are complete, so that only the template `bare` fits them.
        rows: of the file, which may hold more than this set; None if unknown.
        answers: the number of answers to each prompt; each is an item, see `repeated`.
        attack: the attack on the prompts; None without one.
        plain: the set without its attack or conversation; "" without either.
        setting: the conversation that its requests were put into; None without one.
        formless: the number of prompts left out because they cannot be put in the requested form.
        unusable: the number of rows left out by `bad_rows=skip`.
        remarks: lines about its rows, for the user.
    """

    name: str
    kind: str
    items: tuple[Item, ...]
    source: str
    sha256: str | None
    licence: str
    twin: str = ""
    framed: bool = False
    rows: int | None = None
    answers: int = 1
    attack: Attack | None = None
    plain: str = ""
    setting: TalkSetting | None = None
    formless: int = 0
    unusable: int = 0
    remarks: tuple[str, ...] = ()

    def repeated(self, answers: int) -> "Set":
        """The set with `answers` copies of every item, called `ID`, `ID #2`, `ID #3` and so on. A
        conversation is copied as a whole, and each copy has its own answers."""
        names = ["", *(f" #{number}" for number in range(2, answers + 1))]
        items = tuple(
            dataclasses.replace(
                item,
                id=item.id + name,
                twin=item.twin + name if item.twin else "",
                talk=item.talk and item.talk.copied(name),
            )
            for item in self.items
            for name in names
        )
        return dataclasses.replace(self, items=items, answers=answers)

    @property
    def prompts(self) -> int:
        return len(self.items) // self.answers

    @property
    def by_likelihood(self) -> bool:
        """Whether a model answers by the likelihood of the choices and generates nothing."""
        return bool(self.items[0].choice_texts)

    @property
    def as_it_stands(self) -> bool:
        """Whether its prompts are asked singly and without an attack."""
        return self.attack is None and self.kind != CONVERSATION

    @property
    def prompt_numbers(self) -> np.ndarray:
        """The number of each item's prompt, from 0."""
        return np.arange(len(self.items)) // self.answers

    @functools.cached_property
    def clusters(self) -> np.ndarray:
        """The number, from 0, of each item's cluster: its prompt, conversation, twins, or
        template. Equal prompts are one cluster."""
        names = [item.together or (item.prompt, item.context) for item in self.items]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
        return np.array([numbers[name] for name in names], int)

    @functools.cached_property
    def repeats(self) -> int:
        """The number of prompts that repeat an earlier one."""
        return self.prompts - len({(item.prompt, item.context) for item in self.items})

    @functools.cached_property
    def firsts(self) -> list[str]:
        """The id of the first item of each cluster."""
        _, places = np.unique(self.clusters, return_index=True)
        return [self.items[i].id for i in places]

    @functools.cached_property
    def earlier(self) -> list[list[int]]:
        """For each item, the indices of the items before it in its conversation."""
        found: list[list[int]] = []
        so_far: dict[str, list[int]] = {}
        for i, item in enumerate(self.items):
            before = so_far.setdefault(item.talk.talk, []) if item.talk else []
            found.append(list(before))
            before.append(i)
        return found

    @property
    def read_in_order(self) -> list[int]:
        """Indices of the items for a reader, with the turns of a conversation together."""
        firsts = [(before or [i])[0] for i, before in enumerate(self.earlier)]
        return sorted(range(len(self.items)), key=lambda i: (firsts[i], i))

    def blocks(self, prompts: int) -> list[range]:
        """Indices of the items in blocks of this many prompts. No block spans two turns of
        conversations, because a turn's prompt contains the answers to the turn before."""
        numbers = [len(before) for before in self.earlier]
        found = []
        for _, run in itertools.groupby(range(len(self.items)), key=numbers.__getitem__):
            places, size = list(run), prompts * self.answers
            found += [
                range(start, min(start + size, places[-1] + 1))
                for start in range(places[0], places[-1] + 1, size)
            ]
        return found

    def conversations(self, answers: Sequence[str]) -> list[Conversation]:
        """A model's answers for judges, one for each item: in a conversation, with everything
        before the answer but the thoughts of earlier ones."""
        said = [thoughts.split(text).answer for text in answers]
        return [
            item.conversation(text, [said[j] for j in before])
            for item, text, before in zip(self.items, answers, self.earlier, strict=True)
        ]

    @functools.cached_property
    def items_sha256(self) -> str:
        """The hash of everything that is asked: ids and prompts in order, and the attack's name."""
        asked = [[item.id, item.prompt_sha256()] for item in self.items]
        if self.attack:
            asked.append([self.attack.name, str(self.attack.version)])
        if self.by_likelihood:
            asked += [[item.id, *item.choice_texts] for item in self.items]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()
