"""What is scored: the rows of the sources, and the scores that they bring along."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data import records, sources
from safety_jax.data.corpora import SHOWN_ROWS
from safety_jax.data.sources import Source
from safety_jax.data.text_files import Row
from safety_jax.judges.judge import Conversation, from_record

OPTIONS = ("asked",)  # of a source, beside those of data/source_spec.py
PROMPT, RESPONSE, TEXT = "prompt", "response", "text"


@dataclasses.dataclass(frozen=True)
class ScoreInput:
    """A response to score: where it comes from, and its whole row."""

    source: str
    conversation: Conversation
    row: Row


def read(specs: Sequence[str], key: str, seed: int) -> tuple[list[ScoreInput], dict[str, Any]]:
    """All responses of some sources, in order, and facts about each source.

    A source with `rows=N` gives N of its rows, drawn by `seed`, in the order of the file. With
    `asked=TEXT`, all texts are answers to this prompt: `texts.csv?asked=Write a comment.` They are
    in any column of answers, or in `text`.

    Raises:
        ConfigError, DataError: a source cannot be used; names file and row.
    """
    if not any(specs):
        raise ConfigError(
            f"{key} is empty; expected a file of prompts and responses (json, jsonl, csv, parquet, "
            "arrow), or another source"
        )
    items: list[ScoreInput] = []
    facts: dict[str, Any] = {}
    for spec in specs:
        source = _asked(sources.open_source(spec, key, OPTIONS), key)
        if source.name in facts:
            raise ConfigError(f"{key}: two sources are named {source.name}; add ?name= to one")
        rows = dict(zip(source.where, source.rows, strict=True))
        found = sources.draw(records.read_responses(source), source, key, seed)
        items += [ScoreInput(source.name, from_record(r), rows[r.where]) for r in found]
        facts[source.name] = {
            "spec": source.spec,
            "rows": len(found),
            "remarks": source.remarks,
            "skipped": len(source.left_out),
            "first_skipped": [dataclasses.asdict(row) for row in source.left_out[:SHOWN_ROWS]],
            "sha256": source.sha256(),
        }
    return items, facts


def describe(facts: Mapping[str, Any]) -> list[str]:
    """Lines on what was made of each source's rows, those that `bad_rows=skip` left out among
    them; see `read`."""
    lines: list[str] = []
    for name, one in facts.items():
        lines += one["remarks"]
        if one["skipped"]:
            lines.append(f"warning: {one['skipped']:,} rows of {name} cannot be used, left out:")
            lines += [f"  {row['where']}: {row['why']}" for row in one["first_skipped"]]
    return lines


def _asked(source: Source, key: str) -> Source:
    """The source with its option's prompt in every row."""
    if "asked" not in source.extra:
        return source
    if PROMPT in source.columns or any(PROMPT in row for row in source.rows):
        raise ConfigError(f"{key}: {source.spec}: rows have their own prompt; remove asked=")
    rows: list[Row] = [{**row, PROMPT: source.extra["asked"]} for row in source.rows]
    if RESPONSE not in source.columns and all(TEXT in r and RESPONSE not in r for r in rows):
        rows = [{RESPONSE if name == TEXT else name: row[name] for name in row} for row in rows]
    return dataclasses.replace(source, rows=rows)


# ---------------------------------------------------------------------------- scores in the rows


def stored(
    columns: Sequence[str], items: Sequence[ScoreInput], others: Sequence[ScoreInput]
) -> dict[str, list[float | None]]:
    """Numbers in columns of the rows; None if a row has none.

    Args:
        others: rows with further columns, matched by prompt and response.

    Raises:
        DataError: no row has the column, or a value is not a number.
    """
    matched: dict[tuple[str, str], list[ScoreInput]] = {}
    for item in others:
        matched.setdefault(_identity(item.conversation), []).append(item)
    found = {}
    for column in columns:
        values = [
            _value(column, [item, *matched.get(_identity(item.conversation), [])]) for item in items
        ]
        if all(value is None for value in values):
            known = {name for item in [*items, *others] for name in item.row}
            raise DataError(
                f"score.stored: no row has a number in the column {column!r}; columns are "
                f"{', '.join(sorted(known))}"
            )
        found[column] = values
    return found


def _identity(conversation: Conversation) -> tuple[str, str]:
    return conversation.prompt_sha256(), conversation.response_sha256()


def _value(column: str, items: Sequence[ScoreInput]) -> float | None:
    for item in items:
        value: Any = item.row.get(column)
        if value is None or value == "":
            continue
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number) or isinstance(value, bool):
            raise DataError(
                f"{item.conversation.where}: {column!r} is {value!r:.60}; expected a number, mend "
                "the row or remove the column from score.stored"
            )
        return number
    return None


Stored = Mapping[str, Sequence[float | None]]
