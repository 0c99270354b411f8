"""Existing answers: folders and files of earlier runs, of the papers, and of other tools.

    runs/report/responses/sit            written by a run of this project: SET.jsonl
    safety_100                           a folder of files named after the sets
    safety_100/responses_cm_I-CoNa.json  one file
    answers.csv?set=I-CoNa&columns=prompt:question,response:said
    harmbench/completions.json?set=HarmBench-standard      and others of data/other_tools.py

A file belongs to the set whose name its own name contains, the longest such name, unless `set=` or
a column `set` says otherwise. Several files for a set must hold the same answers; their other
columns are merged, because the papers keep the scores of each judge in a separate file.
"""

import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from safety_jax.base import files
from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data import parsing, readers, records, source_spec, sources
from safety_jax.data.other_tools import FINISHES
from safety_jax.data.sources import Source
from safety_jax.data.text_files import Row
from safety_jax.evaluation.answers.matching import MATCHES, Found, key_of, pair
from safety_jax.evaluation.answers.responses import Response, characters
from safety_jax.evaluation.sets.catalogue import CATALOGUE, GROUPS
from safety_jax.evaluation.sets.items import Set
from safety_jax.judges.judge import from_record

OPTIONS = ("set",)  # of a source, in addition to those of data/source_spec.py
# Recognised columns; the first that a file has is used. `columns=` renames others. Those of answers
# are names that say who answered, and others, of which a file may have only one.
PROMPTS = (
    "prompt", "instruction", "instructions", "inference_prompt", "question", "goal",
    "forbidden_prompt", "user_input",
)  # fmt: skip
CONTEXTS = ("context", "input", "inputs")
MODELS = (
    "model_responses", "model_response", "generated_response", "model_output", "generation",
)  # fmt: skip
ANSWERS = (
    *MODELS, "response", "responses", "completion", "completions", "answer", "output", "outputs",
)  # fmt: skip
TURNS = ("messages", "conversations")
HASH = "prompt_sha256"
_OWN = ("set", "id", HASH, "finish")
_READ = (*PROMPTS, *CONTEXTS, *ANSWERS, *TURNS, *_OWN, "system", "finish_reason")
_SAID = ("response", "thought", "answer")  # of a line that a run of this project wrote


def read_existing(
    spec: str, sets: Sequence[Set], key: str, match: str
) -> dict[str, list[Response]]:
    """Answers by set, in the order of its items, for the sets that have any.

    Args:
        spec: a folder, a file, or another source; see the top of this file.
        key: the config key that held it, for messages.
        match: see `matching.pair`.

    Raises:
        ConfigError: no such folder, no file in it for any of the sets, or an option that does not
            apply to answers.
        DataError: a file cannot be read, or its prompts are not those of its set.
    """
    if match not in MATCHES:
        raise ConfigError(f"evaluate.match is {match!r}; expected one of {', '.join(MATCHES)}")
    merged: dict[str, list[Response]] = {}
    for place, named in _places(spec, sets, key):
        source = sources.open_source(place, key, OPTIONS)
        drawn = source.take is not None or source.weight is not None or source.fold is not None
        if drawn or source.form or source.times > 1:
            raise ConfigError(
                f"{key}: {source.spec}: rows=, weight=, times=, form= and prompts= do not apply to "
                "answers, which must be those to the prompts of their set; remove it here"
            )
        for asked, rows in _by_set(source, named, sets, key):
            hashed, found = _found(source, rows)
            file = source.path.name if source.path else source.spec
            try:
                paired = pair(asked, found, match, file, hashed)
            except DataError as error:
                raise DataError(f"{error}{_skipped(source)}") from error
            responses = [
                Response(item.id, one.answer, one.finish, one.columns, one.where)
                for item, one in zip(asked.items, paired, strict=True)
            ]
            earlier = merged.get(asked.name)
            merged[asked.name] = _merged(earlier, responses, asked) if earlier else responses
    return {asked.name: merged[asked.name] for asked in sets if asked.name in merged}


def _skipped(source: Source) -> str:
    """What `bad_rows=skip` has to do with answers that are missing."""
    if not source.left_out:
        return ""
    first = source.left_out[0]
    return (
        f" ({len(source.left_out)} rows were left out by bad_rows=skip, the first of them "
        f"{first.where}: {first.why})"
    )


def existing_files(spec: str, sets: Sequence[Set], key: str) -> dict[str, str]:
    """The local files that `read_existing` reads, as FOLDER/FILE, and the SHA-256 of each."""
    found = {}
    for place, _ in _places(spec, sets, key):
        path = files.expand(source_spec.split(place)[0])
        if path.is_file():
            name = f"{path.resolve().parent.name}/{path.name}"
            found[name] = files.sha256(path)
    return found


# ---------------------------------------------------------------------------- which file, which set


def _places(spec: str, sets: Sequence[Set], key: str) -> list[tuple[str, list[Set]]]:
    """Specs of files, with the sets that their names contain."""
    location, query = source_spec.split(spec)
    extra = source_spec.parse(spec, key, OPTIONS).extra
    path = files.expand(location)
    if not path.is_dir():
        name = location.rstrip("/").rpartition("/")[2]
        named = _called(extra["set"], sets, key) if "set" in extra else _contained(name, sets)
        return [(spec, named)]
    if "set" in extra:
        raise ConfigError(f"{key}: {spec}: set= is an option of files, but this is a folder")
    names = sorted(entry.name for entry in path.iterdir() if entry.is_file())
    known = [name for name in names if name.lower().endswith(readers.COLUMN_ENDINGS)]
    # Runs percent-encode characters that a file name cannot have.
    found = [(f"{path / name}?{query}", _contained(unquote(name), sets)) for name in known]
    found = [(place, named) for place, named in found if named]
    if not found:
        inner = path / "responses"
        hint = f"; give one of the folders in {inner}" if inner.is_dir() else ""
        raise ConfigError(
            f"{key}: {location}: no file is named after any of {_names(sets)}; it holds "
            f"{', '.join(known[:5]) or 'no data file'}{hint}"
        )
    return found


def _contained(name: str, sets: Sequence[Set]) -> list[Set]:
    """The sets of the longest name, of a set or a group, that a file's name contains."""
    names = {asked.name for asked in sets} | set(CATALOGUE) | set(GROUPS)
    found = [known for known in names if _pattern(known).search(name)]
    return _members(max(found, key=len), sets) if found else []


def _pattern(name: str) -> re.Pattern[str]:
    """`I-CoNa` as a separate word, its parts joined in any way, and no attack after it."""
    parts = [re.escape(part) for part in re.split(r"[-_ .]+", name)]
    return re.compile(rf"(?<![a-z0-9]){'[-_ .]?'.join(parts)}(?![a-z0-9+])", re.IGNORECASE)


def _members(name: str, sets: Sequence[Set]) -> list[Set]:
    members = {name, *GROUPS.get(name, ())}
    return [asked for asked in sets if asked.name in members]


def _called(name: str, sets: Sequence[Set], key: str) -> list[Set]:
    if not (found := _members(name, sets)):
        raise ConfigError(
            f"{key}: set={name} is not among the sets; expected one of {_names(sets)}"
        )
    return found


def _names(sets: Sequence[Set]) -> str:
    return ", ".join(asked.name for asked in sets)


def _by_set(
    source: Source, named: Sequence[Set], sets: Sequence[Set], key: str
) -> list[tuple[Set, list[int]]]:
    """The rows of a file by set: all of them, unless a column `set` assigns them."""
    everything = list(range(len(source.rows)))
    if named and ("set" in source.extra or "set" not in source.rows[0]):
        return [(asked, everything) for asked in named]
    if "set" in source.rows[0]:
        own: dict[str, list[int]] = {}
        for i, row in enumerate(source.rows):
            own.setdefault(str(row.get("set")), []).append(i)
        found = [(asked, own[asked.name]) for asked in sets if asked.name in own]
        if found:
            return found
        raise DataError(
            f"{source.spec}: its column 'set' holds {', '.join(list(own)[:5])}; expected one of "
            f"{_names(sets)}"
        )
    if len(sets) == 1:
        return [(sets[0], everything)]
    raise ConfigError(
        f"{key}: {source.spec}: its name contains none of the sets; add ?set= one of {_names(sets)}"
    )


# ---------------------------------------------------------------------------- rows


def _found(source: Source, numbers: Sequence[int]) -> tuple[bool, list[Found]]:
    """Whether prompts are given as hashes; and the rows as answers."""
    _check_names(source)
    rows = [parsing.renamed(source.rows[i], source.columns) for i in numbers]
    where = [source.where[i] for i in numbers]
    columns = _columns(rows[0], source, where[0])
    if columns.prompt == HASH:
        return True, [_own(row, place) for row, place in zip(rows, where, strict=True)]
    plain = [columns.plain(row) for row in rows]
    native = dataclasses.replace(
        source,
        rows=plain,
        where=where,
        columns={},
        format=None if columns.answer in TURNS else "response",
        needs_all=True,
    )
    read = {record.where: record for record in records.read_responses(native)}
    found = []
    for row, place in zip(rows, where, strict=True):
        if place not in read:  # left out by bad_rows=skip
            continue
        record = read[place]
        if columns.context and row.get(columns.context):
            record = dataclasses.replace(record, context=str(row[columns.context]))
        conversation = from_record(record)
        found.append(
            Found(
                where=place,
                key=key_of(conversation.prompt),
                prompt=conversation.question.strip(),
                answer=characters(record.messages[-1].content),
                finish=_finish(row),
                columns=columns.others(row),
            )
        )
    return False, found


def _check_names(source: Source) -> None:
    """Raises a ConfigError if `columns=` misspells a column that is read; other names are those of
    stored scores."""
    for ours, theirs in source.columns.items():
        close = [] if ours in _READ else difflib.get_close_matches(ours, _READ, n=1, cutoff=0.8)
        if close:
            raise ConfigError(
                f"{source.spec}: columns={ours}:{theirs}: nothing reads a column {ours!r}; did you "
                f"mean {close[0]}?"
            )


@dataclasses.dataclass(frozen=True)
class _Columns:
    prompt: str
    context: str
    answer: str

    def plain(self, row: Row) -> Row:
        if self.answer in TURNS:
            return {self.answer: row.get(self.answer)}
        named = {"prompt": self.prompt, "response": self.answer}
        found = {ours: row[theirs] for ours, theirs in named.items() if theirs in row}
        return found | {"system": row["system"]} if row.get("system") else found

    def others(self, row: Row) -> dict[str, Any]:
        used = {self.prompt, self.context, self.answer, *_OWN}
        return {name: value for name, value in row.items() if name not in used}


def _columns(row: Row, source: Source, where: str) -> _Columns:
    def first(known: Sequence[str]) -> str:
        named = [name for name in known if name in source.columns]
        return next((name for name in [*named, *known] if name in row), "")

    answer, prompt = first(ANSWERS), first(PROMPTS)
    others = [name for name in ANSWERS if name != answer and row.get(name)]
    if others and answer not in (*MODELS, *source.columns) and HASH not in row:
        raise DataError(
            f"{where}: the model's answers may be in {answer!r} or in {others[0]!r}, and the other "
            f"may be a reference; say which by columns=response:{answer} or "
            f"columns=response:{others[0]}"
        )
    turns = first(TURNS)
    if not answer and turns:
        return _Columns(turns, "", turns)
    if not prompt and HASH in row and "response" in row:
        return _Columns(HASH, "", "response")
    for what, found, known in (("answers", answer, ANSWERS), ("prompts", prompt, PROMPTS)):
        if not found:
            raise DataError(
                f"{where}: no column of {what}: columns are {', '.join(row) or '(none)'}; expected "
                f"one of {', '.join(known)}, or columns={known[0]}:COLUMN"
            )
    return _Columns(prompt, first(CONTEXTS), answer)


def _own(row: Row, where: str) -> Found:
    """A line that `responses.Responses` wrote."""
    sha256, text = row.get(HASH), row.get("response")
    if not isinstance(sha256, str) or not isinstance(text, str):
        raise DataError(f"{where}: {HASH!r} or 'response' is no text; expected a line of a run")
    others = {name: value for name, value in row.items() if name not in (*_OWN, *_SAID)}
    shown = f"the prompt {sha256[:16]}"
    return Found(where, sha256, shown, characters(text), _finish(row), others)


def _finish(row: Row) -> str:
    value = row.get("finish")
    return value if isinstance(value, str) else FINISHES.get(str(row.get("finish_reason")), "")


def _merged(earlier: Sequence[Response], later: Sequence[Response], asked: Set) -> list[Response]:
    """The same answers, with the columns of both files."""
    found = []
    for one, other in zip(earlier, later, strict=True):
        if one.text != other.text:
            raise DataError(
                f"{other.where}: the answer to {asked.name} item {one.id} differs from that in "
                f"{one.where}; expected files with the same answers, give only one of them"
            )
        twice = one.stored.keys() & other.stored.keys()
        differing = sorted(name for name in twice if one.stored[name] != other.stored[name])
        if differing:
            raise DataError(
                f"{other.where}: {differing[0]!r} differs from that in {one.where}; expected equal "
                "values, rename a column or give only one of the files"
            )
        stored: Mapping[str, Any] = {**one.stored, **other.stored}
        found.append(dataclasses.replace(one, stored=stored, finish=one.finish or other.finish))
    return found
