"""Turns rows of any known format into records: who said what, and what is to be learned.

The folder `formats/` has the formats; parsing.py finds the one of a source and checks each row. A
row that says that it is not to be learned (`"is_safe": false`, KTO's `"label": false`, `"weight":
0`) is left out and counted in `Source.left_out`, see labels.py.
"""

import dataclasses
from collections.abc import Sequence

from safety_jax.data import parsing
from safety_jax.data.formats.catalogue import FORMATS, PROMPTS, RESPONSES
from safety_jax.data.formats.row_format import Format
from safety_jax.data.formats.verdicts import DESIRABLE
from safety_jax.data.labels import Labels
from safety_jax.data.messages import Message
from safety_jax.data.sources import Skipped, Source


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """A dialogue to learn from; its last message is the assistant's, or the user's for a prompt.

    Attributes:
        messages: an optional system message, then user and assistant in turn.
        context: Alpaca's `input`, Dolly's `context`: the topic of the first user message, or "".
        source: name of the source.
        where: the row in words, for messages.
        optional: its source says bad_rows=skip, so that it is left out if it cannot be used.
        rejected: for a preference row, the rejected answer; else "".
        categories: kinds of harm, if the row names any.
    """

    messages: tuple[Message, ...]
    context: str
    source: str
    where: str
    optional: bool = False
    rejected: str = ""
    categories: tuple[str, ...] = ()

    @property
    def cut(self) -> bool:
        """Whether its last answer was cut off."""
        return self.messages[-1].cut


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one prompt, the first preferred. Fields as in `Record`, and `Labels`."""

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    context: str
    source: str
    where: str
    labels: Labels = Labels()
    optional: bool = False

    @property
    def swapped(self) -> "Pair":
        """The pair with the other answer preferred."""
        unsafe, safer = self.labels.unsafe, self.labels.chosen_is_safer
        labels = Labels(
            None if unsafe is None else (unsafe[1], unsafe[0]),
            None if safer is None else not safer,
            self.labels.categories,
        )
        return dataclasses.replace(self, chosen=self.rejected, rejected=self.chosen, labels=labels)


@dataclasses.dataclass(frozen=True, slots=True)
class Rated:
    """One answer with a rating or a safety label. Fields as in `Record`.

    Attributes:
        value: its rating, or 1 for unsafe and 0 for safe.
        categories: kinds of harm.
    """

    prompt: tuple[Message, ...]
    answer: tuple[Message, ...]
    context: str
    source: str
    where: str
    value: float
    categories: tuple[str, ...] = ()
    optional: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Labelled:
    """One answer, and whether it is one to learn or one to avoid. Fields as in `Record`."""

    prompt: tuple[Message, ...]
    answer: tuple[Message, ...]
    context: str
    source: str
    where: str
    desirable: bool
    categories: tuple[str, ...] = ()
    optional: bool = False


def read_records(source: Source, skipped: list[Skipped] | None = None) -> list[Record]:
    """Reads rows to learn an answer from; of preference rows, the chosen answer.

    A dialogue ends with the last answer that is learned.

    Args:
        skipped: as in `read_pairs`.

    Raises:
        DataError: the format is not recognised, or a row has an empty, missing or mistyped value,
            or turns in the wrong order; the message names file and row. `bad_rows=skip` leaves such
            rows out instead.
    """
    optional = source.skip_bad_rows
    return [
        Record(
            parsing.learned(parsed), parsed.context, source.name, where, optional,
            rejected=parsing.rejected(parsed), categories=parsed.labels.categories,
        )
        for where, parsed in parsing.parse(
            source, FORMATS, parsing.needs_answer, skipped, parsing.refuse_answer
        )
    ]  # fmt: skip


def read_pairs(source: Source, skipped: list[Skipped] | None = None) -> list[Pair]:
    """Reads rows with a preferred and a rejected answer.

    Args:
        skipped: receives the rows that are left out: those that are not to be learned, and unusable
            ones with `bad_rows=skip`.

    Raises:
        DataError: as `read_records`; also a row whose two answers are equal.
    """
    return [
        Pair(
            parsed.prompt,
            parsed.chosen,
            parsed.rejected,
            parsed.context,
            source.name,
            where,
            parsed.labels,
            source.skip_bad_rows,
        )
        for where, parsed in parsing.parse(
            source, FORMATS, parsing.needs_two_answers, skipped, parsing.refuse_unpreferred
        )
    ]


def read_harmful(source: Source, skipped: list[Skipped] | None = None) -> list[Record]:
    """Reads harmful answers, to see what training on them undoes: of a preference row, the one that
    is labelled unsafe, or the rejected one if there are no labels; of any other row, its answer,
    whatever the row says about it.

    Args:
        skipped: as in `read_pairs`.

    Raises:
        DataError: as `read_records`.
    """
    optional = source.skip_bad_rows
    return [
        Record(
            parsing.unlearned(parsed.prompt) + parsing.harmful(parsed), parsed.context,
            source.name, where, optional,
        )
        for where, parsed in parsing.parse(
            source, FORMATS, parsing.needs_answer, skipped, parsing.refuse_harmless
        )
    ]  # fmt: skip


def read_responses(source: Source) -> list[Record]:
    """Reads rows to judge: prompts with a model's response, which may be empty.

    Raises:
        DataError: as `read_records`.
    """
    optional = source.skip_bad_rows
    return [
        Record(parsed.prompt + parsed.chosen, parsed.context, source.name, where, optional)
        for where, parsed in parsing.parse(source, RESPONSES, parsing.needs_answer)
    ]


def read_rated(
    source: Source, formats: Sequence[Format], skipped: list[Skipped] | None = None
) -> list[Rated]:
    """Reads answers with a rating or a safety label; a pair with two labels gives both answers.

    Args:
        formats: `verdicts.RATINGS` or `verdicts.LABELS`.
        skipped: as in `read_pairs`.

    Raises:
        DataError: as `read_records`; also a row without a rating or label.
    """
    found = []
    for where, parsed in parsing.parse(
        source, formats, parsing.needs_value, skipped, parsing.refuse_weightless
    ):
        values = parsed.labels.unsafe or (parsed.labels.value,)
        for answer, value in zip((parsed.chosen, parsed.rejected), values, strict=False):
            found.append(
                Rated(
                    parsed.prompt,
                    answer,
                    parsed.context,
                    source.name,
                    where,
                    float(value or 0.0),
                    parsed.labels.categories,
                    source.skip_bad_rows,
                )
            )
    return found


def read_labelled(source: Source, skipped: list[Skipped] | None = None) -> list[Labelled]:
    """Reads answers that are desirable or not, for KTO; `verdicts.DESIRABLE` has their formats.

    A pair gives both answers: the rejected one is undesirable, and so is a chosen one that the row
    calls unsafe.

    Args:
        skipped: as in `read_pairs`.

    Raises:
        DataError: as `read_records`; also a row without a label.
    """
    found = []
    for where, parsed in parsing.parse(
        source, DESIRABLE, parsing.needs_answers, skipped, parsing.refuse_unpreferred
    ):
        labels = parsed.labels
        if not parsed.rejected:
            sides = [(parsed.chosen, bool(labels.desirable))]
        else:
            unsafe, _ = labels.unsafe or (False, True)
            sides = [(parsed.chosen, not unsafe), (parsed.rejected, False)]
        for answer, desirable in sides:
            found.append(
                Labelled(
                    parsed.prompt,
                    answer,
                    parsed.context,
                    source.name,
                    where,
                    desirable,
                    labels.categories,
                    source.skip_bad_rows,
                )
            )
    return found


def read_prompts(source: Source) -> list[Record]:
    """Reads prompts to generate from, without answers that may follow them.

    Raises:
        DataError: as `read_records`.
    """
    optional = source.skip_bad_rows
    return [
        Record(parsed.prompt, parsed.context, source.name, where, optional)
        for where, parsed in parsing.parse(source, PROMPTS, parsing.needs_prompt)
    ]
