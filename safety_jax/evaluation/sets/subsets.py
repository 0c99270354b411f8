"""Prompts that are left out of sets, for all models and answers alike: models can be compared only
on the same prompts."""

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
    """Sets, and what models have for their items, at these places of each."""
    found = [
        dataclasses.replace(of, items=tuple(of.items[i] for i in places[of.name])) for of in sets
    ]
    kept = {
        model: {name: [values[i] for i in places[name]] for name, values in by.items()}
        for model, by in rows.items()
    }
    return found, kept


def without_special(sets: Sequence[Set], tokens: Sequence[ControlTokens]) -> dict[str, list[int]]:
    """Places, by set, of the prompts that spell no control token of any model.

    Raises:
        DataError: nothing is left of a set.
    """
    found = {}
    for of in sets:
        records = [item.record() for item in of.items]
        fitting = [not any(find_special(row, one) for one in tokens) for row in records]
        found[of.name] = _whole(of, fitting)
        if not found[of.name]:
            raise DataError(
                f"{of.source}: every prompt spells a special token of a model; set "
                "data.special_text to text, which reads them as letters"
            )
    return found


def without_overlong(
    sets: Sequence[Set], lengths: BySet[int], rooms: Mapping[str, Mapping[str, int]], advice: str
) -> dict[str, list[int]]:
    """Places, by set, of the prompts that leave every model room for an answer.

    Args:
        lengths: tokens of each prompt, by model and set.
        rooms: tokens that a prompt may have, by model and set.
        advice: what to change where no prompt does.

    Raises:
        DataError: nothing is left of a set.
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
    """Places of the items that fit; of conversations, of those all of whose turns do."""
    out = {item.talk.talk for item, fits in zip(of.items, fitting, strict=True)
           if item.talk and not fits}  # fmt: skip
    return [
        i
        for i, (item, fits) in enumerate(zip(of.items, fitting, strict=True))
        if fits and not (item.talk and item.talk.talk in out)
    ]
