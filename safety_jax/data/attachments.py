"""Refuses rows with pictures, sounds, tools, or template settings of their own, which no template
here can write. Without them, the row would ask something else.
"""

import json
from collections.abc import Mapping
from typing import Any

from safety_jax.data import values
from safety_jax.data.messages import BadRow

_SEEN = ("image", "images", "audio", "audios", "video", "videos")
_TOOLS = ("tools", "functions")
_DOCUMENTS = "documents"  # for chat templates with retrieved texts
_SETTINGS = "chat_template_kwargs"  # TRL's
COLUMNS = (*_SEEN, *_TOOLS, _DOCUMENTS)
"""Columns that are refused unless they are empty."""


def refuse(row: Mapping[str, Any]) -> None:
    """Raises a BadRow for a row with an attachment.

    Ignores columns that are empty, or that hold something else under such a name (`tools`: a word).
    """
    for column, value in row.items():
        if (column in _SEEN and value) or _holds_file(value):
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
    if row.get(_SETTINGS):
        raise BadRow(
            f"{_SETTINGS!r} changes the chat template for this row alone; set data.enable_thinking "
            f"for all rows, and add without={_SETTINGS} to the source"
        )


def _holds_file(value: Any) -> bool:
    return any(map(values.is_file, value)) if isinstance(value, list) else values.is_file(value)


def _is_list(value: Any) -> bool:
    """Whether a value is a list that is not empty, or spells one as JSON."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return False
    return isinstance(value, list) and bool(value)
