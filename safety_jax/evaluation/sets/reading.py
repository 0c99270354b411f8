"""Reads evaluation sets.

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
    I-CoNa?form=question&name=I-CoNa-question     its requests as questions, see data/forms.py
    I-CoNa?turns=again,amid:3                and two more: its requests in conversations
    talks.jsonl?kind=conversation            conversations, see conversations.py
    twins.jsonl?kind=unsafe                  prompts that differ in the group named, see twins.py

Columns of a file of one's own: the prompt in any form of data/formats.py, and, where there are
such, `id`, `category`, `reference`, `choices`, `opening`, with which a prefilled answer begins, and
`twin`, the id of an item of the set that the option `twin` names. Further options: `licence`, and
those of data/sources.py. Attacks are those of attacks/registry.py.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safety_jax.base import files
from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data import records, sources
from safety_jax.data.formats import BadRow
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
    turns,
    twins,
)
from safety_jax.evaluation.sets.catalogue import Entry
from safety_jax.evaluation.sets.items import (
    ANSWER,
    CHOICE,
    CONVERSATION,
    KINDS,
    LABEL,
    REFERENCE,
    SAFE,
    UNSAFE,
    Item,
    Set,
)

OPTIONS = ("kind", "as", "licence", "twin", "attack", "turns", "read")
LETTERS, LIKELIHOOD = "letters", "likelihood"  # how a model's choice is read
_UNSTATED = "not stated: the user's own file"


def read_sets(specs: Sequence[str], folder: str, key: str, seed: int) -> list[Set]:
    """Reads sets; see the top of this file.

    Args:
        specs: names and sources.
        folder: below which the files of sets given by name are found; "" for none.
        key: the config key of the specs, for messages.
        seed: draws the rows of `rows=N`.

    Raises:
        ConfigError: a set that nobody knows, an option that does not fit, two sets of one name,
            twins of a set that is not there.
        DataError: a file or row that cannot be used; the message names it.
    """
    if not any(specs):
        raise ConfigError(
            f"{key} is empty; expected names of sets ({', '.join(catalogue.CATALOGUE)}) or files"
        )
    below = _files(folder, key)
    found: dict[str, Set] = {}
    along: set[str] = set()  # sets that come with their attacks, and may be named beside them
    listed = list(itertools.chain.from_iterable(map(_listed, specs)))
    for spec in listed:
        several = _read(spec, folder, below, key, seed)
        along |= {made.plain for made in several}
        for made in several:
            known = found.setdefault(made.name, made)
            if known is not made and not (made.name in along and known.items == made.items):
                raise ConfigError(f"{key}: two sets are named {made.name}; add ?name= to one")
    for spec in listed:
        twin = sources.parse(spec, key, OPTIONS)[1]["extra"].get("twin")
        if twin is not None and twin not in found:
            raise ConfigError(
                f"{key}: {spec}: twin={twin} names no set that is asked; expected one of "
                f"{', '.join(found)}"
            )
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
        *(turns.within(of, setting) for of in made for setting in settings),
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
        made = turns.read(source, entry, key, seed)
        _check_ids(made.items)
        return made
    entry = _read_as(_classified(source, entry), source, key)
    known = {ours: theirs for ours, theirs in entry.columns.items() if ours not in source.columns}
    kept: list[tuple[int | None, str, Row]] = []
    for number, (where, row) in enumerate(zip(source.where, source.rows, strict=True)):
        if entry.keep is None or entry.keep(row):
            try:
                row = records.renamed(row, source.columns)
                row = records.renamed(row, {o: t for o, t in known.items() if t in row})
                row = entry.word(row) if entry.word else row
                kept += _parts(row, number, where, entry)
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
    likelihood = source.extra.get("read") == LIKELIHOOD
    items = [
        _item(record, *rows[record.where], references, entry, likelihood)
        for record in _drawn(native, rows, entry, key, seed)
    ]
    _check_ids(items)
    _check_twins(items, source)
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
        formless=len({row.where for row in native.left_out if row.unwanted}),
    )


def _parts(row: Row, number: int, where: str, entry: Entry) -> list[tuple[int | None, str, Row]]:
    """A worded row with its number and place; of one that holds several prompts, each of them."""
    split = entry.split or twins.parts
    if entry.kind not in (UNSAFE, SAFE) or (several := split(row, number)) == [row]:
        return [(number, where, row)]
    return [(None, f"{where}, {one['id']}", one) for one in several]


def _drawn(
    native: Source, rows: Mapping[str, tuple[int | None, Row]], entry: Entry, key: str, seed: int
) -> list[Record]:
    """The prompts of a set, twins drawn together."""
    found: dict[str, list[Record]] = {}
    for record in records.read_prompts(native):
        found.setdefault(_pair(rows[record.where][1], entry) or record.where, []).append(record)
    return list(itertools.chain(*sources.draw(list(found.values()), native, key, seed)))


def _check_twins(items: Sequence[Item], source: Source) -> None:
    paired = [(item.together, item.group) for item in items if item.group]
    if paired and (wrong := twins.problem(paired)):
        raise DataError(f"{source.spec}: {wrong}; expected twins that differ in their group")


def _classified(source: Source, entry: Entry) -> Entry:
    """The entry of texts to be classified as that of multiple choice; others as they are."""
    if entry.kind != LABEL:
        return entry
    known = {ours: theirs for ours, theirs in entry.columns.items() if ours not in source.columns}
    labelled: Callable[[Row], Row] = entry.word or dict
    rows = []
    for where, row in zip(source.where, source.rows, strict=True):
        try:
            rows.append(labelled(records.renamed(records.renamed(row, source.columns), known)))
            classification.check(rows[-1])
        except BadRow as bad:
            raise DataError(f"{where}: {bad}; mend the row") from bad
    try:
        word = classification.words_of(rows)
    except BadRow as bad:
        raise DataError(f"{source.spec}: {bad}") from bad
    return dataclasses.replace(
        entry, kind=CHOICE, word=lambda row: word(labelled(row)), framed=True
    )


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


def _pair(row: Row, entry: Entry) -> str:
    """What a prompt is a twin of; "" of one that names no group."""
    if entry.kind not in (UNSAFE, SAFE) or not row.get(twins.GROUP):
        return ""
    return str(row.get(twins.PAIR) or "").strip()


def _item(
    record: Record,
    number: int | None,
    row: Row,
    references: Mapping[str, str],
    entry: Entry,
    likelihood: bool,
) -> Item:
    where = record.where
    reference = _text(row, "reference", where) or references.get(where, "")
    if entry.kind in (ANSWER, CHOICE, REFERENCE) and not reference:
        raise DataError(f"{where}: 'reference' is empty; expected an answer")
    twin, pair = _text(row, "twin", where), _pair(row, entry)
    group = _text(row, twins.GROUP, where) if pair else ""
    return Item(
        id=_text(row, "id", where) or str(number),
        prompt=record.messages,
        where=where,
        category=_text(row, "category", where) or group,
        reference=reference,
        twin=twin or (str(number) if entry.twin and entry.name else ""),
        choices=tuple(row["choices"]) if entry.kind == CHOICE else (),
        choice_texts=tuple(row["texts"]) if likelihood else (),
        context=record.context,
        row=number,
        opening=_text(row, "opening", where),
        together=pair,
        group=group,
        stereotype=row.get("stereotype"),
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
