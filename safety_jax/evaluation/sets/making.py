"""Makes an evaluation set from the rows of its source: wording, twins, references, ids."""

import dataclasses
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data import parsing, records, sources
from safety_jax.data.formats.catalogue import FORMATS, PROMPTS
from safety_jax.data.messages import BadRow
from safety_jax.data.records import Record
from safety_jax.data.sources import Source
from safety_jax.data.text_files import Row
from safety_jax.evaluation.sets import classification, multiple_choice, turns, twins
from safety_jax.evaluation.sets.bbq import Stereotype
from safety_jax.evaluation.sets.catalogue import Entry
from safety_jax.evaluation.sets.items import (
    ANSWER,
    CHOICE,
    CONVERSATION,
    LABEL,
    REFERENCE,
    SAFE,
    UNSAFE,
    Item,
    Set,
)

# What a row of a user's own set may have beside its prompt; with `reference`, it may be an answer.
_COLUMNS = (
    *("id", "category", "reference", "choices", "opening", "twin", twins.PAIR, twins.GROUP),
    *(column for known in (*PROMPTS, *FORMATS) for column in known.columns),
)
_LIST = re.compile(r"""\s*\[\s*(['"]).*\1\s*\]\s*""", re.DOTALL)
LETTERS, LIKELIHOOD = "letters", "likelihood"  # how a model's choice is read


def make_set(source: Source, entry: Entry, key: str, seed: int) -> Set:
    """The rows of a source as a set.

    Args:
        key: the config key that held the source, for messages.
        seed: draws the rows of `rows=N`.

    Raises:
        ConfigError: an option of the source that does not fit the kind of set.
        DataError: a row that cannot be used; names it.
    """
    if entry.kind == CONVERSATION:
        made = turns.read(source, entry, key, seed)
        _check_ids(made.items)
        return made
    if not entry.name:
        parsing.check_names(source, _COLUMNS)
    entry = _read_as(_classified(source, entry), source, key)
    known = {ours: theirs for ours, theirs in entry.columns.items() if ours not in source.columns}
    kept: list[tuple[int | None, str, Row]] = []
    for number, (where, row) in enumerate(zip(source.where, source.rows, strict=True)):
        try:
            ours = parsing.renamed(row, source.columns)
            if entry.keep is None or entry.keep({**row, **ours}):
                ours = parsing.renamed(ours, {o: t for o, t in known.items() if t in ours})
                kept += _parts(entry.word(ours) if entry.word else ours, number, where, entry)
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
    native.left_out.clear()  # what the references lack is asked all the same
    items = [
        _item(record, *rows[record.where], references, entry, likelihood)
        for record in _drawn(native, rows, entry, key, seed)
    ]
    _check_ids(items)
    _check_twins(items, source)
    framed = entry.framed and not (likelihood and "stem" in kept[0][2])
    return Set(
        name=source.name,
        kind=entry.kind,
        items=tuple(items),
        source=source.spec,
        sha256=source.sha256(),
        licence=source.extra.get("licence", entry.licence),
        twin=source.extra.get("twin", entry.twin),
        framed=framed,
        rows=len(source.rows),
        formless=sum(row.unwanted for row in native.left_out),
        unusable=sum(not row.unwanted for row in native.left_out),
        # The wording of complete prompts is ours, and ends as a template does.
        remarks=(
            *(() if framed and entry.word else native.remarks),
            *_spelled_lists(items, source.name, entry.kind),
        ),
    )


def _parts(row: Row, number: int, where: str, entry: Entry) -> list[tuple[int | None, str, Row]]:
    """The prompts of a worded row, each with its number and place."""
    split = entry.split or twins.parts
    if entry.kind not in (UNSAFE, SAFE) or (several := split(row, number)) == [row]:
        return [(number, where, row)]
    return [(None, f"{where}, {one['id']}", one) for one in several]


def _drawn(
    native: Source, rows: Mapping[str, tuple[int | None, Row]], entry: Entry, key: str, seed: int
) -> list[Record]:
    """The prompts of a set, twins drawn together: those of one set, and the same rows of a set and
    of the set of its twins."""
    found: dict[str, list[Record]] = {}
    for record in records.read_prompts(native):
        found.setdefault(_pair(rows[record.where][1], entry) or record.where, []).append(record)
    named = dataclasses.replace(native, name=_drawn_as(native, entry))
    return list(itertools.chain(*sources.draw(list(found.values()), named, key, seed)))


def _drawn_as(native: Source, entry: Entry) -> str:
    """The name by which rows are drawn, one for a set and that of its twins: in the catalogue each
    names the other, and in a file of the user's one of them does."""
    if "twin" in native.extra:
        return native.extra["twin"]
    return min(entry.name, entry.twin) if entry.twin else native.name


def _check_twins(items: Sequence[Item], source: Source) -> None:
    paired = [(item.together, item.group) for item in items if item.group]
    if paired and (wrong := twins.problem(paired)):
        raise DataError(f"{source.spec}: {wrong}; expected twins that differ in their group")


def _classified(source: Source, entry: Entry) -> Entry:
    """The entry; if it is of classification, as one of multiple choice."""
    if entry.kind != LABEL:
        return entry
    known = {ours: theirs for ours, theirs in entry.columns.items() if ours not in source.columns}
    labelled: Callable[[Row], Row] = entry.word or dict
    rows = []
    for where, row in zip(source.where, source.rows, strict=True):
        try:
            rows.append(labelled(parsing.renamed(parsing.renamed(row, source.columns), known)))
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
    """The entry with its choices read as the source's `read` says."""
    read = source.extra.get("read", LETTERS)
    if read not in (LETTERS, LIKELIHOOD) or ("read" in source.extra and entry.kind != CHOICE):
        raise ConfigError(
            f"{key}: {source.spec}: read={read} for a set of the kind {entry.kind}; expected "
            f"{LETTERS} or {LIKELIHOOD}, for multiple choice only"
        )
    if read == LETTERS or entry.word is None:
        return entry
    lettered = entry.word
    return dataclasses.replace(entry, word=lambda row: multiple_choice.unlettered(lettered(row)))


def _references(source: Source, kind: str) -> dict[str, str]:
    """Place -> the answer in the row, for sets with reference answers."""
    if kind != REFERENCE or "reference" in source.rows[0]:
        return {}
    try:
        found = records.read_records(source)
    except DataError as error:
        raise DataError(f"{error}; or name its column by columns=reference:COLUMN") from error
    return {record.where: record.messages[-1].content for record in found}


def _pair(row: Row, entry: Entry) -> str:
    """The pair of a twin prompt; "" if it names no group."""
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
    held: Any = row.get("stereotype")  # in a file of the user's it may be any column
    stereotype = held if isinstance(held, Stereotype) else None
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
        together=pair or (stereotype.template if stereotype else ""),
        group=group,
        stereotype=stereotype,
    )


def _text(row: Row, column: str, where: str) -> str:
    value: Any = row.get(column)
    if value is None or value == "":
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise DataError(f"{where}: {column!r} is {type(value).__name__}; expected text")
    return str(value).strip()


def _spelled_lists(items: Sequence[Item], name: str, kind: str) -> list[str]:
    """A line for the user if each known answer is a list as JSON, Python or numpy spells it."""
    if kind != ANSWER or not all(_LIST.fullmatch(item.reference) for item in items):
        return []
    return [
        f"warning: every known answer of {name} spells a list ({items[0].reference:.40}) and is "
        "compared as one text; write alternatives with | between them"
    ]


def _check_ids(items: Sequence[Item]) -> None:
    seen: dict[str, str] = {}
    for item in items:
        if item.id in seen:
            raise DataError(
                f"{item.where}: the id {item.id!r:.60} is also that of {seen[item.id]}; expected "
                "different ids: mend the file, or name another column by columns=id:COLUMN"
            )
        seen[item.id] = item.where
