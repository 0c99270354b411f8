"""From the sources of a run to the examples, or pairs, it learns from and is measured on."""

import dataclasses
import hashlib
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data import encode, mixing, pairs, prompts, records, sources


@dataclasses.dataclass(frozen=True)
class Corpus:
    """What is learned from and what is measured on.

    Attributes:
        training, evaluation: encoded examples; `evaluation` is None without validation.
        mixture: what each source gave, before rows were held out.
        files: source name -> sha256, of sources that are one local file.
        prompt: what the model is fed for an example request.
    """

    training: encode.Examples
    evaluation: encode.Examples | None
    mixture: mixing.Mixture
    files: dict[str, str]
    tokenizer: PreTrainedTokenizerBase
    prompt: str


def read(
    *,
    train: tuple[str, ...],
    safety: str,
    safety_rows: int,
    evaluation: str,
    eval_rows: int,
    template: str,
    train_on: str,
    max_length: int,
    overlong_prompt: str,
    tokens: PreTrainedTokenizerBase,
    vocabulary_size: int,
    seed: int,
) -> Corpus:
    """Opens, mixes, splits and encodes.

    Args:
        train: specs of instruction sources, see `data/sources.py`.
        safety, safety_rows: the source of safety demonstrations, and how many are mixed in.
        evaluation: a source to measure on; "" holds `eval_rows` of the mixed rows out instead.
        template, train_on, max_length, overlong_prompt, vocabulary_size: see `encode.encode`.

    Raises:
        ConfigError, DataError: as the modules of `data` do; file and row are named.
    """
    opened = [sources.open_source(spec, "data.train") for spec in train]
    if safety_rows > 0:
        demonstrations = sources.open_source(safety, "data.safety")
        opened.append(dataclasses.replace(demonstrations, name="safety", take=safety_rows))
    mixture = mixing.mix(opened, read=records.read_records, seed=seed)
    training: list[records.Record] = mixture.records
    held_out: list[records.Record] = []
    if evaluation:
        held_out = records.read_records(sources.open_source(evaluation, "data.eval"))
    elif eval_rows > 0:
        training, held_out = mixing.split(training, rows=eval_rows, seed=seed)
    rendered = prompts.load_template(template, tokens)

    def encoded(rows: list[records.Record]) -> encode.Examples:
        encoding = encode.Encoding(rendered, tokens, max_length, overlong_prompt, vocabulary_size)
        return encode.encode(rows, encoding, train_on=train_on)

    return Corpus(
        training=encoded(training),
        evaluation=encoded(held_out) if held_out else None,
        mixture=mixture,
        files=hashes(mixture),
        tokenizer=tokens,
        prompt=rendered.prompt(training[0]),
    )


@dataclasses.dataclass(frozen=True)
class PairCorpus:
    """As `Corpus`, of preference pairs.

    Attributes:
        left_out: pairs that `prefer` has no use for.
        skipped: rows that could not be used, and why.
    """

    training: pairs.Pairs
    evaluation: pairs.Pairs | None
    mixture: mixing.Mixture
    files: dict[str, str]
    tokenizer: PreTrainedTokenizerBase
    prompt: str
    left_out: int
    skipped: list[records.Skipped]


def read_pairs(
    *,
    train: tuple[str, ...],
    evaluation: str,
    eval_rows: int,
    prefer: str,
    bad_rows: str,
    template: str,
    max_length: int,
    overlong_prompt: str,
    tokens: PreTrainedTokenizerBase,
    vocabulary_size: int,
    seed: int,
) -> PairCorpus:
    """Opens, orders and filters, mixes, splits and encodes.

    Args:
        prefer: which answer counts as preferred, see `data/pairs.py`.
        bad_rows: "error" or "skip": what becomes of rows that cannot be used.
        others: as `read`.

    Raises:
        ConfigError, DataError: as the modules of `data` do; file and row are named.
    """
    if bad_rows not in ("error", "skip"):
        raise ConfigError(f"data.bad_rows {bad_rows!r}: expected error or skip")
    rule = pairs.rule(prefer)
    skipped: list[records.Skipped] = []
    left_out = 0

    def opened(spec: str, key: str) -> sources.Source:
        source = sources.open_source(spec, key)
        return dataclasses.replace(source, skip_bad_rows=source.skip_bad_rows or bad_rows == "skip")

    def ordered(source: sources.Source) -> list[records.Pair]:
        nonlocal left_out
        found = records.read_pairs(source, skipped)
        kept = [pair for pair in map(rule, found) if pair is not None]
        left_out += len(found) - len(kept)
        if not kept:
            raise DataError(
                f"{source.spec}: data.prefer={prefer} leaves none of its {len(found)} pairs; "
                "choose another rule"
            )
        return kept

    mixture = mixing.mix([opened(spec, "data.train") for spec in train], read=ordered, seed=seed)
    training: list[records.Pair] = mixture.records
    held_out: list[records.Pair] = []
    if evaluation:
        held_out = ordered(opened(evaluation, "data.eval"))
    elif eval_rows > 0:
        training, held_out = mixing.split(training, rows=eval_rows, seed=seed)
    rendered = prompts.load_template(template, tokens)

    def encoded(rows: list[records.Pair]) -> pairs.Pairs:
        encoding = encode.Encoding(rendered, tokens, max_length, overlong_prompt, vocabulary_size)
        return pairs.encode_pairs(rows, encoding, bad_rows=bad_rows, skipped=skipped)

    first = training[0]
    asked = records.Record(first.prompt, first.context, first.source, first.where)
    return PairCorpus(
        training=encoded(training),
        evaluation=encoded(held_out) if held_out else None,
        mixture=mixture,
        files=hashes(mixture),
        tokenizer=tokens,
        prompt=rendered.prompt(asked),
        left_out=left_out,
        skipped=skipped,
    )


SHOWN_ROWS = 10


def describe_pairs(corpus: PairCorpus, prefer: str) -> str:
    """The mixture, and what filtering, splitting and encoding did to its rows; for people."""
    counts = [side.counts for side in (corpus.training.chosen, corpus.training.rejected)]
    held_out = 0 if corpus.evaluation is None else len(corpus.evaluation)
    lines = [
        str(corpus.mixture),
        f"{len(corpus.training):,} pairs to train on, {held_out:,} held out; "
        f"{corpus.left_out:,} left out by data.prefer={prefer}; {counts[0].cut_prompts} prompts, "
        f"{counts[0].cut_answers} chosen and {counts[1].cut_answers} rejected answers cut",
        *pairs.describe_unlabelled(corpus.mixture.records, prefer),
    ]
    return "\n".join(lines + describe_skipped(corpus.skipped))


def describe_skipped(skipped: list[records.Skipped]) -> list[str]:
    """Lines that name the first skipped rows; none where none was."""
    if not skipped:
        return []
    lines = [f"{len(skipped)} rows skipped:"]
    lines += [f"  {row.where}: {row.why}" for row in skipped[:SHOWN_ROWS]]
    if len(skipped) > SHOWN_ROWS:
        lines.append(f"  and {len(skipped) - SHOWN_ROWS} more, see skipped.jsonl")
    return lines


def describe(corpus: Corpus) -> str:
    """The mixture, and what splitting and encoding did to its rows; for people."""
    counts = corpus.training.counts
    held_out = 0 if corpus.evaluation is None else len(corpus.evaluation)
    skipped = "".join(f"; {number} rows skipped: {why}" for why, number in counts.skipped.items())
    return (
        f"{corpus.mixture}\n{len(corpus.training):,} rows to train on, {held_out:,} held out; "
        f"{counts.cut_prompts} prompts and {counts.cut_answers} answers cut{skipped}"
    )


def hashes(mixture: mixing.Mixture) -> dict[str, str]:
    """Source name -> sha256, of sources that are one local file."""
    found = {}
    for share in mixture.shares:
        path = Path(share.spec.partition("?")[0])
        if path.is_file():
            with open(path, "rb") as file:
                found[share.source] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
