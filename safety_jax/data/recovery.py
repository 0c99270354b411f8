"""Recovery examples: the model learns a refusal that follows the beginning of a harmful answer.

After Qi et al., "Safety alignment should be made more than just a few tokens deep", arXiv
2406.05946, section 3.1, and DeRTa, Yuan et al., arXiv 2407.09121:

    prompt | the first k tokens of the harmful answer | the refusal
           | read, not learned                        | learned

A model that has only seen refusals at the beginning of an answer continues whatever was put into
its mouth. So a random share of the rows with a harmful answer begin with k tokens of it. k is
uniform between 1 and a limit (or the answer's number of tokens if that is less), as in the authors'
code. Both draws depend only on the seed and the row's text, not on its place, its file or other
rows.

The harmful answer is the one that a preference row rejects, or one for the same prompt in a file.
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
    """The beginning of a harmful answer, to stand in front of the learned one.

    Attributes:
        text: the whole harmful answer.
        fraction: a random number in [0, 1) that determines the length.
        most: the most tokens.
    """

    text: str
    fraction: float
    most: int

    def tokens(self, available: int) -> int:
        """How many of the `available` tokens of `text` to use: 1 to at most `most`."""
        return 1 + int(self.fraction * min(self.most, available))


@dataclasses.dataclass(frozen=True)
class Recovery:
    """Which rows become recovery examples.

    Attributes:
        share: the expected share of the rows with a harmful answer.
        most_tokens: the most tokens of a beginning.
        answers: harmful answers by `mixing.prompt_key`, for rows without one.
    """

    share: float
    most_tokens: int
    seed: int
    answers: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def opening(self, record: Record) -> Beginning | None:
        """The beginning in front of a record's last answer; None for none."""
        harmful = record.rejected or self.answers.get(mixing.prompt_key(record), "")
        text = thoughts.split(harmful).answer.strip()
        if not text:
            return None
        chosen, fraction = _drawn(self.seed, record)
        return Beginning(text, fraction, self.most_tokens) if chosen < self.share else None

    def describe(self, rows: Sequence[Record]) -> list[str]:
        """A line about how many rows become recovery examples, for the user.

        Raises:
            ConfigError: no row has a harmful answer.
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
    """Two random numbers in [0, 1) that depend on the seed and the record's text."""
    said = [seed, record.context, [[one.role, one.content] for one in record.messages]]
    digest = hashlib.sha256(json.dumps(said).encode()).digest()
    first, second = (int.from_bytes(digest[at : at + 6], "big") / 2**48 for at in (0, 6))
    return first, second


def read_answers(spec: str, seed: int) -> dict[str, str]:
    """The harmful answers of a source, by prompt; empty if the spec is "".

    Args:
        seed: determines the rows of `rows=N`.

    Raises:
        ConfigError, DataError: as `sources.draw` and `records.read_responses`.
    """
    if not spec:
        return {}
    source = sources.open_source(spec, "data.recovery")
    rows = sources.draw(records.read_responses(source), source, "data.recovery", seed)
    return {mixing.prompt_key(row): row.messages[-1].content for row in rows}
