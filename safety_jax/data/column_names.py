"""Refuses columns whose names nearly equal one that counts: a system prompt under `System`, a
verdict under `Is Safe`, Alpaca's input under `Input`. If they were ignored silently, such a row
would ask something else, or teach an answer that its label calls unsafe.
"""

import re
from collections.abc import Iterable, Mapping

from safety_jax.data import attachments, labels
from safety_jax.data.formats.row_format import SYSTEM, Format
from safety_jax.data.messages import BadRow
from safety_jax.data.text_files import Row


def refuse_nearly(rows: Iterable[Row], known: Format, *, learned: bool) -> None:
    """Raises a BadRow for a column whose name differs from one that is read only in case, spaces or
    punctuation.

    Args:
        rows: the rows of a source, with renamed columns.
        known: their format.
        learned: verdicts on the answer count, too.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    meant = {_bare(name): name for name in (*known.optional, *SYSTEM, *labels.OF_BOTH)}
    removed = {_bare(name): name for name in attachments.COLUMNS}
    if learned:
        meant |= {_bare(name): name for name in labels.VERDICTS}
    for name in names:
        ours = _found(name, meant, names) or _found(name, removed, names)
        if ours:
            renamed = f"columns={ours}:{name} or " * (ours in meant.values())
            raise BadRow(
                f"its column {name!r} is not read, and {ours!r} would be; add {renamed}"
                f"without={name} to the source"
            )


def renaming(row: Row, known: Iterable[str]) -> str:
    """The value of `columns=` that renames columns which nearly have one of these names, such as
    `prompt:Prompt,response:Response`; "" if there are none."""
    meant = {_bare(name): name for name in known}
    found = {name: ours for name in row if (ours := _found(name, meant, dict.fromkeys(row)))}
    plain = all(set(name).isdisjoint(",:&?") for name in found)
    return ",".join(f"{ours}:{name}" for name, ours in found.items()) if plain else ""


def _found(name: str, meant: Mapping[str, str], there: Mapping[str, None]) -> str | None:
    """The name that a column nearly has, unless another column has it exactly."""
    ours = meant.get(_bare(name))
    return None if ours is None or ours in there else ours


def _bare(name: str) -> str:
    """`Is Safe`, `isSafe` and `is-safe` -> `issafe`."""
    return re.sub(r"[\W_]", "", name).casefold()
