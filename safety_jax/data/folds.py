"""Parts of a source by what its rows ask: for judges that are tried on prompts they did not read.

    verdicts.jsonl?prompts=-1/2     to learn from: every prompt but those of the first half
    verdicts.jsonl?prompts=1/2      to judge: the first half

Which part a prompt is in is a hash of its words alone. All answers to it, in any file and any
order, are in one part, and what a judge is asked can be told from what it has read.
"""

import dataclasses
import hashlib
import re
from collections.abc import Sequence

from safety_jax.data.messages import Message

MOST_PARTS = 100


@dataclasses.dataclass(frozen=True, slots=True)
class Fold:
    """One part of all prompts, or all but that part.

    Attributes:
        number: of the part, from 1.
        parts: that there are.
        inside: the part itself.
    """

    number: int
    parts: int
    inside: bool

    def __str__(self) -> str:
        return f"{'' if self.inside else '-'}{self.number}/{self.parts}"

    def holds(self, prompt: Sequence[Message], context: str = "") -> bool:
        """Whether rows that ask this belong here."""
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
        prompt: up to the last answer, which is no part of it.
        context: Alpaca's `input`; where a judge reads it, behind the first user message.
    """
    texts = [message.content for message in prompt]
    if context:
        first = next(i for i, message in enumerate(prompt) if message.role == "user")
        texts[first] = f"{texts[first]}\n\n{context}"
    words = " ".join("\n".join(texts).casefold().split())
    digest = hashlib.sha256(words.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % parts + 1
