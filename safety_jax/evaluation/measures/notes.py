"""What a reader must know before the numbers of a report are believed."""

from collections.abc import Sequence

from safety_jax.evaluation.measures.counts import UNKNOWN
from safety_jax.evaluation.results.comparisons import Comparison
from safety_jax.evaluation.results.rows import ResultRow
from safety_jax.evaluation.sets.items import CLOSED, Set

MUCH = 0.1  # a share of answers that readers must be told of


def of(rows: Sequence[ResultRow], comparisons: Sequence[Comparison]) -> list[str]:
    """Sentences, of what concerns all first."""
    told = []
    if any(row.protocol == UNKNOWN for row in rows):
        told.append(
            "Answers that were read from files bring no record of template and decoding: that they "
            "were made alike is taken on trust."
        )
    several = {row.answers_per_prompt for row in rows} - {1}
    if several:
        told.append(
            f"Models gave {' or '.join(map(str, sorted(several)))} answers to each prompt "
            "(multiple choice one). Shares and means are of all answers; their intervals and the "
            "tests count prompts, for the answers to one resemble each other."
        )
    for row in rows:
        for judge, judged in row.judged.items():
            if judged.unscored:
                told.append(
                    f"{row.model}, {row.set}: {judge} left {judged.unscored} of {row.n} answers "
                    f"unscored ({next(iter(judged.reasons))})."
                )
        if row.choice.get("verdict"):
            told.append(f"{row.model}, {row.set}: {row.choice['verdict']}")
    told += _degenerate(rows)
    refused = {c.refused_because for c in comparisons if c.refused_because}
    told += [f"Not compared: {reason}." for reason in sorted(refused)]
    if any(c.forced for c in comparisons):
        told.append("Comparisons marked as forced are of answers made under different protocols.")
    return told


def repeated(sets: Sequence[Set]) -> list[str]:
    """Of sets that hold a prompt several times."""
    return [
        f"{of.name}: {of.repeats} of its {of.prompts} prompts stand there several times; intervals "
        "and tests count the same prompt once."
        for of in sets
        if of.as_it_stands and of.repeats
    ]


def _degenerate(rows: Sequence[ResultRow]) -> list[str]:
    """Where many answers are none; a line for each model."""
    found = []
    for model in dict.fromkeys(row.model for row in rows):
        own = [row for row in rows if row.model == model and row.kind not in CLOSED]
        for what, pick in (
            ("are empty", lambda row: row.degenerate.empty),
            ("repeat themselves", lambda row: row.degenerate.repeated),
            ("were cut off at the limit", lambda row: row.degenerate.truncated),
        ):
            shares = [(row.set, share.value) for row in own if (share := pick(row)) is not None]
            large = [f"{name} {share:.0%}" for name, share in shares if share and share > MUCH]
            if large:
                found.append(
                    f"{model}: many answers {what} ({', '.join(large)}); judges are easily fooled "
                    "by such answers."
                )
    return found
