"""Refuses rows with something that is not read: pictures, sounds, tools, or template settings of
their own, which no template here can write; earlier turns and texts to work on, for which the row's
format has no place. Without them, the row would ask something else.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from safety_jax.data import values
from safety_jax.data.formats.row_format import Format
from safety_jax.data.messages import BadRow, is_blank, says_no_input

_SEEN = ("image", "images", "audio", "audios", "video", "videos")
_TOOLS = ("tools", "functions")
_DOCUMENTS = "documents"  # for chat templates with retrieved texts
_EARLIER = ("history", "chat_history")  # LLaMA-Factory's
_CONTEXTS = ("context", "input", "inputs")
_SETTINGS = "chat_template_kwargs"  # TRL's
_EMPTY = ("[]", "{}", "null")  # as a cell of a CSV file spells that there is none
# The beginning of a list, not an empty one, as Python spells it.
_SPELLED = re.compile(r"""\s*\[\s*[\[{('"]""")
COLUMNS = (*_SEEN, *_TOOLS, _DOCUMENTS)
"""Columns that are refused unless they are empty."""


def refuse(row: Mapping[str, Any]) -> None:
    """Raises a BadRow for a row with an attachment.

    Ignores columns that are empty, or that hold something else under such a name (`tools`: a word).
    """
    for column, value in row.items():
        if (column in _SEEN and value and value not in _EMPTY) or _holds_file(value):
            raise BadRow(
                f"{column!r} holds pictures or sounds, but models here read text only; add "
                f"without={column} to the source if the text means the same without it"
            )
    for column in _TOOLS:
        if _is_list(row.get(column)):
            raise BadRow(
                f"{column!r} offers tools, which no template here writes; add without={column} to "
                "the source to ignore them"
            )
    if _is_list(row.get(_DOCUMENTS)):
        raise BadRow(
            f"{_DOCUMENTS!r} are texts to answer from, which no template here writes; add "
            f"without={_DOCUMENTS} to the source to ignore them"
        )
    for column in _EARLIER:
        if _is_list(row.get(column)):
            raise BadRow(
                f"{column!r} holds earlier turns, which are read in messages alone; write the row "
                f"as messages, or add without={column} to the source to go on without them"
            )
    if row.get(_SETTINGS):
        raise BadRow(
            f"{_SETTINGS!r} changes the chat template for this row alone; set data.enable_thinking "
            f"for all rows, and add without={_SETTINGS} to the source"
        )


def refuse_unread_context(row: Mapping[str, Any], known: Format) -> None:
    """Raises a BadRow for a text to work on, under a name that the row's format does not read."""
    read = {*known.columns, *known.optional}
    for column in _CONTEXTS:
        value = row.get(column)
        if column in read or not isinstance(value, str) or is_blank(value) or says_no_input(value):
            continue
        own = next((name for name in known.optional if name in _CONTEXTS), None)
        if own is None and "prompt" not in row:
            own = "prompt"
        renamed = (
            f"add columns={own}:{column} to the source to read it"
            if own
            else ("put it into the prompt")
        )
        raise BadRow(
            f"{column!r} is a text that the format {known.name} does not read; {renamed}, or add "
            f"without={column} to go on without it"
        )


def _holds_file(value: Any) -> bool:
    return any(map(values.is_file, value)) if isinstance(value, list) else values.is_file(value)


def _is_list(value: Any) -> bool:
    """Whether a value is a list that is not empty, or spells one, as JSON or, in a CSV file that
    pandas wrote, as Python."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return _SPELLED.match(value) is not None
    return isinstance(value, list) and bool(value)
