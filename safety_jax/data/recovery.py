"""Recovery examples: a refusal that is learned behind the beginning of a harmful answer (Qi et al.,
"Safety alignment should be made more than just a few tokens deep", arXiv 2406.05946, section 3.1;
DeRTa, Yuan et al., arXiv 2407.09121).

    prompt | the first k tokens of the harmful answer | the refusal
           | read, not learned                        | learned

A model that has only seen refusals begin an answer goes on with whatever was put into its mouth. A
share of the rows that have a harmful answer is drawn to begin with it; k is uniform between 1 and a
limit (or the answer's tokens, where it has fewer), as the authors' code has it. Both draws depend
on the seed and on what the row says, on nothing else: not on its place, its file or other rows.

The harmful answer is the one that a preference row rejects, or that a file has for the same prompt.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence

from safety_jax.base.errors import ConfigError
from safety_jax.data import mixing, records, sources, thoughts
from safety_jax.data.records import Record


@dataclasses.dataclass(frozen=True, slots=True)
class Beginning:
    """The beginning of an answer, of which some tokens stand in front of the one that is learned.

    Attributes:
        text: the whole answer that it is taken from.
        fraction: in [0, 1): drawn.
        most: tokens at most.
    """

    text: str
    fraction: float
    most: int

    def tokens(self, available: int) -> int:
        """How many of the answer's tokens stand there, 1 to `most` or to all of them."""
        return 1 + int(self.fraction * min(self.most, available))


@dataclasses.dataclass(frozen=True)
class Recovery:
    """Which rows become recovery examples.

    Attributes:
        share: of the rows with a harmful answer, in expectation.
        most_tokens: of a beginning.
        answers: harmful answers by `mixing.prompt_key`, for rows that bring none.
    """

    share: float
    most_tokens: int
    seed: int
    answers: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def opening(self, record: Record) -> Beginning | None:
        """What stands in front of a record's last answer; None for nothing."""
        harmful = record.rejected or self.answers.get(mixing.prompt_key(record), "")
        text = thoughts.split(harmful).answer.strip()
        if not text:
            return None
        chosen, fraction = _drawn(self.seed, record)
        return Beginning(text, fraction, self.most_tokens) if chosen < self.share else None

    def describe(self, rows: Sequence[Record]) -> list[str]:
        """A line on what becomes of rows, for the user.

        Raises:
            ConfigError: none of them has a harmful answer.
        """
        every = dataclasses.replace(self, share=1.0)
        able = sum(every.opening(row) is not None for row in rows)
        if not able:
            raise ConfigError(
                f"data.recovery_share is {self.share:g}, but none of {len(rows):,} rows has a "
                "harmful answer to begin with; expected rows with chosen and rejected, or answers "
                "to their prompts in data.recovery"
            )
        drawn = sum(self.opening(row) is not None for row in rows)
        return [
            f"{drawn:,} of {able:,} rows with a harmful answer begin with up to "
            f"{self.most_tokens} tokens of it, which are not learned"
        ]


def _drawn(seed: int, record: Record) -> tuple[float, float]:
    """Two numbers in [0, 1) by the seed and what a record says."""
    said = [seed, record.context, [[one.role, one.content] for one in record.messages]]
    digest = hashlib.sha256(json.dumps(said).encode()).digest()
    first, second = (int.from_bytes(digest[at : at + 6], "big") / 2**48 for at in (0, 6))
    return first, second


def read_answers(spec: str, seed: int) -> dict[str, str]:
    """Harmful answers of a source by prompt; none of "".

    Args:
        seed: draws the rows of `rows=N`.

    Raises:
        ConfigError, DataError: as `sources.draw` and `records.read_responses`.
    """
    if not spec:
        return {}
    source = sources.open_source(spec, "data.recovery")
    rows = sources.draw(records.read_responses(source), source, "data.recovery", seed)
    return {mixing.prompt_key(row): row.messages[-1].content for row in rows}
