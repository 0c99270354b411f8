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
        dataclasses.replace(of, items=tuple(of.items[i] for i in places[of.name])) for of in sets
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
    for of in sets:
        records = [item.record() for item in of.items]
        fitting = [not any(find_special(row, one) for one in tokens) for row in records]
        found[of.name] = _whole(of, fitting)
        if not found[of.name]:
            raise DataError(
                f"{of.source}: every prompt contains a special token of a model; set "
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
    for of in sets:
        asked = [(lengths[model][of.name], rooms[model][of.name]) for model in lengths]
        fitting = [all(count[i] <= room for count, room in asked) for i in range(len(of.items))]
        found[of.name] = _whole(of, fitting)
        if not found[of.name]:
            room = min(room for _, room in asked)
            raise DataError(
                f"{of.name if of.attack else of.source}: every prompt is longer than the "
                f"{max(room, 0)} tokens that a model has room for before its answer; {advice}"
                f"{', or leave the attack out' if of.attack else ''}"
            )
    return found


def _whole(of: Set, fitting: Sequence[bool]) -> list[int]:
    """Indices of the items that fit; of conversations, only if all turns fit."""
    out = {item.talk.talk for item, fits in zip(of.items, fitting, strict=True)
           if item.talk and not fits}  # fmt: skip
    return [
        i
        for i, (item, fits) in enumerate(zip(of.items, fitting, strict=True))
        if fits and not (item.talk and item.talk.talk in out)
    ]
