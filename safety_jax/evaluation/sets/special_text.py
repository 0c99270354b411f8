"""Prompts that spell a control token of a model, where these are to be left out."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TypeVar

from safety_jax.base.errors import DataError
from safety_jax.data.control import ControlTokens
from safety_jax.data.text_rules import find_special
from safety_jax.evaluation.sets.items import Set

R = TypeVar("R")


def leave_out(
    sets: Sequence[Set],
    read: Mapping[str, Mapping[str, Sequence[R]]],
    tokens: Sequence[ControlTokens],
) -> tuple[list[Set], dict[str, dict[str, list[R]]], int]:
    """Sets without the prompts that spell a control token of any model, so that all models are
    asked the same.

    Args:
        read: by model and set, answers to all prompts, in order.
        tokens: of each model that is asked.

    Returns:
        The sets, the answers to what is left of them, and how many prompts were left out.

    Raises:
        DataError: nothing is left of a set.
    """
    found: list[Set] = []
    answers = {name: {of: list(rows) for of, rows in by.items()} for name, by in read.items()}
    for of in sets:
        records = [item.record() for item in of.items]
        kept = [
            i for i, row in enumerate(records) if not any(find_special(row, one) for one in tokens)
        ]
        if not kept:
            raise DataError(
                f"{of.source}: every prompt spells a special token of a model; set "
                "data.special_text to text, which reads them as letters"
            )
        found.append(dataclasses.replace(of, items=tuple(of.items[i] for i in kept)))
        for by_set in answers.values():
            if of.name in by_set:
                by_set[of.name] = [by_set[of.name][i] for i in kept]
    before, after = (sum(len(of.items) for of in some) for some in (sets, found))
    return found, answers, before - after
