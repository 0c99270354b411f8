"""Conversations as sets with one item a turn: all first turns, then all second ones, and so on."""

import dataclasses
from collections.abc import Sequence

from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data import parsing, sources
from safety_jax.data.messages import BadRow
from safety_jax.data.sources import Source
from safety_jax.evaluation.sets import attacked, conversations
from safety_jax.evaluation.sets.attacked import Reworded
from safety_jax.evaluation.sets.catalogue import Entry
from safety_jax.evaluation.sets.conversations import Request, Script, TalkSetting, TalkTurn
from safety_jax.evaluation.sets.items import CONVERSATION, UNSAFE, Item, Set


def read(source: Source, entry: Entry, key: str, seed: int) -> Set:
    """The set of a file of conversations.

    Raises:
        ConfigError, DataError: as `reading.read_sets`.
    """
    if source.form:
        raise ConfigError(
            f"{key}: {source.spec}: form={source.form} for a set of the kind {CONVERSATION}; "
            "expected a set of single requests, such as one with turns="
        )
    if not entry.name:
        parsing.check_names(source, conversations.COLUMNS)
    if source.fold is not None:
        raise ConfigError(
            f"{key}: {source.spec}: prompts= for a set of the kind {CONVERSATION}; expected a set "
            "of single requests, such as one with turns="
        )
    scripts = []
    for number, (where, row) in enumerate(zip(source.where, source.rows, strict=True)):
        try:
            scripts.append(conversations.read(parsing.renamed(row, source.columns), where, number))
        except BadRow as bad:
            raise DataError(f"{where}: {bad}; mend the row") from bad
    items = turns(sources.draw(scripts, source, key, seed))
    return Set(
        name=source.name,
        kind=entry.kind,
        items=items,
        source=source.spec,
        sha256=source.sha256(),
        licence=source.extra.get("licence", entry.licence),
        rows=len(source.rows),
    )


def within(one_set: Set, setting: TalkSetting) -> Set:
    """The requests of a set, each put into a conversation."""
    if setting.kind == conversations.CONTEXT:
        items = tuple(_behind(item, one_set.kind == UNSAFE, setting) for item in one_set.items)
    else:
        items = turns(
            conversations.scripts(setting, [_request(item, one_set) for item in one_set.items])
        )
    name = f"{one_set.name}{attacked.SEPARATOR}{setting.name}"
    return dataclasses.replace(
        one_set,
        name=name,
        kind=CONVERSATION,
        items=items,
        twin="",
        plain=one_set.name,
        setting=setting,
    )


def _request(item: Item, one_set: Set) -> Request:
    *before, last = item.conversation("").prompt
    unsafe = one_set.kind == UNSAFE
    return Request(
        id=item.id,
        category=item.category,
        where=item.where,
        together=item.together,
        before=tuple(before),
        text=last.content,
        unsafe=unsafe,
    )


def _behind(item: Item, unsafe: bool, setting: TalkSetting) -> Item:
    """A request after a given conversation; judges read the request alone."""
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


def turns(scripts: Sequence[Script]) -> tuple[Item, ...]:
    """An item for each turn of each conversation: all first turns, all second ones, and so on."""
    return tuple(
        Item(
            id=f"{script.id}/{number + 1}",
            prompt=script.prompt(number),
            where=f"{script.where}, turn {number + 1}",
            category=script.category,
            row=script.row,
            talk=script.places[number],
            together=script.together,
        )
        for number in range(max(len(script.turns) for script in scripts))
        for script in scripts
        if number < len(script.turns)
    )
