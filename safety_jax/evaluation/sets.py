"""What is asked: evaluation sets and their items."""

import dataclasses

from safety_jax.data.formats import Message

UNSAFE, SAFE, CHOICE, REFERENCE = "unsafe", "safe", "choice", "reference"
KINDS = (UNSAFE, SAFE, CHOICE, REFERENCE)


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """One prompt of a set.

    Attributes:
        id: unique in its set; the file's own where it has one, else the row's number from 0.
        prompt: an optional system message, then user and assistant in turn; the last is the user's.
        where: file and row, for messages.
        context: what the prompt is about, Alpaca's `input`; "" where the file has none.
        category: a tag, type or topic of the file; "" where it has none.
        reference: an answer given in the file; of multiple-choice items the letter of the right
            one; "" where there is none.
        twin: the id of the item that it is the counterpart of, in the set `Set.twin`; or "".
        choices: letters of the answers, of multiple-choice items.
    """

    id: str
    prompt: tuple[Message, ...]
    where: str
    context: str = ""
    category: str = ""
    reference: str = ""
    twin: str = ""
    choices: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Set:
    """Prompts that are measured together.

    Attributes:
        name: as tables show it.
        kind: one of KINDS: prompts that should be refused or answered safely; prompts that should
            be answered; multiple choice; prompts with a reference answer.
        items: in the order of the file.
        source: the spec it was read from.
        sha256: of the file; None where the source is no local file.
        licence: one line.
        twin: the set whose items its own are twins of; "" where there is none.
    """

    name: str
    kind: str
    items: tuple[Item, ...]
    source: str
    sha256: str | None
    licence: str
    twin: str = ""
