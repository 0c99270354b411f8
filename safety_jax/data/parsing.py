"""Finds the format of a source's rows, reads and checks each row, and says why one is left out.

What a row must have depends on its use: `records.py` picks one of the checks `needs_*`, and one of
`refuse_*`, which decide that a row is not to be learned.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from safety_jax.base import terminal
from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data import attachments, column_names, forms, threads
from safety_jax.data import labels as labelling
from safety_jax.data.formats import catalogue
from safety_jax.data.formats.row_format import SYSTEM, Format, Parsed
from safety_jax.data.messages import (
    BadRow,
    Message,
    UnwantedRow,
    is_blank,
    same_words,
    says_no_input,
    text_of,
)
from safety_jax.data.other_tools import FINISHES
from safety_jax.data.remarks import EMPTY_CELL, Remarks
from safety_jax.data.sources import Skipped, Source
from safety_jax.data.text_files import Row

MOST_CHARACTERS = 2_000_000
"""The most characters in a row: no model's context is as long, and tokenizing takes seconds."""
MOST_TURNS = 1_000
WITHHELD = "REDACTED"
"""The text in Aegis 2.0 (Ghosh et al., arXiv 2501.09004) in place of prompts that only another data
set may publish."""
CUT_OFF = "length"
"""The `finish_reason` of an answer that was cut off at a limit."""

# Columns that say how an answer ended: OpenAI's, this project's, Anthropic's.
_FINISH = ("finish_reason", "finish", "stop_reason")

_SKIP = ", or add bad_rows=skip to the source to leave such rows out"

Refusal = Callable[[Row, Format, Parsed], None]


def parse(
    source: Source,
    formats: Sequence[Format],
    check: Callable[[Parsed], None],
    skipped: list[Skipped] | None = None,
    refuse: Refusal = lambda row, known, parsed: None,
) -> Iterator[tuple[str, Parsed]]:
    """Yields the place and the content of each row that can be used.

    Args:
        check: raises a BadRow for a row that lacks something.
        skipped: receives the rows that are left out.
        refuse: raises an UnwantedRow for a row that is not to be learned.
    """
    check_names(source, [column for one in formats for column in one.columns])
    placed = [
        (w, renamed(r, source.columns)) for w, r in zip(source.where, source.rows, strict=True)
    ]
    if threads.fits(placed[0][1]):
        placed = threads.dialogues([row for _, row in placed], [where for where, _ in placed])
    if not placed:
        raise DataError(f"{source.spec}: no message without a parent; expected roots of trees")
    known = _format(source, formats, *placed[0])
    try:
        column_names.refuse_nearly(
            (row for _, row in placed), known, learned=refuse is refuse_answer
        )
    except BadRow as bad:
        raise DataError(f"{source.spec}: {bad}") from bad
    left_out: list[Skipped] = []
    told = Remarks()
    for where, row in placed:
        try:
            attachments.refuse(row)
            attachments.refuse_unread_context(row, known)
            parsed = _with_kind(_with_ends(_with_system(known.read(row), row), row), row)
            if says_no_input(parsed.context):
                told.no_input += 1
                parsed = dataclasses.replace(parsed, context="")
            opening = parsed.prompt[0] if parsed.prompt else None
            if opening and opening.role == "system" and opening.content.strip() == EMPTY_CELL:
                told.no_system += 1
                parsed = dataclasses.replace(parsed, prompt=parsed.prompt[1:])
            refuse(row, known, parsed)
            _check_size(parsed)
            _check_turns(parsed.prompt + parsed.chosen)
            check(parsed)
            if source.fold is not None and not source.fold.holds(parsed.prompt, parsed.context):
                continue
            parsed = _in_form(parsed, source.form)
        except BadRow as bad:
            unwanted = isinstance(bad, UnwantedRow)
            if not unwanted and not source.skip_bad_rows:
                advice = "" if source.needs_all else _SKIP
                raise DataError(
                    f"{where}: {bad} (read as {known.name}); mend the row{advice}"
                ) from bad
            left_out.append(Skipped(where, terminal.clean(str(bad)), unwanted))
            continue
        told.count(parsed)
        yield where, parsed
    source.left_out.extend(left_out)
    source.remarks[:] = told.lines(source.name)
    if skipped is not None:
        skipped.extend(left_out)
    if not told.rows and not left_out:
        raise DataError(f"{source.spec}: no row has a prompt in this part of all prompts")
    if not told.rows:
        first = left_out[0]
        raise DataError(
            f"{source.spec}: no usable row of {len(placed)}; expected at least one ({first.where}: "
            f"{first.why})"
        )


def check_names(source: Source, read: Iterable[str]) -> None:
    """Raises a ConfigError if `columns=` maps to a column that is not read.

    Args:
        read: the columns of formats; those that any row may have beside them count, too.
    """
    known = {*BESIDE, *read}
    for ours, theirs in source.columns.items():
        if ours not in known:
            raise ConfigError(
                f"{source.spec}: columns={ours}:{theirs}: nothing reads a column {ours!r}; "
                f"expected one of {', '.join(sorted(known))}"
            )


def renamed(row: Row, columns: Mapping[str, str]) -> Row:
    """Applies the column map ours -> theirs. A mapped column loses its own name, and a column of
    the file that already has our name is dropped."""
    if not columns:
        return row
    named = {*columns, *columns.values()}
    kept = {name: value for name, value in row.items() if name not in named}
    return kept | {ours: row[theirs] for ours, theirs in columns.items() if theirs in row}


def _format(source: Source, formats: Sequence[Format], where: str, row: Row) -> Format:
    """The format that `format=` names, or the one that fits the first row."""
    names = ", ".join(f"{known.name} ({', '.join(known.columns)})" for known in formats)
    columns = [name if name.strip() == name else repr(name) for name in row]
    found = f"{where}: columns found: {', '.join(columns) or '(none)'}"
    if source.format is not None:
        for known in formats:
            if known.name == source.format:
                return known
        raise DataError(f"{source.spec}: unknown format {source.format!r}; known are {names}")
    matching = catalogue.fitting(row, formats)
    if not matching:
        nearly = column_names.renaming(row, [name for one in formats for name in one.columns])
        advice = f"add columns={nearly or 'ours:theirs,...'} to the source to rename them"
        raise DataError(f"{found}; {advice}; expected those of one known format: {names}")
    if len(matching) > 1:
        fitting = ", ".join(known.name for known in matching)
        raise DataError(f"{found}; they fit {fitting}: add format=NAME to the source to pick one")
    return matching[0]


def _with_ends(parsed: Parsed, row: Row) -> Parsed:
    """Marks answers that were cut off, according to the row."""
    return dataclasses.replace(
        parsed,
        chosen=_ended(parsed.chosen, row, *_FINISH, "chosen_finish_reason"),
        rejected=_ended(parsed.rejected, row, "rejected_finish_reason"),
    )


def _ended(turns: tuple[Message, ...], row: Row, *columns: str) -> tuple[Message, ...]:
    reasons = [row.get(column) for column in columns]
    if turns and any(
        isinstance(why, str) and FINISHES.get(why.lower()) == CUT_OFF for why in reasons
    ):
        return (*turns[:-1], dataclasses.replace(turns[-1], cut=True))
    return turns


def _in_form(parsed: Parsed, form: str) -> Parsed:
    """The row with its request in the source's form, if it asks for one.

    Raises:
        UnwantedRow: the request has no such form, or stands in a conversation.
    """
    if not form:
        return parsed
    *before, asked = parsed.prompt
    alone = not parsed.context and all(message.role == "system" for message in before)
    text = forms.rewrite(asked.content, form) if alone else None
    if text is None:
        raise UnwantedRow(f"its request has no form as {forms.WITH_ARTICLE[form]}")
    request = dataclasses.replace(asked, content=text)
    return dataclasses.replace(parsed, prompt=(*before, request))


def _with_kind(parsed: Parsed, row: Row) -> Parsed:
    """Adds the kind of harm in the column `category`, if the row's format did not read it."""
    kind = row.get("category")
    if parsed.labels.categories or not isinstance(kind, str) or not kind:
        return parsed
    kinds = labelling.categories_of(row, "category")
    labels = dataclasses.replace(parsed.labels, categories=kinds)
    return dataclasses.replace(parsed, labels=labels)


# Columns that rows may have beside those of their format.
BESIDE = (
    *SYSTEM, *labelling.VERDICTS, *("input", "inputs", "context", "category", "categories"),
    *(*_FINISH, "chosen_finish_reason", "rejected_finish_reason"),
    *labelling.OF_BOTH, *("rating", "transcript", "id", "openai_moderation"),
)  # fmt: skip


# ---------------------------------------------------------------------------- not to be learned


def refuse_answer(row: Row, known: Format, parsed: Parsed) -> None:
    labelling.refuse_unwanted(row, known.columns, parsed.labels)
    if parsed.chosen and not learned(parsed):
        raise UnwantedRow("the weight of every answer is 0")


def refuse_weightless(row: Row, known: Format, parsed: Parsed) -> None:
    labelling.refuse_weightless(row, known.columns)
    if not all(message.learned for message in parsed.chosen + parsed.rejected):
        raise UnwantedRow("the weight of an answer is 0")


def refuse_unpreferred(row: Row, known: Format, parsed: Parsed) -> None:
    """Refuses pairs whose own scores, as in UltraFeedback, are equal or prefer the rejected
    answer."""
    refuse_weightless(row, known, parsed)
    if parsed.rejected:
        labelling.refuse_unpreferred(row)


def refuse_harmless(row: Row, known: Format, parsed: Parsed) -> None:
    if parsed.chosen and not harmful(parsed):
        raise UnwantedRow("neither of its answers is unsafe")


def harmful(parsed: Parsed) -> tuple[Message, ...]:
    """The harmful answer of a row; empty if neither of two is unsafe."""
    if not parsed.rejected:
        return parsed.chosen
    chosen_unsafe, rejected_unsafe = parsed.labels.unsafe or (False, True)
    return parsed.rejected if rejected_unsafe else parsed.chosen if chosen_unsafe else ()


def rejected(parsed: Parsed) -> str:
    """The answer that a row rejects; "" unless both answers have one turn."""
    single = len(parsed.chosen) == len(parsed.rejected) == 1
    return parsed.rejected[0].content if single else ""


def unlearned(turns: tuple[Message, ...]) -> tuple[Message, ...]:
    return tuple(dataclasses.replace(message, learned=False) for message in turns)


def learned(parsed: Parsed) -> tuple[Message, ...]:
    """The dialogue up to the last answer that is learned; empty if none is."""
    messages = parsed.prompt + parsed.chosen
    last = [i for i, one in enumerate(messages) if one.role == "assistant" and one.learned]
    return messages[: last[-1] + 1] if last else ()


# ---------------------------------------------------------------------------- checks of a row


def _check_size(parsed: Parsed) -> None:
    messages = parsed.prompt + parsed.chosen + parsed.rejected
    size = len(parsed.context) + sum(len(message.content) for message in messages)
    if size > MOST_CHARACTERS:
        raise BadRow(f"has {size:,} characters; expected at most {MOST_CHARACTERS:,}")
    if len(messages) > MOST_TURNS:
        raise BadRow(f"has {len(messages):,} turns; expected at most {MOST_TURNS:,}")


def needs_prompt(parsed: Parsed) -> None:
    if not parsed.prompt or parsed.prompt[-1].role != "user":
        raise BadRow("no user message at the end of the prompt")
    if parsed.prompt[-1].content == WITHHELD:
        raise UnwantedRow(f"its prompt is withheld ({WITHHELD!r})")


def needs_answer(parsed: Parsed) -> None:
    needs_prompt(parsed)
    if not parsed.chosen:
        raise BadRow("no answer to learn")
    _ends_with_answer(parsed.chosen)


def needs_value(parsed: Parsed) -> None:
    needs_answer(parsed)
    if parsed.rejected and parsed.labels.unsafe is None:
        raise BadRow("does not say which answers are unsafe; add chosen_unsafe and rejected_unsafe")


def needs_answers(parsed: Parsed) -> None:
    if parsed.rejected:
        needs_two_answers(parsed)
    else:
        needs_answer(parsed)


def needs_two_answers(parsed: Parsed) -> None:
    needs_answer(parsed)
    if not parsed.rejected:
        raise BadRow("no rejected answer; preference rows need one")
    _ends_with_answer(parsed.rejected)
    _check_turns(parsed.prompt + parsed.rejected)
    if same_words(parsed.chosen, parsed.rejected):
        raise BadRow("chosen and rejected are equal, so nothing is preferred")


def _ends_with_answer(turns: Sequence[Message]) -> None:
    if turns[-1].role != "assistant":
        raise BadRow(f"an answer ends with the {turns[-1].role}; expected the assistant")


def _check_turns(messages: Sequence[Message]) -> None:
    turns = [message.role for message in messages]
    if turns[:1] == ["system"]:
        turns = turns[1:]
    for i, role in enumerate(turns):
        expected = ("user", "assistant")[i % 2]
        if role != expected:
            raise BadRow(f"turn {i} is the {role}'s; expected the {expected}'s, turns alternate")


def _with_system(parsed: Parsed, row: Row) -> Parsed:
    """Adds the system message of a column, unless the dialogue begins with its own."""
    given = [name for name in SYSTEM if row.get(name) and not is_blank(row[name])]
    if not given or parsed.prompt[:1] and parsed.prompt[0].role == "system":
        return parsed
    texts = [text_of(row, name) for name in given]
    if any(text.split() != texts[0].split() for text in texts):
        raise BadRow(
            f"has different system messages in {' and '.join(map(repr, given))}; expected one, add "
            f"without={given[-1]} to the source"
        )
    return dataclasses.replace(parsed, prompt=(Message("system", texts[0]), *parsed.prompt))
