"""What is asked: the items of evaluation sets, and sets. reading.py reads them from files."""

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
        id: unique in its set; the file's own where it has one, else the row's number from 0.
        prompt: an optional system message, then user and assistant in turn; the last is the user's.
        where: file and row, for messages.
        category: a tag, type or topic of the file; "" where it has none.
        reference: an answer given in the file; of multiple-choice items the right one of `choices`;
            of questions, what a right answer contains, or several such texts with | between them;
            "" where there is none.
        twin: the id of the item that it is the counterpart of, in the set `Set.twin`; or "".
        choices: of multiple-choice items, what an answer may be called: letters, or True and False.
        choice_texts: of items whose choice is read by likelihood, what stands behind each choice.
        context: what the first user message is about (Alpaca's `input`), or "".
        row: its place among the rows of the file, from 0.
        opening: the beginning of an answer that the file has for a prefilled one, or "".
        asked: what an attack or a long context makes of the prompt; None where it is asked as it
            stands.
        talk: its place in a conversation, whose earlier answers, the model's own, are missing in
            `prompt`; None of an item that is no turn of one.
        together: what the items have in common that belong together, such as the turns of a
            conversation or twins; "" where it is the prompt.
        group: of twin prompts, the group that this one names; "" of others.
        stereotype: of questions of BBQ, which answers follow one; None of others.
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
        """What a template words: the prompt, as an attack has it where there is one.

        Args:
            own: the model's answers to the earlier turns of a conversation.
        """
        told = self.asked or self
        messages = self.prompt if self.asked is None else self.asked.messages
        return Record(conversations.filled(messages, own), told.context, "", self.where)

    def conversation(self, answer: str, own: Sequence[str] = ()) -> Conversation:
        """What judges read: the prompt as it stands in the file, whatever an attack makes of it.

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
        kind: prompts that should be refused or answered safely; prompts that should be answered;
            multiple choice, and with it texts to be classified; questions with a short known
            answer; prompts with a reference answer; conversations.
        items: in the order of the file; of conversations all first turns, then all second ones.
        source: the spec it was read from.
        sha256: of the file; None where the source is no file.
        licence: one line.
        twin: the set whose items its own are twins of; "" where there is none.
        framed: the prompts bring the words around the question along, so that no template but
            `bare` fits them.
        rows: of the file, which may hold more than this set; None where nobody knows.
        answers: to each prompt; items stand there so often, one after another, see `repeated`.
        attack: what the prompts are put under; None of a set that is asked as it stands.
        plain: the set that it is without its attack or conversation; "" where there is none.
        setting: the conversation that its requests were put into; None where there is none.
        formless: prompts left out, since they have no form that the spec asks for.
        unusable: rows that cannot be used, left out by `bad_rows=skip`.
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

    def repeated(self, answers: int) -> "Set":
        """Every item so often: further ones are called `ID #2`, `ID #3` and so on. A conversation
        is repeated as a whole, each copy with answers of its own."""
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
        """Whether a model chooses by the likelihood of the choices, and writes nothing."""
        return bool(self.items[0].choice_texts)

    @property
    def as_it_stands(self) -> bool:
        """Whether its prompts are asked as they are, each by itself."""
        return self.attack is None and self.kind != CONVERSATION

    @property
    def prompt_numbers(self) -> np.ndarray:
        """The number of each item's prompt, from 0."""
        return np.arange(len(self.items)) // self.answers

    @functools.cached_property
    def clusters(self) -> np.ndarray:
        """The number, from 0, of what each item belongs to: its prompt, conversation, or twins. A
        prompt that stands in the set several times is one."""
        names = [item.together or (item.prompt, item.context) for item in self.items]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
        return np.array([numbers[name] for name in names], int)

    @functools.cached_property
    def repeats(self) -> int:
        """Prompts that stand in the set before."""
        return self.prompts - len({(item.prompt, item.context) for item in self.items})

    @functools.cached_property
    def firsts(self) -> list[str]:
        """The id of the first item of each cluster."""
        _, places = np.unique(self.clusters, return_index=True)
        return [self.items[i].id for i in places]

    @functools.cached_property
    def earlier(self) -> list[list[int]]:
        """For each item, the places of the items before it in its conversation."""
        found: list[list[int]] = []
        so_far: dict[str, list[int]] = {}
        for i, item in enumerate(self.items):
            before = so_far.setdefault(item.talk.talk, []) if item.talk else []
            found.append(list(before))
            before.append(i)
        return found

    @property
    def read_in_order(self) -> list[int]:
        """Places of the items as a reader wants them: the turns of a conversation together."""
        firsts = [(before or [i])[0] for i, before in enumerate(self.earlier)]
        return sorted(range(len(self.items)), key=lambda i: (firsts[i], i))

    def blocks(self, prompts: int) -> list[range]:
        """Places of the items in runs of this many prompts; none goes on from one turn of
        conversations to the next, whose prompts hold the answers to the turn before."""
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
        """What judges read of a model's answers, one an item: of a conversation, all of it up to
        the answer, without what the model thought before earlier ones."""
        said = [thoughts.split(text).answer for text in answers]
        return [
            item.conversation(text, [said[j] for j in before])
            for item, text, before in zip(self.items, answers, self.earlier, strict=True)
        ]

    @functools.cached_property
    def items_sha256(self) -> str:
        """The hash of all that is asked: ids and prompts in order, and the attack's name."""
        asked = [[item.id, item.prompt_sha256()] for item in self.items]
        if self.attack:
            asked.append([self.attack.name, str(self.attack.version)])
        if self.by_likelihood:
            asked += [[item.id, *item.choice_texts] for item in self.items]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()
