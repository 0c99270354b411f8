"""Leaves prompts out of sets, for all models and answers: models are compared on the same
prompts."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TypeVar

from safety_jax.base.errors import DataError
from safety_jax.data.control import ControlTokens
from safety_jax.data.text_rules import find_special
from safety_jax.evaluation.sets.items import Set

R = TypeVar("R")
BySet = Mapping[str, Mapping[str, Sequence[R]]]  # of models, entry i to item i


def keep(
    sets: Sequence[Set], rows: BySet[R], places: Mapping[str, Sequence[int]]
) -> tuple[list[Set], dict[str, dict[str, list[R]]]]:
    """The sets, and the models' rows for their items, restricted to these indices."""
    found = [
        dataclasses.replace(one_set, items=tuple(one_set.items[i] for i in places[one_set.name]))
        for one_set in sets
    ]
    kept = {
        model: {name: [values[i] for i in places[name]] for name, values in by.items()}
        for model, by in rows.items()
    }
    return found, kept


def without_special(sets: Sequence[Set], tokens: Sequence[ControlTokens]) -> dict[str, list[int]]:
    """Indices, by set, of the prompts that contain no control token of any model.

    Raises:
        DataError: no prompt of a set is left.
    """
    found = {}
    for one_set in sets:
        records = [item.record() for item in one_set.items]
        fitting = [not any(find_special(row, one) for one in tokens) for row in records]
        found[one_set.name] = _whole(one_set, fitting)
        if not found[one_set.name]:
            raise DataError(
                f"{one_set.source}: every prompt contains a special token of a model; set "
                "data.special_text to text, which reads them as letters"
            )
    return found


def without_overlong(
    sets: Sequence[Set], lengths: BySet[int], rooms: Mapping[str, Mapping[str, int]], advice: str
) -> dict[str, list[int]]:
    """Indices, by set, of the prompts that leave every model room for an answer.

    Args:
        lengths: tokens of each prompt, by model and set.
        rooms: the most tokens of a prompt, by model and set.
        advice: what to change, for the message.

    Raises:
        DataError: no prompt of a set is left.
    """
    found = {}
    for one_set in sets:
        asked = [(lengths[model][one_set.name], rooms[model][one_set.name]) for model in lengths]
        fitting = [
            all(count[i] <= room for count, room in asked) for i in range(len(one_set.items))
        ]
        found[one_set.name] = _whole(one_set, fitting)
        if not found[one_set.name]:
            room = min(room for _, room in asked)
            named = one_set.name if one_set.attack else one_set.source
            raise DataError(
                f"{named}: every prompt is longer than the {max(room, 0)} tokens "
                f"that a model has room for before its answer; {advice}"
                f"{', or leave the attack out' if one_set.attack else ''}"
            )
    return found


def _whole(one_set: Set, fitting: Sequence[bool]) -> list[int]:
    """Indices of the items that fit; of conversations, only if all turns fit."""
    out = {item.talk.talk for item, fits in zip(one_set.items, fitting, strict=True)
           if item.talk and not fits}  # fmt: skip
    return [
        i
        for i, (item, fits) in enumerate(zip(one_set.items, fitting, strict=True))
        if fits and not (item.talk and item.talk.talk in out)
    ]
