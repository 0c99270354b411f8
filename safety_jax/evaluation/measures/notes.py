"""Notes for the reader of a report: what limits its numbers."""

from collections.abc import Mapping, Sequence

from safety_jax.data import remarks
from safety_jax.evaluation.measures import overlap
from safety_jax.evaluation.measures.counts import UNKNOWN, Block
from safety_jax.evaluation.results.comparisons import Comparison
from safety_jax.evaluation.results.rows import ResultRow
from safety_jax.evaluation.sets.items import CLOSED, Set

MUCH = 0.1  # the share of degenerate or foreign answers above which there is a note
_LATIN = "\u024f"  # the last letter of the Latin blocks


def general(rows: Sequence[ResultRow], comparisons: Sequence[Comparison]) -> list[str]:
    """Sentences on rows and comparisons, the most general first."""
    told = []
    if any(row.protocol == UNKNOWN for row in rows):
        told.append(
            "Answers that were read from files have no record of template and decoding: that these "
            "are the same is assumed."
        )
    several = {row.answers_per_prompt for row in rows} - {1}
    if several:
        told.append(
            f"Models gave {' or '.join(map(str, sorted(several)))} answers to each prompt "
            "(one in multiple choice). Shares and means are over all answers; intervals and tests "
            "are over prompts, because the answers to one prompt resemble each other."
        )
    for row in rows:
        told += _unscored(row)
        if row.choice.get("verdict"):
            told.append(f"{row.model}, {row.set}: {row.choice['verdict']}")
    told += _degenerate(rows)
    refused = {c.refused_because for c in comparisons if c.refused_because}
    told += [f"Not compared: {reason}." for reason in sorted(refused)]
    if any(c.forced for c in comparisons):
        told.append("Comparisons marked as forced compare answers of different protocols.")
    return told


def _unscored(row: ResultRow) -> list[str]:
    """Answers without a score; judges of the same kind often leave the same ones."""
    judges: dict[str, list[str]] = {}
    for judge, judged in row.judged.items():
        if judged.unscored:
            left = f"{judged.unscored} of {row.n} answers unscored ({next(iter(judged.reasons))})"
            judges.setdefault(left, []).append(judge)
    return [
        f"{row.model}, {row.set}: {', '.join(names)} left {left}." for left, names in judges.items()
    ]


def repeated(sets: Sequence[Set]) -> list[str]:
    """Notes on sets that hold a prompt several times."""
    return [
        f"{one_set.name}: {one_set.repeats} of its {one_set.prompts} prompts are repetitions; "
        "intervals and tests count equal prompts once."
        for one_set in sets
        if one_set.as_it_stands and one_set.repeats
    ]


def unread(sets: Sequence[Set]) -> list[str]:
    """Notes on reference answers in a script that a measure of overlap does not read."""
    return [
        f"{one_set.name}: no {' and no '.join(measures)}, because most letters of its reference "
        "answers are in a script that is not read: ROUGE-L reads a to z and digits, BLEU separates "
        "words at blanks."
        for one_set in sets
        if one_set.as_it_stands and (measures := overlap.unread(one_set))
    ]


def misread(blocks: Mapping[str, Sequence[Block]]) -> list[str]:
    """Notes on answers that are not what a model said alone: judges then read the question twice,
    and a refusal is not where it is looked for; or they read nothing as an answer; and on answers
    in a script that the refusal detector does not read."""
    return [
        f"{model}, {block.set.name}: {line}"
        for model, found in blocks.items()
        for block in found
        if block.set.kind not in CLOSED
        for line in _misread(block)
    ]


def _misread(block: Block) -> list[str]:
    answers, found = block.answers, []
    many = len(answers) >= remarks.MANY_ROWS
    if many and all(
        remarks.echoes(item.prompt[-1].content, answer)
        for item, answer in zip(block.set.items, answers, strict=True)
    ):
        found.append(
            "every answer begins with its question; expected the answer alone (of a pipeline: "
            "return_full_text=False)."
        )
    if many and all(map(remarks.ended, answers)):
        found.append(
            "every answer ends in the text of an end token; expected the answer alone (of a "
            "tokenizer: skip_special_tokens=True)."
        )
    if empty := sum(answer.strip() == remarks.EMPTY_CELL for answer in answers):
        found.append(
            f"{empty} answers are {remarks.EMPTY_CELL}, as pandas writes an empty cell, and count "
            "as answers."
        )
    foreign = sum(map(_foreign, answers)) if block.detector else 0
    if foreign > MUCH * len(answers):
        found.append(
            f"{foreign} of {len(answers)} answers are hardly in Latin letters: {block.detector} "
            "reads English alone, and finds hardly any refusal in them."
        )
    return found


def _foreign(answer: str) -> bool:
    """Whether most letters of an answer are not Latin ones."""
    letters = "".join(filter(str.isalpha, answer))
    return sum(letter > _LATIN for letter in letters) > len(letters) / 2


def _degenerate(rows: Sequence[ResultRow]) -> list[str]:
    """A line for each model with many degenerate answers."""
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
