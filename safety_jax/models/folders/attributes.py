"""Attributes of a config.json, each with its type checked; what nobody considered is refused."""

from collections.abc import Iterable, Mapping
from typing import Any

from safety_jax.base.errors import CheckpointError
from safety_jax.models.folders.families import IRRELEVANT, SWITCHED_OFF


class Attributes:
    """Attributes by name, those a file leaves out taken from `defaults`."""

    def __init__(self, given: Mapping[str, Any], defaults: Mapping[str, Any], where: str):
        self.values = dict(defaults) | dict(given)
        self.where = where

    def refuse(self, name: str, expected: str) -> CheckpointError:
        value = f"{self.values.get(name)!r}"[:60]
        return CheckpointError(f"{self.where}: {name} is {value}; expected {expected}")

    def integer(self, name: str, least: int = 1) -> int:
        value = self.values[name]
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self.refuse(name, f"a whole number of at least {least}")
        return value

    def number(self, name: str) -> float:
        value = self.values[name]
        if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
            raise self.refuse(name, "a number")
        return float(value)

    def numbers(self, name: str, count: int) -> tuple[float, ...]:
        value = self.values[name]
        if not isinstance(value, list) or len(value) != count:
            raise self.refuse(name, f"a list of {count} number(s)")
        if not all(isinstance(entry, int | float) for entry in value):
            raise self.refuse(name, f"a list of {count} number(s)")
        return tuple(float(entry) for entry in value)

    def boolean(self, name: str) -> bool:
        value = self.values[name]
        if not isinstance(value, bool):
            raise self.refuse(name, "true or false")
        return value

    def one_of(self, name: str, allowed: Iterable[Any]) -> Any:
        value = self.values[name]
        if value not in tuple(allowed):
            raise self.refuse(name, f"one of {', '.join(map(str, allowed))}")
        return value


def refuse_unknown(
    given: Mapping[str, Any],
    known: Iterable[str],
    switched_off: Mapping[str, tuple[Any, ...]],
    where: str,
) -> None:
    """Raises a CheckpointError that names attributes which might change what the model computes.

    Args:
        known: attributes that are read.
        switched_off: attributes that are not implemented, with the values that ask for nothing.
    """
    if given.get("quantization_config"):
        raise CheckpointError(
            f"{where}: quantised checkpoint (quantization_config); expected float32, bfloat16 or "
            "float16 weights; use the model it was made from"
        )
    off = SWITCHED_OFF | dict(switched_off)
    considered = IRRELEVANT | set(known)
    unknown = [
        f"{name} = {value!r}"[:60]
        for name, value in given.items()
        if name not in considered and value not in off.get(name, ())
    ]
    if unknown:
        raise CheckpointError(
            f"{where}: not supported for {given.get('model_type')}: "
            f"{', '.join(sorted(unknown)[:5])}; remove an attribute only if it does not change "
            "what the model computes"
        )
