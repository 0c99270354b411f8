"""Which answer of a file belongs to which item of a set: proved by the prompt beside each answer.

In the files of a published evaluation, 78 of 178 answers stood, and were judged, beside the prompt
of another. So every prompt is compared, and a file that does not fit is refused.
"""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from safety_jax.base.errors import DataError
from safety_jax.data.messages import Message
from safety_jax.evaluation.sets.items import Item, Set

MATCHES = ("row", "prompt")
_SHOWN = 70  # characters of a prompt in a message
_MOST = 0.9  # of the rows from a place on must fit for them to be called shifted


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """An answer as a file has it.

    Attributes:
        key: what its prompt is compared by: see `key_of`; or the SHA-256 of the prompt.
        prompt: for people.
        columns: whatever else the row has.
    """

    where: str
    key: str
    prompt: str
    answer: str
    finish: str
    columns: Mapping[str, Any]


def key_of(prompt: Sequence[Message]) -> str:
    """A prompt as it is compared: exactly, but for white space at the ends of a message."""
    return "\0".join(f"{message.role}\0{message.content.strip()}" for message in prompt)


def pair(asked: Set, found: Sequence[Found], match: str, file: str, hashed: bool) -> list[Found]:
    """One answer an item, in the order of the set.

    Args:
        match: "row": answers stand in the order of the set, or of the file that the set is part of;
            "prompt": in any order, and each prompt as often as in the set.
        file: what is read, for messages.
        hashed: the keys of `found` are hashes of prompts.

    Raises:
        DataError: they do not fit; the first row that does not is named, and what is wrong.
    """
    keys = [_key(item, hashed) for item in asked.items]
    if match == "prompt":
        return _by_prompt(asked, keys, found, file)
    rows = [item.row for item in asked.items]
    if len(found) == asked.rows and None not in rows:
        found = [found[row] for row in rows if row is not None]
    if [one.key for one in found] != keys:
        raise DataError(_mismatch(asked, keys, found, file))
    return list(found)


def _key(item: Item, hashed: bool) -> str:
    return item.prompt_sha256() if hashed else key_of(item.asking().prompt)


def _by_prompt(asked: Set, keys: Sequence[str], found: Sequence[Found], file: str) -> list[Found]:
    there: dict[str, list[Found]] = defaultdict(list)
    for one in found:
        there[one.key].append(one)
    wanted = Counter(keys)
    for item, key in zip(asked.items, keys, strict=True):
        if len(there[key]) != wanted[key]:
            raise DataError(
                f"{file}: the prompt of {asked.name} item {item.id} ({_shown(item)}) is there "
                f"{len(there[key])} times; expected {wanted[key]}: answers cannot be matched by "
                "prompt, mend the file"
            )
    return [there[key].pop(0) for key in keys]


# ---------------------------------------------------------------------------- what is wrong


def _mismatch(asked: Set, keys: Sequence[str], found: Sequence[Found], file: str) -> str:
    there = [one.key for one in found]
    both = min(len(keys), len(there))
    wrong = [i for i in range(both) if keys[i] != there[i]]
    advice = "mend the file"
    if not Counter(keys) - Counter(there):
        advice = "set evaluate.match to prompt to match answers by their prompts, or mend the file"
    counts = f"{len(there):,} answers, {asked.name} has {len(keys):,} prompts"
    if not wrong:
        place = found[both].where if len(there) > both else f"item {asked.items[both].id}"
        what = "goes on where the set ends" if len(there) > both else "has no answer"
        return f"{file}: {counts}: {place} {what}; {advice}"
    first = wrong[0]
    return (
        f"{found[first].where}: answers {_short(found[first].prompt)} where {asked.name} asks "
        f"{_shown(asked.items[first])} (item {asked.items[first].id}): "
        f"{_kind(keys, found, first)}; {len(wrong)} of {both} rows stand beside another prompt"
        f"{'' if len(keys) == len(there) else f'; {counts}'}; {advice}"
    )


def _kind(keys: Sequence[str], found: Sequence[Found], first: int) -> str:
    """What happened at the first row that does not fit, as far as it can be told."""
    there = [one.key for one in found]
    said = []
    if there[first] in there[:first] and there.count(there[first]) > keys.count(there[first]):
        said.append(f"it repeats {found[there.index(there[first])].where}")
    if shift := _shift(keys, there, first):
        direction = "early" if shift > 0 else "late"
        said.append(f"from here on prompts come {abs(shift)} too {direction}: rows are shifted")
    elif Counter(keys) == Counter(there):
        said.append("the prompts are those of the set in another order")
    if not said and there[first] in keys:
        said.append(f"it is the prompt of row {keys.index(there[first])} of the set")
    return ", ".join(said) or "the set has no such prompt"


def _shift(keys: Sequence[str], there: Sequence[str], first: int) -> int:
    """By how much the rows from `first` on are shifted; 0 where they are not."""
    for start in (first, first + 1):  # a row that was put in belongs nowhere itself
        if start >= len(there) or there[start] not in keys:
            continue
        shift = keys.index(there[start]) - start
        pairs = [
            (there[i], keys[i + shift])
            for i in range(start, len(there))
            if 0 <= i + shift < len(keys)
        ]
        fitting = sum(one == other for one, other in pairs)
        if shift and fitting > 1 and fitting >= _MOST * len(pairs):
            return shift
    return 0


def _shown(item: Item) -> str:
    return _short(item.asking().question.strip())


def _short(text: str) -> str:
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}…"
