"""Turns the sources of a run into its training and held-out examples.

`read` is the same for all methods: open, parse, mix, hold rows out, encode. It receives two
functions that parse a method's rows and encode them as examples.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float
from transformers import PreTrainedTokenizerBase

from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data import mixing, pairs, records, sources
from safety_jax.data.contamination import HeldApart
from safety_jax.data.examples import Examples
from safety_jax.data.records import Pair, Record
from safety_jax.data.sources import Skipped, Source
from safety_jax.data.text_rules import NOTES

SHOWN_ROWS = 10


@runtime_checkable
class Sided(Protocol):
    """Examples with one or more sides, such as the two answers of a pair."""

    def __len__(self) -> int: ...
    @property
    def sides(self) -> tuple[Examples, ...]: ...
    @property
    def where(self) -> list[str]: ...


@runtime_checkable
class Learned(Sided, Protocol):
    """Examples of a run.

    Attributes:
        targets: what rows say of their sides, such as whether they are unsafe; None without.
    """

    @property
    def targets(self) -> Float[np.ndarray, "n sides"] | None: ...


E = TypeVar("E", bound=Learned)


@dataclasses.dataclass(frozen=True)
class Rows:
    """Which rows a run reads.

    Attributes:
        train: specs of sources, see `source_spec.py`.
        evaluation: a source of held-out rows; "" holds out `eval_rows` training rows instead.
        bad_rows: what to do with rows that cannot be used: "error" or "skip".
        seed: determines the mix and which rows are held out.
        tests: prompts whose near-duplicates are left out of the training rows.
    """

    train: tuple[str, ...]
    evaluation: str
    eval_rows: int
    bad_rows: str
    seed: int
    tests: HeldApart | None = None


@dataclasses.dataclass(frozen=True)
class Corpus(Generic[E]):
    """The examples that a run learns from and is measured on.

    Attributes:
        training, evaluation: encoded examples; `evaluation` is None without held-out rows.
        mixture: the rows of each source, before rows were held out.
        files: source name -> sha256, for sources that are one file, local or behind a URL.
        prompt: the prompt of the first row.
        left_out: by rule, the number of rows that it leaves out.
        skipped: rows that could not be used, and why.
        remarks: lines about the rows, for the user.
    """

    training: E
    evaluation: E | None
    mixture: mixing.Mixture
    files: dict[str, str]
    tokenizer: PreTrainedTokenizerBase
    prompt: str
    left_out: dict[str, int]
    skipped: list[Skipped]
    remarks: Sequence[str] = ()

    def counts(self, unit: str) -> dict[str, int]:
        """What happened to the rows, for the model card."""
        sides = [side.counts for side in self.training.sides]
        return {
            f"{unit} trained on": len(self.training),
            f"{unit} held out": 0 if self.evaluation is None else len(self.evaluation),
            **{f"left out by {rule}": number for rule, number in self.left_out.items()},
            "prompts cut": sides[0].cut_prompts,
            "answers cut": sum(side.cut_answers for side in sides),
            **self._skipped(),
        }

    def describe(self, unit: str) -> str:
        """The mixture, and what filtering, splitting and encoding did to its rows, as text."""
        sides = [side.counts for side in self.training.sides]
        held_out = 0 if self.evaluation is None else len(self.evaluation)
        parts = [f"{len(self.training):,} {unit} to train on, {held_out:,} held out"]
        parts += [f"{number:,} left out by {rule}" for rule, number in self.left_out.items()]
        cut = sum(side.cut_answers for side in sides)
        parts.append(f"{sides[0].cut_prompts} prompts and {cut} answers cut")
        lines = [str(self.mixture), "; ".join(parts), *self.remarks]
        notes = max((side.notes for side in sides), key=len)
        lines += [f"{number:,} {unit}: {NOTES[what]}" for what, number in notes.items()]
        lines += [f"{number} rows skipped: {why}" for why, number in self._skipped().items()]
        lines += [f"  {row.where}: {row.why}" for row in self.skipped[:SHOWN_ROWS]]
        if len(self.skipped) > SHOWN_ROWS:
            lines.append(f"  and {len(self.skipped) - SHOWN_ROWS} more, see skipped.jsonl")
        return "\n".join(lines)

    def _skipped(self) -> dict[str, int]:
        counted = dict(self.training.sides[0].counts.skipped)
        if not self.skipped:
            return counted
        return {"rows skipped": len(self.skipped)}


def read(
    rows: Rows,
    parse: Callable[[Source, list[Skipped]], list[Any]],
    encode: Callable[[Sequence[Any], list[Skipped]], E],
    *,
    prompt: Callable[[Record], str],
    tokenizer: PreTrainedTokenizerBase,
    also: Iterable[Source] = (),
    left_out: dict[str, int] | None = None,
    remark: Callable[[Sequence[Any]], Sequence[str]] | None = None,
) -> Corpus[E]:
    """Opens, parses, mixes, splits and encodes.

    Args:
        parse: returns the rows of a source, and appends those that it skips to its second argument.
        encode: returns rows as examples, and appends skipped rows likewise.
        prompt: returns the prompt of a row.
        also: more sources of training rows.
        left_out: the counts that `parse` makes of rows that a rule leaves out.
        remark: returns lines about the rows of the mixture.

    Raises:
        ConfigError, DataError: as the modules of `data` do; file and row are named.
    """
    if rows.bad_rows not in ("error", "skip"):
        raise ConfigError(f"data.bad_rows {rows.bad_rows!r}: expected error or skip")
    skipped: list[Skipped] = []

    def opened(spec: str, key: str) -> Source:
        source = sources.open_source(spec, key)
        skips = source.skip_bad_rows or rows.bad_rows == "skip"
        return dataclasses.replace(source, skip_bad_rows=skips)

    def learned(source: Source) -> list[Any]:
        found = parse(source, skipped)
        return found if rows.tests is None else rows.tests.apart(found, skipped)

    given = [opened(spec, "data.train") for spec in rows.train] + list(also)
    mixture: mixing.Mixture = mixing.mix(given, read=learned, seed=rows.seed)
    training, held_out = mixture.records, []
    remarks = [line for source in given for line in source.remarks]
    remarks += [] if remark is None else [*remark(mixture.records)]
    remarks += mixing.describe_repeated(mixture.records)
    if rows.evaluation:
        source = opened(rows.evaluation, "data.eval")
        held_out = sources.draw(parse(source, skipped), source, "data.eval", rows.seed)
        remarks += source.remarks + _shared_prompts(training, held_out)
    elif rows.eval_rows > 0:
        training, held_out = mixing.split(training, rows=rows.eval_rows, seed=rows.seed)
    return Corpus(
        training=encode(training, skipped),
        evaluation=encode(held_out, skipped) if held_out else None,
        mixture=mixture,
        files={source.name: sha256 for source in given if (sha256 := source.sha256()) is not None},
        tokenizer=tokenizer,
        prompt=first_prompt(training, prompt),
        left_out=left_out or {},
        skipped=skipped,
        remarks=remarks,
    )


def _shared_prompts(training: Sequence[Any], held_out: Sequence[Any]) -> list[str]:
    """A warning about rows of `data.eval` whose prompts are trained on, if there are any."""
    asked = {mixing.prompt_key(row) for row in training}
    shared = sum(mixing.prompt_key(row) in asked for row in held_out)
    if not shared:
        return []
    found = f"{shared:,} of {len(held_out):,} rows of data.eval"
    return [f"warning: {found} have prompts that are trained on"]


def first_prompt(rows: Sequence[Any], prompt: Callable[[Record], str]) -> str:
    """The prompt of the first row that the template can write."""
    for row in rows:
        if not isinstance(row, Record):
            row = Record(row.prompt, row.context, row.source, row.where)
        with contextlib.suppress(DataError):
            return prompt(row)
    return ""


def selected(examples: E, tokenizer: PreTrainedTokenizerBase) -> Corpus[E]:
    """A corpus of examples that a run made itself, without sources."""
    return Corpus(examples, None, mixing.Mixture([], []), {}, tokenizer, "", {}, [])


# ---------------------------------------------------------------------------- how rows are read


def demonstrations(source: Source, skipped: list[Skipped]) -> list[Record]:
    """Reads rows with one answer to learn."""
    return records.read_records(source, skipped)


def preferences(prefer: str, left_out: dict[str, int]) -> Callable[..., list[Pair]]:
    """Returns a function that reads pairs, orders them by a rule, and counts those that the rule
    leaves out.

    Args:
        prefer: the rule, see `pairs.py`.
        left_out: gets the count, under the rule's name.
    """
    rule, name = pairs.rule(prefer), f"data.prefer={prefer}"

    def parse(source: Source, skipped: list[Skipped]) -> list[Pair]:
        found = records.read_pairs(source, skipped)
        kept = [pair for pair in map(rule, found) if pair is not None]
        left_out[name] = left_out.get(name, 0) + len(found) - len(kept)
        if not kept:
            raise DataError(
                f"{source.spec}: data.prefer={prefer} leaves none of its {len(found)} pairs; "
                "choose another rule"
            )
        return kept

    return parse
