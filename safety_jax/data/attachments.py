"""What rows bring along that no template here writes: pictures, sounds, tools, a template's own
settings. Without them a row asks something else, so it is refused, not learned as if it had none.
"""

import json
from collections.abc import Mapping
from typing import Any

from safety_jax.data import values
from safety_jax.data.messages import BadRow

_SEEN = ("image", "images", "audio", "audios", "video", "videos")
_TOOLS = ("tools", "functions")
_DOCUMENTS = "documents"  # of chat templates that answer from them
_SETTINGS = "chat_template_kwargs"  # TRL's
COLUMNS = (*_SEEN, *_TOOLS, _DOCUMENTS)
"""Columns of what is refused."""


def refuse(row: Mapping[str, Any]) -> None:
    """Raises a BadRow for a row with something beside its text that changes what it asks.

    A column that is empty, or holds something else under such a name (`tools`: a word), is passed
    over.
    """
    for column, value in row.items():
        if (column in _SEEN and value) or _holds_file(value):
            raise BadRow(
                f"{column!r} is something to see or hear, and models here read text alone; add "
                f"without={column} to the source if the text means the same without it"
            )
    for column in _TOOLS:
        if _is_list(row.get(column)):
            raise BadRow(
                f"{column!r} offers tools, which no template here writes; add without={column} to "
                "the source to go on without them"
            )
    if _is_list(row.get(_DOCUMENTS)):
        raise BadRow(
            f"{_DOCUMENTS!r} are texts to answer from, which no template here writes; add "
            f"without={_DOCUMENTS} to the source to go on without them"
        )
    if row.get(_SETTINGS):
        raise BadRow(
            f"{_SETTINGS!r} changes the chat template for this row alone; set data.enable_thinking "
            f"for all rows, and add without={_SETTINGS} to the source"
        )


def _holds_file(value: Any) -> bool:
    return any(map(values.is_file, value)) if isinstance(value, list) else values.is_file(value)


def _is_list(value: Any) -> bool:
    """Whether a value is a list with something in it, as such or spelled as JSON."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return False
    return isinstance(value, list) and bool(value)
