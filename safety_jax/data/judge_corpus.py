"""From the sources of a run to the judged answers it learns from and is measured on."""

import dataclasses
from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase

from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data import corpus as corpora
from safety_jax.data import judged, mixing, pairs, ratings, records, sources

PAIRED = ("pairs", "cost")
FORMATS = {"regression": ratings.RATINGS, "binary": ratings.LABELS}


@dataclasses.dataclass(frozen=True)
class JudgeCorpus:
    """What a judge learns from and is measured on.

    Attributes:
        training, evaluation: encoded answers; `evaluation` is None without validation.
        mixture: what each source gave, before rows were held out.
        files: source name -> sha256, of sources that are one local file.
        prompt: what stands before the answer of the first row.
        left_out: pairs that `prefer` has no use for.
        skipped: rows that could not be used, and why.
    """

    training: judged.JudgedAnswers
    evaluation: judged.JudgedAnswers | None
    mixture: mixing.Mixture
    files: dict[str, str]
    tokenizer: PreTrainedTokenizerBase
    prompt: str
    left_out: int
    skipped: list[records.Skipped]


def read(
    kind: str,
    *,
    train: tuple[str, ...],
    evaluation: str,
    eval_rows: int,
    prefer: str,
    bad_rows: str,
    wording: judged.Wording,
    max_length: int,
    overlong_prompt: str,
    tokens: PreTrainedTokenizerBase,
    vocabulary_size: int,
    seed: int,
) -> JudgeCorpus:
    """Opens, mixes, splits by prompt and encodes.

    Args:
        kind: pairs, cost, regression or binary.
        prefer: of pairs, which answer counts as preferred, see `data/pairs.py`.
        others: as `corpus.read_pairs`.

    Raises:
        ConfigError, DataError: as the modules of `data` do; file and row are named.
    """
    if bad_rows not in ("error", "skip"):
        raise ConfigError(f"data.bad_rows {bad_rows!r}: expected error or skip")
    skipped: list[records.Skipped] = []
    reader = JudgedReader(kind, prefer, skipped)

    def opened(spec: str, key: str) -> sources.Source:
        source = sources.open_source(spec, key)
        return dataclasses.replace(source, skip_bad_rows=source.skip_bad_rows or bad_rows == "skip")

    given = [opened(spec, "data.train") for spec in train]
    mixture: mixing.Mixture = mixing.mix(given, read=reader.read, seed=seed)
    training, held_out = mixture.records, []
    if evaluation:
        held_out = reader.read(opened(evaluation, "data.eval"))
    elif eval_rows > 0:
        training, held_out = mixing.split(training, rows=eval_rows, seed=seed)

    def encoded(rows: Sequence) -> judged.JudgedAnswers:
        found = judged.encode_answers(
            rows,
            wording,
            max_length=max_length,
            overlong_prompt=overlong_prompt,
            bad_rows=bad_rows,
            vocabulary_size=vocabulary_size,
            skipped=skipped,
        )
        if kind == "cost" and found.targets is None:
            raise DataError(
                "a cost model needs to know which answers are unsafe; expected PKU-SafeRLHF's "
                "columns, or chosen_unsafe and rejected_unsafe in every row, or set "
                "reward.kind=pairs"
            )
        return found

    first = training[0]
    asked = records.Record(first.prompt, first.context, first.source, first.where)
    return JudgeCorpus(
        training=encoded(training),
        evaluation=encoded(held_out) if held_out else None,
        mixture=mixture,
        files=corpora.hashes(mixture),
        tokenizer=tokens,
        prompt=wording.prompt(asked),
        left_out=reader.left_out,
        skipped=skipped,
    )


class JudgedReader:
    """Reads a source as the kind of judge needs it, and counts the pairs it has no use for."""

    def __init__(self, kind: str, prefer: str, skipped: list[records.Skipped]):
        self._kind, self._prefer, self._skipped = kind, prefer, skipped
        self._rule: Callable[[records.Pair], records.Pair | None] = pairs.rule(prefer)
        self.left_out = 0

    def read(self, source: sources.Source) -> list:
        if self._kind not in PAIRED:
            return records.read_rated(source, FORMATS[self._kind], self._skipped)
        found = records.read_pairs(source, self._skipped)
        kept = [pair for pair in map(self._rule, found) if pair is not None]
        self.left_out += len(found) - len(kept)
        if not kept:
            raise DataError(
                f"{source.spec}: data.prefer={self._prefer} leaves none of its {len(found)} pairs; "
                "choose another rule"
            )
        return kept


def describe(corpus: JudgeCorpus, kind: str, prefer: str) -> str:
    """The mixture, and what filtering, splitting and encoding did to its rows; for people."""
    counts = [side.counts for side in corpus.training.sides]
    held_out = 0 if corpus.evaluation is None else len(corpus.evaluation)
    what = "pairs" if kind in PAIRED else "answers"
    filtered = f"{corpus.left_out:,} left out by data.prefer={prefer}; " if kind in PAIRED else ""
    lines = [
        str(corpus.mixture),
        f"{len(corpus.training):,} {what} to train on, {held_out:,} held out; {filtered}"
        f"{counts[0].cut_prompts} prompts and {sum(c.cut_answers for c in counts)} answers cut",
    ]
    return "\n".join(lines + corpora.describe_skipped(corpus.skipped))
