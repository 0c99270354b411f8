"""What a row format is: a name, the columns that it needs, and a function that reads a row.

Columns that a format does not name are ignored, except `SYSTEM`, which any format may have, and
verdicts that exclude a row from training (labels.py).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from safety_jax.data.labels import Labels
from safety_jax.data.messages import BadRow, Message
from safety_jax.data.text_files import Row

SYSTEM = ("system", "system_prompt", "system_message")

ReadText = Callable[[Mapping[str, Any], str], str]
"""Reads the text of one column; raises a BadRow if it cannot."""


@dataclasses.dataclass(frozen=True, slots=True)
class Parsed:
    """The content of a row of any format; fields that the format lacks are empty."""

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...] = ()
    rejected: tuple[Message, ...] = ()
    context: str = ""
    labels: Labels = Labels()


@dataclasses.dataclass(frozen=True)
class Format:
    """A row format.

    Attributes:
        columns: the columns that every row needs.
        parse: reads a row; raises a BadRow if it cannot.
        optional: further columns that `parse` reads if the row has them.
        beside: the only other columns that a row may have, or None if it may have any. For formats
            whose column names are so common that they alone prove nothing.
        yields: any other format that fits the row takes precedence.
    """

    name: str
    columns: tuple[str, ...]
    parse: Callable[[Row], Parsed]
    optional: tuple[str, ...] = ()
    beside: tuple[str, ...] | None = None
    yields: bool = False

    def fits(self, row: Row) -> bool:
        extra = set(row) - set(self.columns)
        return set(self.columns) <= set(row) and (self.beside is None or extra <= set(self.beside))

    def read(self, row: Row) -> Parsed:
        """What a row holds; a BadRow if it lacks a column that the format needs."""
        for column in self.columns:
            if column not in row:
                raise BadRow(f"{column!r} is missing")
        return self.parse(row)
