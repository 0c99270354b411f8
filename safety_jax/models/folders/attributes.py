"""Checks the types of a config.json's attributes, and refuses those that might matter but are not
implemented.

An attribute that is in none of the tables is refused by name if the class of `transformers` for
this `model_type` reads it and it is not null. Otherwise it cannot change what that class computes,
and a note mentions it.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax

from safety_jax.base.errors import CheckpointError
from safety_jax.models.folders.families import IRRELEVANT, OWN_CODE, SWITCHED_OFF
from safety_jax.models.folders.upstream import read_by_transformers

# Far above every published model, far below what would keep a host busy before weights are read.
MOST = 2**31 - 1
MOST_LAYERS = 10_000
LAYERS = ("num_hidden_layers", "n_layer")
SHOWN = 60  # characters of a value in a message


class Attributes:
    """The attributes of a file by name, with `defaults` for those that it leaves out.

    The methods that read a value raise a CheckpointError if it is not valid.
    """

    def __init__(self, given: Mapping[str, Any], defaults: Mapping[str, Any], where: str):
        self.values = dict(defaults) | dict(given)
        self.where = where

    def refuse(self, name: str, expected: str) -> CheckpointError:
        value = f"{self.values.get(name)!r}"[:SHOWN]
        return CheckpointError(f"{self.where}: {name} is {value}; expected {expected}")

    def integer(
        self, name: str, least: int = 1, when_absent: int | None = None, most: int = MOST
    ) -> int:
        """A size; `when_absent` if the file says null."""
        value = self.values[name]
        if value is None and when_absent is not None:
            return when_absent
        most = MOST_LAYERS if name in LAYERS else most
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self.refuse(name, f"a whole number from {least} to {most}")
        return value

    def number(self, name: str) -> float:
        value = self.values[name]
        if not is_number(value) or value < 0:
            raise self.refuse(name, "a number, 0 or more")
        return float(value)

    def numbers(self, name: str, count: int) -> tuple[float, ...]:
        value = self.values[name]
        if not isinstance(value, list) or len(value) != count or not all(map(is_number, value)):
            raise self.refuse(name, f"a list of {count} number(s)")
        return tuple(float(entry) for entry in value)

    def boolean(self, name: str) -> bool:
        """False if the family has no such attribute, or the file says null."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.refuse(name, "true or false")
        return bool(value)

    def one_of(self, name: str, allowed: Iterable[Any]) -> Any:
        value = self.values[name]
        if value not in tuple(allowed):
            raise self.refuse(name, f"one of {', '.join(map(str, allowed))}")
        return value


def is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def refuse_unknown(
    given: Mapping[str, Any],
    known: Iterable[str],
    switched_off: Mapping[str, tuple[Any, ...]],
    where: str,
) -> None:
    """Raises a CheckpointError that names unknown attributes which may change the computation.

    Other unknown attributes are only mentioned, see `tell_once`.

    Args:
        known: attributes that are implemented.
        switched_off: attributes that are not implemented, with the values that turn them off.
    """
    if given.get("quantization_config"):
        raise CheckpointError(
            f"{where}: quantised checkpoint (quantization_config); expected float32, bfloat16 or "
            "float16 weights; use the model it was made from"
        )
    kind, off = str(given.get("model_type")), SWITCHED_OFF | dict(switched_off)
    considered = IRRELEVANT | set(known)
    unknown = {
        name: value
        for name, value in given.items()
        if name not in considered and not any(value == allowed for allowed in off.get(name, ()))
    }
    read = read_by_transformers(kind)
    refused = [
        name
        for name, value in unknown.items()
        if name in switched_off
        or name in OWN_CODE
        or (value is not None or name in off)
        and (name in read)
    ]
    if refused:
        raise CheckpointError(
            f"{where}: not supported for {kind}: {_listed(unknown, sorted(refused)[:5])}; remove "
            "an attribute only if it does not change what the model computes"
        )
    if unknown:
        tell_once(kind, where, _listed(unknown, sorted(unknown)))


def _listed(values: Mapping[str, Any], names: Iterable[str]) -> str:
    return ", ".join(f"{_plain(name)} = {values[name]!r}"[:SHOWN] for name in names)


def _plain(name: str) -> str:
    return name if name.isidentifier() else repr(name)


_told: set[tuple[str, str]] = set()


def tell_once(kind: str, where: str, listed: str) -> None:
    """Prints a note on attributes that change nothing. A base and its fine-tuned models often have
    the same ones, so each list is printed only once. An empty `where` prints nothing."""
    if where and (kind, listed) not in _told:
        _told.add((kind, listed))
        if jax.process_index() == 0:
            print(
                f"note: {where}: {listed}: transformers does not read this of a {kind} model, so "
                "it changes nothing",
                flush=True,
            )
