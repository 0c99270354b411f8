"""Applies an attack to a prompt; judges read the original prompt."""

import dataclasses
from collections.abc import Sequence

from safety_jax.base.errors import DataError
from safety_jax.data.messages import Message
from safety_jax.data.records import Record
from safety_jax.evaluation.attacks import openings
from safety_jax.evaluation.attacks.registry import Attack
from safety_jax.judges.judge import from_record

SEPARATOR = "+"  # between the name of a set and that of its attack


@dataclasses.dataclass(frozen=True, slots=True)
class Reworded:
    """What a model is asked instead of a prompt.

    Attributes:
        messages, context: as in a record.
        opening: the text whose first tokens are prefilled; "" for attacks without prefill.
    """

    messages: tuple[Message, ...]
    context: str
    opening: str


def ask(
    prompt: tuple[Message, ...], context: str, opening: str, attack: Attack, suffix: str
) -> Reworded:
    """One prompt under an attack, which rewords the last message together with the context; prefill
    leaves both as they are.

    Args:
        opening: the file's own beginning of an answer, or "".
        suffix: see `suffixes`.
    """
    if attack.prefill is not None:
        return Reworded(prompt, context, opening or openings.consent(prompt[-1].content))
    whole = from_record(Record((*prompt, Message("assistant", "")), context, "", "")).prompt
    *before, last = whole
    text = attack.word(last.content)
    if suffix:
        text = f"{text} {suffix}"
    return Reworded((*before, Message("user", text)), "", "")


def suffixes(
    attack: Attack, rows: Sequence[int | None], total: int | None, where: str
) -> list[str]:
    """The suffix of each request, or "".

    Args:
        rows: the row numbers of the prompts in their file, which has `total` rows.
        where: the set, for messages.

    Raises:
        DataError: there are several suffixes, but not one for each row of the file, or a row makes
            several prompts.
    """
    count = len(attack.suffixes)
    if count <= 1:
        return [*attack.suffixes, ""][:1] * len(rows)
    if count != total:
        raise DataError(
            f"{where}: {attack.name} holds {count} suffixes; expected one for all prompts, or "
            f"{total}, one for each row of the set's file"
        )
    known = [row for row in rows if row is not None]
    if len(known) < len(rows):
        raise DataError(
            f"{where}: {attack.name} holds {count} suffixes, but a row of the set's file makes "
            "several prompts; expected one suffix for all prompts"
        )
    return [attack.suffixes[row] for row in known]
