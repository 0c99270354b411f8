"""All row formats, by what a row is read for, and how the format of a row is recognised.

`verdicts.py` has the formats of judged answers. docs/data.md lists the formats for users.
"""

from collections.abc import Sequence

from safety_jax.data.formats import comparisons, dialogues, instructions, preferences
from safety_jax.data.formats.row_format import Format
from safety_jax.data.text_files import Row

PAIRS = (*preferences.PAIRS, *comparisons.PAIRS)
"""Rows with two answers, one of which is preferred."""
FORMATS = (*instructions.ANSWERS, *dialogues.ANSWERS, *PAIRS)
"""Rows with an answer, or two, to learn from."""
PROMPTS = (
    *instructions.PROMPTS,
    *dialogues.PROMPTS,
    *preferences.PROMPTS,
    *comparisons.PROMPTS,
)
"""Rows to generate from."""
RESPONSES = (*instructions.RESPONSES, *dialogues.RESPONSES)
"""Rows with a model's answer, which is to be judged and may be empty."""


def fitting(row: Row, formats: Sequence[Format]) -> list[Format]:
    """The formats whose columns a row has; one if the row is of a known format.

    A format that yields does not count beside others, nor does one whose columns are a part of
    another's: `prompt, chosen, rejected` also has the columns `chosen, rejected`.
    """
    matching = [known for known in formats if known.fits(row)]
    if not all(known.yields for known in matching):
        matching = [known for known in matching if not known.yields]
    return [
        known
        for known in matching
        if not any(set(known.columns) < set(other.columns) for other in matching)
    ]
