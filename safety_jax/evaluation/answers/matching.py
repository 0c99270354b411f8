"""Matches the answers of a file with the items of a set, by the prompt beside each answer.

In the files of a published evaluation, 78 of 178 answers were stored, and judged, beside the prompt
of another. So every prompt is compared, and a file that does not match is refused.
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
_MOST = 0.9  # of the rows after a mismatch must fit for them to be called shifted


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """An answer read from a file.

    Attributes:
        key: of its prompt, for comparison: see `key_of`; or the SHA-256 of the prompt.
        prompt: for messages.
        columns: all other columns of the row.
    """

    where: str
    key: str
    prompt: str
    answer: str
    finish: str
    columns: Mapping[str, Any]


def key_of(prompt: Sequence[Message]) -> str:
    """A prompt for comparison: exact, except for white space around each message."""
    return "\0".join(f"{message.role}\0{message.content.strip()}" for message in prompt)


def pair(asked: Set, found: Sequence[Found], match: str, file: str, hashed: bool) -> list[Found]:
    """One answer an item, in the order of the set.

    Args:
        match: "row": answers are in the order of the set, or of the file that the set was read
            from; "prompt": in any order, each prompt as often as in the set.
        file: name of the file, for messages.
        hashed: whether the keys of `found` are hashes of prompts.

    Raises:
        DataError: they do not match; names the first row that does not, and what is wrong.
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
    by_key: dict[str, list[Found]] = defaultdict(list)
    for one in found:
        by_key[one.key].append(one)
    wanted = Counter(keys)
    for item, key in zip(asked.items, keys, strict=True):
        if len(by_key[key]) != wanted[key]:
            raise DataError(
                f"{file}: the prompt of {asked.name} item {item.id} ({_shown(item)}) occurs "
                f"{len(by_key[key])} times; expected {wanted[key]}: answers cannot be matched by "
                "prompt, mend the file"
            )
    return [by_key[key].pop(0) for key in keys]


# ---------------------------------------------------------------------------- mismatches


def _mismatch(asked: Set, keys: Sequence[str], found: Sequence[Found], file: str) -> str:
    own = [one.key for one in found]
    both = min(len(keys), len(own))
    wrong = [i for i in range(both) if keys[i] != own[i]]
    advice = "mend the file"
    wanted, given = Counter(keys), Counter(own)
    if all(given[key] == count for key, count in wanted.items()):
        advice = "set evaluate.match to prompt to match answers by their prompts, or mend the file"
    elif all(given[key] > count for key, count in wanted.items()):
        advice = (
            "every prompt has several answers, of which one is expected: choose by "
            "?only=COLUMN:VALUE, or mend the file"
        )
    counts = f"{len(own):,} answers, {asked.name} has {len(keys):,} prompts"
    if not wrong:
        place = found[both].where if len(own) > both else f"item {asked.items[both].id}"
        what = "is beyond the end of the set" if len(own) > both else "has no answer"
        return f"{file}: {counts}: {place} {what}; {advice}"
    first = wrong[0]
    return (
        f"{found[first].where}: answers {_short(found[first].prompt)} where {asked.name} asks "
        f"{_shown(asked.items[first])} (item {asked.items[first].id}): "
        f"{_kind(keys, found, first)}; {len(wrong)} of {both} rows have another prompt"
        f"{'' if len(keys) == len(own) else f'; {counts}'}; {advice}"
    )


def _kind(keys: Sequence[str], found: Sequence[Found], first: int) -> str:
    """The likely cause of the first mismatch."""
    own = [one.key for one in found]
    causes = []
    if own[first] in own[:first] and own.count(own[first]) > keys.count(own[first]):
        causes.append(f"it repeats {found[own.index(own[first])].where}")
    if shift := _shift(keys, own, first):
        direction = "early" if shift > 0 else "late"
        causes.append(f"from here on prompts come {abs(shift)} too {direction}: rows are shifted")
    elif Counter(keys) == Counter(own):
        causes.append("the prompts are those of the set in another order")
    if not causes and own[first] in keys:
        causes.append(f"it is the prompt of row {keys.index(own[first])} of the set")
    return ", ".join(causes) or "the set has no such prompt"


def _shift(keys: Sequence[str], own: Sequence[str], first: int) -> int:
    """By how much the rows from `first` on are shifted; 0 if they are not."""
    for start in (first, first + 1):  # an inserted row matches nothing itself
        if start >= len(own) or own[start] not in keys:
            continue
        shift = keys.index(own[start]) - start
        pairs = [
            (own[i], keys[i + shift]) for i in range(start, len(own)) if 0 <= i + shift < len(keys)
        ]
        fitting = sum(one == other for one, other in pairs)
        if shift and fitting > 1 and fitting >= _MOST * len(pairs):
            return shift
    return 0


def _shown(item: Item) -> str:
    return _short(item.asking().question.strip())


def _short(text: str) -> str:
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}…"
