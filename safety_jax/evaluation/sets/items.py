"""What is asked: evaluation sets and their items.

A set is given by name, or as a file or other source with what its columns are:

    I-CoNa                                   a set of the catalogue
    I-CoNa?rows=20                           20 of its rows, drawn by seed
    XSTest                                   a group: XSTest-safe and XSTest-unsafe
    some/I-CoNa.json                         a file that the catalogue knows by its name
    some/copy.json?as=I-CoNa                 read as this set
    mine.csv?kind=unsafe&columns=prompt:question,category:type
    quiz.jsonl?kind=choice&columns=prompt:question,choices:options,reference:answer
    quiz.jsonl?kind=choice&read=likelihood   the model chooses the text that it finds likeliest
    facts.jsonl?kind=answer&columns=prompt:question,reference:answer
    hate.csv?kind=label&columns=prompt:text,reference:label,category:functionality
    I-CoNa?attack=base64,prefill:10          I-CoNa, and two sets more: it under these attacks
    I-CoNa?turns=again,amid:3                and two more: its requests in conversations
    talks.jsonl?kind=conversation            conversations, see conversations.py

Columns of a file of one's own: the prompt in any form of data/formats.py, and, where there are
such, `id`, `category`, `reference`, `choices`, `opening`, with which a prefilled answer begins, and
`twin`, the id of an item of the set that the option `twin` names. Further options: `licence`, and
those of data/sources.py. Attacks are those of attacks/registry.py.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from safety_jax.base import files
from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data import records, sources, thoughts
from safety_jax.data.formats import BadRow, Message
from safety_jax.data.readers import Row
from safety_jax.data.records import Record
from safety_jax.data.sources import Source
from safety_jax.evaluation.attacks import registry
from safety_jax.evaluation.attacks.registry import Attack
from safety_jax.evaluation.sets import (
    attacked,
    catalogue,
    classification,
    conversations,
    multiple_choice,
)
from safety_jax.evaluation.sets.attacked import Reworded
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
    Entry,
)
from safety_jax.evaluation.sets.conversations import Request, Script, Setting, TalkTurn
from safety_jax.judges.judge import Conversation, from_record

__all__ = [
    "ANSWER",
    "CHOICE",
    "CLOSED",
    "CONVERSATION",
    "KINDS",
    "REFERENCE",
    "SAFE",
    "UNSAFE",
    "Item",
    "Set",
    "read_sets",
]

OPTIONS = ("kind", "as", "licence", "twin", "attack", "turns", "read")
LETTERS, LIKELIHOOD = "letters", "likelihood"  # how a model's choice is read
_UNSTATED = "not stated: the user's own file"


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
            conversation; "" where it is the prompt.
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
        """Of what a model is asked."""
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
    setting: Setting | None = None

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

    @functools.cached_property
    def clusters(self) -> np.ndarray:
        """The number, from 0, of what each item belongs to: its prompt, conversation, or twins."""
        names = [item.together or i // self.answers for i, item in enumerate(self.items)]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
        return np.array([numbers[name] for name in names], int)

    @functools.cached_property
    def firsts(self) -> list[str]:
        """The id of the first item of each cluster."""
        _, places = np.unique(self.clusters, return_index=True)
        return [self.items[i].id for i in places]

    @functools.cached_property
    def earlier(self) -> list[list[int]]:
        """Of each item, the places of the items before it in its conversation."""
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
        """Places of the items in runs of so many prompts; none goes on from one turn of
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
        """Of all that a model is asked: ids and prompts, in order, and the attack's name."""
        asked = [[item.id, item.prompt_sha256()] for item in self.items]
        if self.attack:
            asked.append([self.attack.name, str(self.attack.version)])
        if self.by_likelihood:
            asked += [[item.id, *item.choice_texts] for item in self.items]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def read_sets(specs: Sequence[str], folder: str, key: str, seed: int) -> list[Set]:
    """Reads sets; see the top of this file.

    Args:
        specs: names and sources.
        folder: below which the files of sets given by name are found; "" for none.
        key: the config key of the specs, for messages.
        seed: draws the rows of `rows=N`.

    Raises:
        ConfigError: a set that nobody knows, an option that does not fit, two sets of one name.
        DataError: a file or row that cannot be used; the message names it.
    """
    if not any(specs):
        raise ConfigError(
            f"{key} is empty; expected names of sets ({', '.join(catalogue.CATALOGUE)}) or files"
        )
    below = _files(folder, key)
    found: dict[str, Set] = {}
    along: set[str] = set()  # sets that come with their attacks, and may be named beside them
    for spec in itertools.chain.from_iterable(map(_listed, specs)):
        several = _read(spec, folder, below, key, seed)
        along |= {made.plain for made in several}
        for made in several:
            known = found.setdefault(made.name, made)
            if known is not made and not (made.name in along and known.items == made.items):
                raise ConfigError(f"{key}: two sets are named {made.name}; add ?name= to one")
    return list(found.values())


def _listed(spec: str) -> list[str]:
    """`I-CoNa,XSTest` as a flag gives it: names joined by commas are several sets. A name that no
    set has goes on with the attacks or conversations of the set before it."""
    parts: list[str] = []
    for part in spec.split(","):
        listing = bool(parts) and any(name in parts[-1] for name in ("attack=", "turns="))
        if listing and not catalogue.named(sources.split(part)[0]):
            parts[-1] += f",{part}"
        else:
            parts.append(part)
    return parts if all(catalogue.named(sources.split(part)[0]) for part in parts) else [spec]


def _files(folder: str, key: str) -> list[Path]:
    if not folder:
        return []
    path = files.expand(folder)
    if not path.is_dir():
        raise ConfigError(f"{key}: the folder {folder} with their files does not exist")
    return catalogue.files_below(path)


def _read(spec: str, folder: str, below: Sequence[Path], key: str, seed: int) -> list[Set]:
    location, query = sources.split(spec)
    by_name = catalogue.named(location)
    options = sources.parse(spec, key, OPTIONS)[1]
    entries = by_name or _entries(location, options["extra"], key, spec)
    if "name" in options and len(entries) > 1:
        raise ConfigError(f"{key}: {spec} is {len(entries)} sets; give each a name of its own")
    made = []
    for entry in entries:
        places = catalogue.locate(entry, below) if by_name else [location]
        if not places:
            raise ConfigError(
                f"{key}: {entry.name}: no file {' or '.join(entry.files)} below "
                f"{folder or 'any folder, as none is given'}; it comes from {entry.origin}"
            )
        found = []
        for place in places:
            source = sources.open_source(f"{place}?{query}", key, OPTIONS)
            name = options.get("name") or entry.name or source.name
            found.append(
                _make(
                    dataclasses.replace(source, name=name, spec=sources.public(spec)),
                    entry,
                    key,
                    seed,
                )
            )
        _check_same(found, places, key)
        made.append(found[0])
    extra, where = options["extra"], f"{key}: {spec}"
    for of, option in itertools.product(made, ("attack", "turns")):
        if option in extra and of.kind not in (UNSAFE, SAFE):
            raise ConfigError(
                f"{where}: {of.name} is of the kind {of.kind}; expected {option}= on sets of the "
                f"kinds {UNSAFE} and {SAFE} alone, remove {option}="
            )
    attacks = registry.parse(extra["attack"], where) if "attack" in extra else []
    settings = conversations.parse(extra["turns"], where) if "turns" in extra else []
    return [
        *made,
        *(_under(of, attack, where) for of in made for attack in attacks),
        *(_within(of, setting) for of in made for setting in settings),
    ]


def _under(of: Set, attack: Attack, where: str) -> Set:
    behind = attacked.suffixes(attack, [item.row for item in of.items], of.rows, where)
    items = tuple(
        dataclasses.replace(
            item,
            twin="",
            asked=attacked.ask(item.prompt, item.context, item.opening, attack, suffix),
        )
        for item, suffix in zip(of.items, behind, strict=True)
    )
    name = f"{of.name}{attacked.SEPARATOR}{attack.name}"
    return dataclasses.replace(of, name=name, items=items, twin="", attack=attack, plain=of.name)


def _within(of: Set, setting: Setting) -> Set:
    """The requests of a set in conversations of their own."""
    if setting.kind == conversations.CONTEXT:
        items = tuple(_behind(item, of.kind == UNSAFE, setting) for item in of.items)
    else:
        items = _turns(conversations.scripts(setting, [_request(item, of) for item in of.items]))
    name = f"{of.name}{attacked.SEPARATOR}{setting.name}"
    return dataclasses.replace(
        of, name=name, kind=CONVERSATION, items=items, twin="", plain=of.name, setting=setting
    )


def _request(item: Item, of: Set) -> Request:
    *before, last = item.conversation("").prompt
    unsafe = of.kind == UNSAFE
    return Request(item.id, item.category, item.where, tuple(before), last.content, unsafe)


def _behind(item: Item, unsafe: bool, setting: Setting) -> Item:
    """A request behind a conversation that took place, of which judges read the request alone."""
    *before, last = item.conversation("").prompt
    system = tuple(one for one in before if one.role == "system")
    said = tuple(one for one in before if one.role != "system")
    talk = conversations.context(setting.number)
    return dataclasses.replace(
        item,
        twin="",
        asked=Reworded((*system, *talk, *said, last), "", ""),
        talk=TalkTurn(item.id, 0, unsafe, item.id),
    )


def _turns(scripts: Sequence[Script]) -> tuple[Item, ...]:
    """An item for each turn of each conversation: all first turns, all second ones, and so on."""
    return tuple(
        Item(
            id=f"{script.id}/{number + 1}",
            prompt=script.prompt(number),
            where=f"{script.where}, turn {number + 1}",
            category=script.category,
            row=script.row,
            talk=script.places[number],
            together=script.id,
        )
        for number in range(max(len(script.turns) for script in scripts))
        for script in scripts
        if number < len(script.turns)
    )


def _check_same(found: Sequence[Set], places: Sequence[str], key: str) -> None:
    """Results of several models may each repeat the questions; any of their files will do."""
    asked = [[dataclasses.replace(item, where="") for item in one.items] for one in found]
    for place, items in zip(places, asked, strict=True):
        if items != asked[0]:
            raise ConfigError(
                f"{key}: {found[0].name} is in {places[0]} and, different, in {place}; give one of "
                f"them as FILE?as={found[0].name}"
            )


def _entries(location: str, extra: Mapping[str, str], key: str, spec: str) -> tuple[Entry, ...]:
    """What a source that is not given by name is read as."""
    if "as" in extra:
        if not (entries := catalogue.named(extra["as"])):
            raise ConfigError(
                f"{key}: {spec}: no set is called {extra['as']!r}; known are "
                f"{', '.join(catalogue.CATALOGUE)}"
            )
        return entries
    if "kind" not in extra and (entries := catalogue.of_file(location)):
        return entries
    kind = extra.get("kind")
    if kind not in KINDS:
        what = "has no kind" if kind is None else f"kind={kind}"
        raise ConfigError(
            f"{key}: {spec} {what}; expected a name ({', '.join(catalogue.CATALOGUE)}), or a file "
            f"with ?kind= one of {', '.join(KINDS)}"
        )
    if kind == CONVERSATION and "twin" in extra:
        raise ConfigError(f"{key}: {spec}: conversations have no twins; remove twin=")
    word = multiple_choice.choice_row if kind == CHOICE else None
    licence = extra.get("licence", _UNSTATED)
    framed = kind in (CHOICE, LABEL)
    return (Entry("", kind, licence, word=word, twin=extra.get("twin", ""), framed=framed),)


# ---------------------------------------------------------------------------- from rows to items


def _make(source: Source, entry: Entry, key: str, seed: int) -> Set:
    if entry.kind == CONVERSATION:
        return _talks(source, entry, key, seed)
    entry = _read_as(_classified(source, entry), source, key)
    known = {ours: theirs for ours, theirs in entry.columns.items() if ours not in source.columns}
    kept: list[tuple[int, str, Row]] = []
    for number, (where, row) in enumerate(zip(source.where, source.rows, strict=True)):
        if entry.keep is None or entry.keep(row):
            try:
                row = records.renamed(row, source.columns)
                row = records.renamed(row, {o: t for o, t in known.items() if t in row})
                kept.append((number, where, entry.word(row) if entry.word else row))
            except BadRow as bad:
                raise DataError(f"{where}: {bad}; mend the row") from bad
    if not kept:
        raise DataError(f"{source.spec}: no row belongs to {entry.name}; is it another file?")
    native = dataclasses.replace(
        source,
        rows=[row for _, _, row in kept],
        where=[where for _, where, _ in kept],
        columns={},
    )
    rows = {where: (number, row) for number, where, row in kept}
    references = _references(native, entry.kind)
    read = sources.draw(records.read_prompts(native), source, key, seed)
    likelihood = source.extra.get("read") == LIKELIHOOD
    items = [_item(record, *rows[record.where], references, entry, likelihood) for record in read]
    _check_ids(items)
    return Set(
        name=source.name,
        kind=entry.kind,
        items=tuple(items),
        source=source.spec,
        sha256=source.sha256(),
        licence=source.extra.get("licence", entry.licence),
        twin=source.extra.get("twin", entry.twin),
        framed=entry.framed and not (likelihood and "stem" in kept[0][2]),
        rows=len(source.rows),
    )


def _talks(source: Source, entry: Entry, key: str, seed: int) -> Set:
    """Conversations of a file."""
    scripts = []
    for number, (where, row) in enumerate(zip(source.where, source.rows, strict=True)):
        try:
            scripts.append(conversations.read(records.renamed(row, source.columns), where, number))
        except BadRow as bad:
            raise DataError(f"{where}: {bad}; mend the row") from bad
    items = _turns(sources.draw(scripts, source, key, seed))
    _check_ids(items)
    return Set(
        name=source.name,
        kind=entry.kind,
        items=items,
        source=source.spec,
        sha256=source.sha256(),
        licence=source.extra.get("licence", entry.licence),
        rows=len(source.rows),
    )


def _classified(source: Source, entry: Entry) -> Entry:
    """The entry of texts to be classified as that of multiple choice; others as they are."""
    if entry.kind != LABEL:
        return entry
    known = {ours: theirs for ours, theirs in entry.columns.items() if ours not in source.columns}
    rows = []
    for where, row in zip(source.where, source.rows, strict=True):
        try:
            rows.append(records.renamed(records.renamed(row, source.columns), known))
            classification.check(rows[-1])
        except BadRow as bad:
            raise DataError(f"{where}: {bad}; mend the row") from bad
    try:
        word = classification.words_of(rows)
    except BadRow as bad:
        raise DataError(f"{source.spec}: {bad}") from bad
    return dataclasses.replace(entry, kind=CHOICE, word=word, framed=True)


def _read_as(entry: Entry, source: Source, key: str) -> Entry:
    """The entry of multiple choice with its choices read as the source says."""
    read = source.extra.get("read", LETTERS)
    if read not in (LETTERS, LIKELIHOOD) or ("read" in source.extra and entry.kind != CHOICE):
        raise ConfigError(
            f"{key}: {source.spec}: read={read} of a set of the kind {entry.kind}; expected "
            f"{LETTERS} or {LIKELIHOOD}, of multiple choice alone"
        )
    if read == LETTERS or entry.word is None:
        return entry
    lettered = entry.word
    return dataclasses.replace(entry, word=lambda row: multiple_choice.unlettered(lettered(row)))


def _references(source: Source, kind: str) -> dict[str, str]:
    """Place -> the answer in the row, of sets that are there for it."""
    if kind != REFERENCE or "reference" in source.rows[0]:
        return {}
    try:
        found = records.read_records(source)
    except DataError as error:
        raise DataError(f"{error}; or name its column by columns=reference:COLUMN") from error
    return {record.where: record.messages[-1].content for record in found}


def _item(
    record: Record,
    number: int,
    row: Row,
    references: Mapping[str, str],
    entry: Entry,
    likelihood: bool,
) -> Item:
    where = record.where
    reference = _text(row, "reference", where) or references.get(where, "")
    if entry.kind in (ANSWER, CHOICE, REFERENCE) and not reference:
        raise DataError(f"{where}: 'reference' is empty; expected an answer")
    twin = _text(row, "twin", where)
    return Item(
        id=_text(row, "id", where) or str(number),
        prompt=record.messages,
        where=where,
        category=_text(row, "category", where),
        reference=reference,
        twin=twin or (str(number) if entry.twin and entry.name else ""),
        choices=tuple(row["choices"]) if entry.kind == CHOICE else (),
        choice_texts=tuple(row["texts"]) if likelihood else (),
        context=record.context,
        row=number,
        opening=_text(row, "opening", where),
    )


def _text(row: Row, column: str, where: str) -> str:
    value: Any = row.get(column)
    if value is None or value == "":
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise DataError(f"{where}: {column!r} is {type(value).__name__}; expected text")
    return str(value).strip()


def _check_ids(items: Sequence[Item]) -> None:
    seen: dict[str, str] = {}
    for item in items:
        if item.id in seen:
            raise DataError(
                f"{item.where}: the id {item.id!r:.60} is that of {seen[item.id]}, too; expected "
                "ids that differ: mend the file, or take another column by columns=id:COLUMN"
            )
        seen[item.id] = item.where
