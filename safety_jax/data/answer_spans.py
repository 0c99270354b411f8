"""Edits an answer's spans before tokenization: prefixes another answer, or removes the end."""

import dataclasses
import re

from safety_jax.base.errors import DataError
from safety_jax.data import text_rules, thoughts
from safety_jax.data.control import WORD, ControlTokens, find_last
from safety_jax.data.records import Record
from safety_jax.data.recovery import Beginning
from safety_jax.data.template import Span, Template, Worded
from safety_jax.data.text_rules import AS_TEXT


def behind(
    opening: Beginning, record: Record, found: Worded, template: Template, control: ControlTokens
) -> Worded | DataError:
    """Inserts the beginning of another answer in front of a record's last one, behind its thought
    and whatever the template writes at the beginning of an answer.

    Returns a DataError if the row or its template has no place for it.
    """
    if template.rules.special_text != AS_TEXT:
        special = text_rules.special_opening(record, opening.text, control)
        if special is not None:
            return special
    first = len(found.spans)
    while first and found.spans[first - 1].trained:
        first -= 1
    code = "".join(span.code for span in found.spans[first:])
    said = thoughts.split(record.messages[-1].content).answer.strip()
    at = find_last(said, code)
    if at < 0:
        return DataError(
            f"{record.where}: the template changes the answer's text, so it has no place for a "
            "recovery example; set data.recovery_share to 0, or remove the row"
        )
    # Blanks in front of the answer move in front of the inserted text.
    blank = code[:at] if code[:at].isspace() else ""
    before = [] if blank or not at else [Span(control.decode(code[:at]), True, code[:at])]
    rest = Span(control.decode(code[at:]), True, code[at:], found.spans[-1].ended)
    spans = [
        *found.spans[:first],
        *before,
        Span(blank + opening.text, False, blank + opening.text, opening=opening),
        rest,
    ]
    return dataclasses.replace(found, spans=spans)


def without_end(spans: list[Span]) -> list[Span]:
    """The spans of a cut-off answer, without the control tokens that the template ends it with."""
    last = max(k for k, span in enumerate(spans) if span.trained)
    code = re.sub(rf"(?:{WORD.pattern}\s*)+$", "", spans[last].code)
    return [*spans[:last], dataclasses.replace(spans[last], code=code, ended=False)]
