"""Splits a source by its rows' prompts, to test judges on prompts that they were not trained on.

    verdicts.jsonl?prompts=-1/2     to train a judge: every prompt except those of the first half
    verdicts.jsonl?prompts=1/2      to test it: the first half

A hash of its words alone determines the part that a prompt is in, so all answers to it are in the
same part, in any file and any order.
"""

import dataclasses
import hashlib
import re
from collections.abc import Sequence

from safety_jax.data.messages import Message

MOST_PARTS = 100


@dataclasses.dataclass(frozen=True, slots=True)
class Fold:
    """One part of all prompts, or all except that part.

    Attributes:
        number: the number of the part, from 1.
        parts: the number of parts.
        inside: True for the part itself, False for all others.
    """

    number: int
    parts: int
    inside: bool

    def __str__(self) -> str:
        return f"{'' if self.inside else '-'}{self.number}/{self.parts}"

    def holds(self, prompt: Sequence[Message], context: str = "") -> bool:
        """Whether rows with this prompt belong to the fold."""
        return (part_of(prompt, context, parts=self.parts) == self.number) == self.inside

    @classmethod
    def parse(cls, text: str) -> "Fold":
        """`1/5`, or `-1/5` for the four others; a ValueError for anything else."""
        found = re.fullmatch(r"(-?)([0-9]{1,3})/([0-9]{1,3})", text)
        if found is None:
            raise ValueError
        number, parts = int(found[2]), int(found[3])
        if not (1 <= number <= parts and 2 <= parts <= MOST_PARTS):
            raise ValueError
        return cls(number, parts, inside=not found[1])


def part_of(prompt: Sequence[Message], context: str = "", *, parts: int) -> int:
    """The part that a prompt is in, from 1; regardless of case and spacing.

    Args:
        prompt: all messages before the last answer.
        context: Alpaca's `input`, which counts as part of the first user message, as for judges.
    """
    texts = [message.content for message in prompt]
    if context:
        first = next(i for i, message in enumerate(prompt) if message.role == "user")
        texts[first] = f"{texts[first]}\n\n{context}"
    words = " ".join("\n".join(texts).casefold().split())
    digest = hashlib.sha256(words.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % parts + 1
