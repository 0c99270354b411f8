"""Reads evaluation sets.

A set is given by name, or as a file or another source with the meaning of its columns:

    I-CoNa                                   a set of the catalogue
    I-CoNa?rows=20                           20 of its rows, drawn by seed
    XSTest                                   a group: XSTest-safe and XSTest-unsafe
    some/I-CoNa.json                         a file whose name is in the catalogue
    some/copy.json?as=I-CoNa                 read like this set
    mine.csv?kind=unsafe&columns=prompt:question,category:type
    quiz.jsonl?kind=choice&columns=prompt:question,choices:options,reference:answer
    quiz.jsonl?kind=choice&read=likelihood   answered by the likelihood of each choice's text
    facts.jsonl?kind=answer&columns=prompt:question,reference:answer
    hate.csv?kind=label&columns=prompt:text,reference:label,category:functionality
    I-CoNa?attack=base64,prefill:10          I-CoNa, and two more sets: it under each attack
    I-CoNa?form=question&name=I-CoNa-question     its requests as questions, see data/forms.py
    I-CoNa?turns=again,amid:3                I-CoNa, and two more: its requests in conversations
    talks.jsonl?kind=conversation            conversations, see conversations.py
    twins.jsonl?kind=unsafe                  prompts that differ in the group named, see twins.py

Columns of your own file: the prompt in any form of data/formats/, and optionally `id`,
`category`, `reference`, `choices`, `opening`, the beginning of a prefilled answer, and `twin`, the
id of an item of the set that the option `twin` names. Further options: `licence`, and those of
data/source_spec.py. Attacks are those of attacks/registry.py.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

from safety_jax.base import files
from safety_jax.base.errors import ConfigError
from safety_jax.data import source_spec, sources
from safety_jax.evaluation.attacks import registry
from safety_jax.evaluation.attacks.registry import Attack
from safety_jax.evaluation.sets import (
    attacked,
    catalogue,
    conversations,
    multiple_choice,
    turns,
)
from safety_jax.evaluation.sets.catalogue import Entry
from safety_jax.evaluation.sets.items import CHOICE, CONVERSATION, KINDS, LABEL, SAFE, UNSAFE, Set
from safety_jax.evaluation.sets.making import make_set

OPTIONS = ("kind", "as", "licence", "twin", "attack", "turns", "read")
_UNSTATED = "not stated: the user's own file"


def read_sets(specs: Sequence[str], folder: str, key: str, seed: int) -> list[Set]:
    """Reads sets; see the top of this file.

    Args:
        specs: names and sources.
        folder: contains, at any depth, the files of sets given by name; "" for none.
        key: the config key of the specs, for messages.
        seed: draws the rows of `rows=N`.

    Raises:
        ConfigError: an unknown set, an option that does not fit, two sets of one name, or twins of
            a set that is not read.
        DataError: a file or row that cannot be used; names it.
    """
    if not any(specs):
        raise ConfigError(
            f"{key} is empty; expected names of sets ({', '.join(catalogue.CATALOGUE)}) or files"
        )
    below = _files(folder, key)
    found: dict[str, Set] = {}
    plain: set[str] = set()  # sets that come with their attacks, and may also be named themselves
    listed = list(itertools.chain.from_iterable(map(_listed, specs)))
    for spec in listed:
        several = _read(spec, folder, below, key, seed)
        plain |= {made.plain for made in several}
        for made in several:
            known = found.setdefault(made.name, made)
            if known is not made and not (made.name in plain and known.items == made.items):
                raise ConfigError(f"{key}: two sets are named {made.name}; add ?name= to one")
    for spec in listed:
        twin = source_spec.parse(spec, key, OPTIONS).extra.get("twin")
        if twin is not None and twin not in found:
            raise ConfigError(
                f"{key}: {spec}: twin={twin} is not among the sets; expected one of "
                f"{', '.join(found)}"
            )
    return list(found.values())


def _listed(spec: str) -> list[str]:
    """Splits `I-CoNa,XSTest`, as in a flag, into sets. A part that is no set's name belongs to the
    list of attacks or conversations of the set before it."""
    parts: list[str] = []
    for part in spec.split(","):
        listing = bool(parts) and any(name in parts[-1] for name in ("attack=", "turns="))
        if listing and not catalogue.named(source_spec.split(part)[0]):
            parts[-1] += f",{part}"
        else:
            parts.append(part)
    return parts if all(catalogue.named(source_spec.split(part)[0]) for part in parts) else [spec]


def _files(folder: str, key: str) -> list[Path]:
    if not folder:
        return []
    path = files.expand(folder)
    if not path.is_dir():
        raise ConfigError(f"{key}: the folder {folder} with their files does not exist")
    return catalogue.files_below(path)


def _read(spec: str, folder: str, below: Sequence[Path], key: str, seed: int) -> list[Set]:
    location, query = source_spec.split(spec)
    by_name = catalogue.named(location)
    asked = source_spec.parse(spec, key, OPTIONS)
    entries = by_name or _entries(location, asked.extra, key, spec)
    if asked.name is not None and len(entries) > 1:
        raise ConfigError(f"{key}: {spec} is {len(entries)} sets; name= needs a single one")
    made = []
    for entry in entries:
        places = catalogue.locate(entry, below) if by_name else [location]
        if not places:
            raise ConfigError(
                f"{key}: {entry.name}: no file {' or '.join(entry.files)} below "
                f"{folder or 'any folder, because none is given'}; it comes from {entry.origin}"
            )
        found = []
        for place in places:
            source = sources.open_source(f"{place}?{query}", key, OPTIONS)
            name = asked.name or entry.name or source.name
            source = dataclasses.replace(source, name=name, spec=source_spec.public(spec))
            found.append(make_set(source, entry, key, seed))
        _check_same(found, places, key)
        made.append(found[0])
    extra, where = asked.extra, f"{key}: {spec}"
    for one_set, option in itertools.product(made, ("attack", "turns")):
        if option in extra and one_set.kind not in (UNSAFE, SAFE):
            raise ConfigError(
                f"{where}: {one_set.name} is of the kind {one_set.kind}, but {option}= needs "
                f"the kind {UNSAFE} or {SAFE}; remove {option}="
            )
    attacks = registry.parse(extra["attack"], where) if "attack" in extra else []
    settings = conversations.parse(extra["turns"], where) if "turns" in extra else []
    return [
        *made,
        *(_under(one_set, attack, where) for one_set in made for attack in attacks),
        *(turns.within(one_set, setting) for one_set in made for setting in settings),
    ]


def _under(one_set: Set, attack: Attack, where: str) -> Set:
    behind = attacked.suffixes(attack, [item.row for item in one_set.items], one_set.rows, where)
    items = tuple(
        dataclasses.replace(
            item,
            twin="",
            asked=attacked.ask(item.prompt, item.context, item.opening, attack, suffix),
        )
        for item, suffix in zip(one_set.items, behind, strict=True)
    )
    name = f"{one_set.name}{attacked.SEPARATOR}{attack.name}"
    return dataclasses.replace(
        one_set, name=name, items=items, twin="", attack=attack, plain=one_set.name
    )


def _check_same(found: Sequence[Set], places: Sequence[str], key: str) -> None:
    """Checks that files found for one set hold the same items, as result files of several models
    may."""
    asked = [[dataclasses.replace(item, where="") for item in one.items] for one in found]
    for place, items in zip(places, asked, strict=True):
        if items != asked[0]:
            raise ConfigError(
                f"{key}: {found[0].name} differs between {places[0]} and {place}; give one of them "
                f"as FILE?as={found[0].name}"
            )


def _entries(location: str, extra: Mapping[str, str], key: str, spec: str) -> tuple[Entry, ...]:
    """The entries of a source that is not given by name."""
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
