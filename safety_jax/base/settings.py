"""Kinds of config values, each with its range, choices and unit.

`stages/schema.py` assigns them to keys; this module knows no config.
"""

import dataclasses
import datetime
import math
from typing import Any, Protocol, runtime_checkable

# Arrays have numbers of 32 bits.
LARGEST_WHOLE = 2**31 - 1
LARGEST_REAL = 1e38
SMALLEST_REAL = 1e-37  # what is nearer to 0 may be 0 there, a divisor too


@runtime_checkable
class Setting(Protocol):
    """A kind of value."""

    def fits(self, value: Any) -> bool:
        """Whether a config may have this value."""
        ...

    def describe(self) -> str:
        """What is expected, in words that follow "expected" in a message."""
        ...


@dataclasses.dataclass(frozen=True)
class Whole:
    """A whole number from `low` to `high` (of `unit`, if any), or one of `also`, or one of
    `names`."""

    low: int = 0
    high: int = LARGEST_WHOLE
    unit: str = ""
    also: tuple[int, ...] = ()
    names: tuple[str, ...] = ()

    def fits(self, value: Any) -> bool:
        if isinstance(value, str):
            return value in self.names
        if not isinstance(value, int) or isinstance(value, bool):
            return False
        return self.low <= value <= self.high or value in self.also

    def describe(self) -> str:
        what = f"a whole number of {self.unit}" if self.unit else "a whole number"
        end = "or more" if self.high == LARGEST_WHOLE else f"to {self.high}"
        what = f"{what}, {' or '.join([*map(str, self.also), f'{self.low} {end}'])}"
        return ", or ".join([*self.names, what])


@dataclasses.dataclass(frozen=True)
class Real:
    """A finite number from `low` to `high`, which 32 bits can tell from 0 unless it is 0; an open
    bound is excluded."""

    low: float = -LARGEST_REAL
    high: float = LARGEST_REAL
    low_open: bool = False
    high_open: bool = False
    unit: str = ""

    def fits(self, value: Any) -> bool:
        if not isinstance(value, int | float) or isinstance(value, bool) or math.isnan(value):
            return False
        if 0 < abs(value) < SMALLEST_REAL:
            return False
        above = value > self.low if self.low_open else value >= self.low
        return above and (value < self.high if self.high_open else value <= self.high)

    def describe(self) -> str:
        what = f"a number of {self.unit}" if self.unit else "a number"
        bounds = []
        if self.low > -LARGEST_REAL:
            bounds.append(f"above {self.low:g}" if self.low_open else f"{self.low:g} or more")
        if self.high < LARGEST_REAL:
            bounds.append(f"below {self.high:g}" if self.high_open else f"at most {self.high:g}")
        return ", ".join([what, *(bounds or ["finite"])])


@dataclasses.dataclass(frozen=True)
class Flag:
    """True or False."""

    def fits(self, value: Any) -> bool:
        return isinstance(value, bool)

    def describe(self) -> str:
        return "true or false"


@dataclasses.dataclass(frozen=True)
class OneOf:
    """One of `names`; or a longer name that begins with one of `beginnings`."""

    names: tuple[str, ...]
    beginnings: tuple[str, ...] = ()

    def fits(self, value: Any) -> bool:
        if not isinstance(value, str):
            return False
        return value in self.names or any(value[: len(b)] == b < value for b in self.beginnings)

    def describe(self) -> str:
        names = [name or '""' for name in self.names]
        names += [f"{beginning}NAME" for beginning in self.beginnings]
        return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


@dataclasses.dataclass(frozen=True)
class Text:
    """A text; it may be empty unless it is `needed`."""

    what: str = "a text"
    needed: bool = False

    def fits(self, value: Any) -> bool:
        return _is_text(value)

    def describe(self) -> str:
        return self.what if self.needed else f'{self.what}, or ""'


@dataclasses.dataclass(frozen=True)
class Day:
    """A day in the format of ISO 8601, or ""."""

    def fits(self, value: Any) -> bool:
        if not isinstance(value, str):
            return False
        try:
            return value == "" or datetime.date.fromisoformat(value).isoformat() == value
        except ValueError:
            return False

    def describe(self) -> str:
        return 'a day such as 2024-07-26, or ""'


@dataclasses.dataclass(frozen=True)
class Texts:
    """A tuple of texts; it and its texts may be empty unless they are `needed`.

    Attributes:
        distinct: whether all texts must be different.
        listed: whether commas separate them in a flag; else a flag without quotes is one text.
    """

    what: str = "texts"
    needed: bool = False
    distinct: bool = False
    listed: bool = True

    def fits(self, value: Any) -> bool:
        if not isinstance(value, tuple | list) or not all(map(_is_text, value)):
            return False
        return not self.distinct or len(set(value)) == len(value)

    def describe(self) -> str:
        once = ", each once" if self.distinct else ""
        return f"a tuple of {self.what}{once}{'' if self.needed else ', or ()'}"


@dataclasses.dataclass(frozen=True)
class Reals:
    """A tuple of `count` finite numbers, in ascending order; or an empty one."""

    count: int

    def fits(self, value: Any) -> bool:
        if not isinstance(value, tuple | list) or len(value) not in (0, self.count):
            return False
        return all(map(Real().fits, value)) and list(value) == sorted(value)

    def describe(self) -> str:
        numbers = "1 number" if self.count == 1 else f"{self.count} numbers in ascending order"
        return f"a tuple of {numbers}, or ()"


@dataclasses.dataclass(frozen=True)
class Wholes:
    """A tuple of different whole numbers of `unit`, `low` or more, in ascending order; it may be
    empty unless it is `needed`."""

    low: int = 0
    unit: str = ""
    needed: bool = False

    def fits(self, value: Any) -> bool:
        if not isinstance(value, tuple | list) or not all(map(Whole(self.low).fits, value)):
            return False
        return list(value) == sorted(set(value)) and bool(value or not self.needed)

    def describe(self) -> str:
        what = f"whole numbers of {self.unit}" if self.unit else "whole numbers"
        end = "" if self.needed else ", or ()"
        return f"a tuple of {what}, {self.low} or more, in ascending order{end}"


@dataclasses.dataclass(frozen=True)
class Anything:
    """A value that is checked elsewhere."""

    def fits(self, value: Any) -> bool:
        return True

    def describe(self) -> str:
        return "a value"


def expectation(setting: Setting, value: Any) -> str:
    """What is expected instead of a value that does not fit."""
    if isinstance(value, str) and not _is_text(value):
        return f"{setting.describe()}, in UTF-8"
    if isinstance(setting, Whole) and isinstance(value, int) and value > setting.high:
        return setting.describe().replace("or more", f"to {setting.high}")
    if isinstance(setting, Real) and isinstance(value, float) and 0 < abs(value) < SMALLEST_REAL:
        return f"{setting.describe()}, and no nearer to 0 than {SMALLEST_REAL}"
    return setting.describe()


def is_empty(setting: Setting, value: Any) -> bool:
    """Whether a value that must be given is empty."""
    if isinstance(setting, Text):
        return setting.needed and value == ""
    return isinstance(setting, Texts) and setting.needed and not any(value)


def _is_text(value: Any) -> bool:
    """Whether it is text that UTF-8 can encode: an argument from a shell may be any bytes."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
