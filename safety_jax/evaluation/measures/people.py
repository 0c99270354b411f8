"""Human labels: a sheet of anonymous answers to label, and judges measured against the labels.

    for_people.csv       number, prompt, answer, and empty columns for a label and a comment; in an
                         order that does not tell set or model
    for_people_key.json  which answer each number is; not for annotators

The labels are read from one copy of the sheet for each annotator, or from one with several `label`
columns. The majority of annotators gives the quality of each judge (`checked.py`).
"""

import dataclasses
import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from safety_jax.base import files
from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data import sheets
from safety_jax.data.shuffling import permutation
from safety_jax.evaluation.measures import paired
from safety_jax.evaluation.measures.counts import Block, Resampling, Verdict, rate
from safety_jax.evaluation.results.comparisons import Agreement
from safety_jax.evaluation.results.estimates import Estimate, Rate
from safety_jax.evaluation.sets.items import Item
from safety_jax.judges.audit.labels import as_text
from safety_jax.judges.judge import HARMFUL, JudgeCard, Score, scored, unscored
from safety_jax.maths import agreement, clusters

JUDGE = "people"
SAFE, UNSAFE, UNSURE = LABELS = ("safe", "unsafe", "unsure")
SHEET, KEY = "for_people.csv", "for_people_key.json"
COLUMNS = ("number", "prompt", "answer", f"label: {', '.join(LABELS)}", "comment")
STREAM = 9000  # of the draws and the shuffle; RAFT uses lower ones

# Model, set, item.
AnswerPlace = tuple[str, str, str]


@dataclasses.dataclass(frozen=True)
class People:
    """People's labels.

    Attributes:
        labels: by annotator, then answer: one of LABELS.
    """

    labels: Mapping[str, Mapping[AnswerPlace, str]]

    def verdict(self, place: AnswerPlace) -> str:
        """The majority's label among safe and unsafe; "" in a tie."""
        said = Counter(labels[place] for labels in self.labels.values() if place in labels)
        if said[SAFE] == said[UNSAFE]:
            return ""
        return SAFE if said[SAFE] > said[UNSAFE] else UNSAFE

    def unsafe(self, block: Block) -> list[Verdict]:
        """Whether people call each answer unsafe."""
        verdicts = [self.verdict((block.model, block.set.name, i.id)) for i in block.set.items]
        return [None if not verdict else verdict == UNSAFE for verdict in verdicts]

    def beside(self, block: Block) -> Block:
        """The block with people as one more judge."""
        found: list[Score] = [
            unscored("people did not say") if unsafe is None else scored(float(unsafe))
            for unsafe in self.unsafe(block)
        ]
        return dataclasses.replace(
            block,
            scores={**block.scores, JUDGE: found},
            cards={**block.cards, JUDGE: self.card()},
        )

    def card(self) -> JudgeCard:
        """The card of people as a judge."""
        settings = {"annotators": list(self.labels), "labels": list(LABELS)}
        return JudgeCard(JUDGE, JUDGE, "", None, HARMFUL, 0.0, 1.0, 0.5, "blind", "", settings)


# ---------------------------------------------------------------------------- the sheet


def export(folder: Path, blocks: Sequence[Block], answers: int, seed: int) -> list[str]:
    """Draws answers, and writes the sheet and its key unless they exist.

    Every model and set gets the same number of answers, as far as it has them, and all models to
    the same prompts, so that they can be compared.

    Args:
        answers: their number in the sheet.

    Returns:
        Notes on a sheet that was kept although another one would be written now; before somebody
        labels it.

    Raises:
        ConfigError: `answers` is below 1, or there are no answers.
        DataError: the key of the sheet is damaged.
    """
    if answers < 1 or not any(block.answers for block in blocks):
        raise ConfigError(
            f"evaluate.sheet_answers is {answers}; expected 1 or more and open-ended answers, or 0 "
            "for no sheet"
        )
    drawn = _draw(blocks, answers, seed)
    if (folder / SHEET).exists() and (folder / KEY).exists():
        return _kept(folder, blocks, len(drawn))
    shuffle = permutation(len(drawn), seed=seed, stream=STREAM)
    rows: list[Sequence[object]] = []
    key = []
    for number, (block, place) in enumerate((drawn[i] for i in shuffle), start=1):
        item, answer = block.set.items[place], block.answers[place]
        rows.append((number, _asked(item), answer, "", ""))
        facts = {"number": number, "model": block.model, "set": block.set.name, "id": item.id}
        key.append(facts | {"response_sha256": _sha256(answer)})
    # The key first: a sheet without it is useless.
    files.write(folder / KEY, files.canonical({"seed": seed, "answers": key}))
    sheets.write(folder / SHEET, COLUMNS, rows)
    return []


def _kept(folder: Path, blocks: Sequence[Block], answers: int) -> list[str]:
    """Notes on the sheet in a folder, which may hold labels and is never replaced."""
    keyed, now = _keyed(folder / KEY), _answers(blocks)
    changed = sum(now.get(place) != sha256 for _, place, sha256 in keyed)
    told, remedy = [], f"remove it and {KEY} to write a new one"
    if changed:
        told.append(
            f"{SHEET} is of an earlier start: {changed} of its {len(keyed)} answers have changed, "
            f"and its labels cannot be read; {remedy}."
        )
    elif len(keyed) != answers:
        told.append(
            f"{SHEET} is of an earlier start and has {len(keyed)} answers, not {answers}; {remedy}."
        )
    return told


def _draw(blocks: Sequence[Block], answers: int, seed: int) -> list[tuple[Block, int]]:
    sizes = [len(block.answers) for block in blocks]
    drawn = []
    for block, count in zip(blocks, _even(sizes, answers), strict=True):
        stream = int(hashlib.sha256(block.set.name.encode()).hexdigest()[:8], 16) + STREAM
        order = permutation(len(block.answers), seed=seed, stream=stream)
        drawn += [(block, int(i)) for i in order[:count]]
    return drawn


def _even(sizes: Sequence[int], total: int) -> list[int]:
    """Splits `total` evenly, except for those that have fewer."""
    counts = [0] * len(sizes)
    open_ = [i for i, size in enumerate(sizes) if size]
    left = min(total, sum(sizes))
    while left:
        share = max(1, left // len(open_))
        for i in open_:
            more = min(share, sizes[i] - counts[i], left)
            counts[i] += more
            left -= more
        open_ = [i for i in open_ if counts[i] < sizes[i]]
    return counts


def _asked(item: Item) -> str:
    """The prompt; if it has several turns, each begins with its role."""
    messages = item.conversation("").prompt
    if len(messages) == 1:
        return messages[0].content
    return "\n\n".join(f"[{message.role}] {message.content}" for message in messages)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


# ---------------------------------------------------------------------------- labels


def read(paths: Sequence[str], folder: Path, blocks: Sequence[Block], key: str) -> People:
    """Reads labelled sheets.

    Args:
        paths: one sheet for each annotator; in a sheet, all columns that begin with `label`.
        folder: of the sheet's key.
        key: the config key of the paths, for messages.

    Raises:
        ConfigError: no sheet was written in this folder.
        DataError: an invalid label, number or answer, or a sheet of other answers; names file and
            row.
    """
    places = _key(folder / KEY, blocks)
    texts = _texts(blocks)
    labels: dict[str, dict[AnswerPlace, str]] = {}
    for path in paths:
        rows = sheets.read(files.expand(path), COLUMNS[:1], key)
        _check_answers(path, rows, {number: texts[place] for number, place in places.items()})
        columns = [name for name in rows[0][1] if name.strip().lower().startswith("label")]
        if not columns:
            raise DataError(
                f"{path}: no column begins with 'label'; expected the columns of the sheet"
            )
        for column in columns:
            name = Path(path).stem if len(columns) == 1 else f"{Path(path).stem}/{column}"
            if name in labels:
                raise ConfigError(f"{key}: two sheets are named {name}; rename one")
            found = dict(_labels(rows, column, places))
            if found:
                labels[name] = found
    if not labels:
        raise DataError(f"{key}: no label in {', '.join(paths)}; expected {', '.join(LABELS)}")
    return People(labels)


def _check_answers(
    path: str, rows: Sequence[tuple[str, Mapping[str, Any]]], answers: Mapping[str, str]
) -> None:
    """Raises a DataError for a sheet most of whose answers are not those of their numbers: that of
    another run, or one that was sorted without its numbers. Programs change single cells."""
    compared, other = 0, []
    for where, row in rows:
        said, known = as_text(row.get(COLUMNS[2])), answers.get(_number(row), "")
        if _letters(said) and _letters(known):
            compared += 1
            if _letters(said) != _letters(sheets.safe(known)):
                other.append(where)
    if len(other) > compared / 2:
        raise DataError(
            f"{path}: {len(other)} of {compared} answers are not those of their numbers in this "
            f"--workdir, the first in {other[0]}; expected a copy of its {SHEET}, whose rows are "
            "still whole"
        )


def _letters(text: str) -> str:
    """The beginning of a text in characters that no spreadsheet program changes."""
    return "".join(re.findall("[A-Za-z0-9]+", text[:400]))[:60]


def _number(row: Mapping[str, Any]) -> str:
    return as_text(row.get(COLUMNS[0])).removesuffix(".0")


def _labels(
    rows: Sequence[tuple[str, Mapping[str, Any]]], column: str, places: Mapping[str, AnswerPlace]
) -> Iterator[tuple[AnswerPlace, str]]:
    seen: dict[str, str] = {}
    for where, row in rows:
        number = _number(row)
        if number not in places:
            raise DataError(
                f"{where}: the sheet had no answer {number!r:.20}; expected 1 to {len(places)}"
            )
        if number in seen:
            raise DataError(f"{where}: the answer {number} is already in {seen[number]}")
        seen[number] = where
        label = as_text(row.get(column)).lower()
        if not label:
            continue
        if label not in LABELS:
            raise DataError(
                f"{where}: the label {row.get(column)!r:.40}; expected {', '.join(LABELS)}, or "
                "nothing"
            )
        yield places[number], label


def _key(path: Path, blocks: Sequence[Block]) -> dict[str, AnswerPlace]:
    """Number -> answer; raises a DataError if an answer has changed since."""
    keyed, now = _keyed(path), _answers(blocks)
    for number, place, sha256 in keyed:
        if now.get(place) != sha256:
            raise DataError(
                f"{path}: answer {number} ({', '.join(place)}) has changed since the sheet was "
                "written, so the labels belong to other answers: label a new sheet in another "
                "--workdir"
            )
    return {number: place for number, place, _ in keyed}


def _keyed(path: Path) -> list[tuple[str, AnswerPlace, str]]:
    """The number, the answer and its hash in each line of the key."""
    try:
        lines = json.loads(path.read_text("utf-8"))["answers"]
        return [
            (str(line["number"]), (line["model"], line["set"], line["id"]), line["response_sha256"])
            for line in lines
        ]
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path} does not exist; labels belong to the --workdir that wrote the sheet"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged; labels cannot be assigned without it") from error


def _texts(blocks: Sequence[Block]) -> dict[AnswerPlace, str]:
    return {
        (block.model, block.set.name, item.id): answer
        for block in blocks
        for item, answer in zip(block.set.items, block.answers, strict=True)
    }


def _answers(blocks: Sequence[Block]) -> dict[AnswerPlace, str]:
    """The hash of each answer."""
    return {place: _sha256(answer) for place, answer in _texts(blocks).items()}


# ---------------------------------------------------------------------------- agreement


def between(people: People, blocks: Sequence[Block], how: Resampling) -> list[Agreement]:
    """The agreement of annotators, with `unsure` as a third label: Cohen's κ of every two, and
    Fleiss' κ of three or more over the answers that all of them labelled.

    Args:
        blocks: the answers. Those of all models to one prompt, also under attacks, are a cluster.
    """
    asked = paired.requests(blocks)
    prompts = {
        (block.model, block.set.name, item.id): prompt
        for block in blocks
        for item, prompt in zip(block.set.items, asked[block.set.name], strict=True)
    }
    found = []
    for (one, first), (other, second) in itertools.combinations(people.labels.items(), 2):
        both = sorted(first.keys() & second.keys())
        said = [first[place] for place in both], [second[place] for place in both]
        numbers = paired.numbered([prompts[place] for place in both])
        kappa = clusters.cohen(*said, numbers)
        same = rate([a == b for a, b in zip(*said, strict=True)], numbers)
        found.append(_agreement(one, other, same, kappa))
    if len(people.labels) > 2:
        everyone = list(people.labels.values())
        shared = sorted(set.intersection(*(set(labels) for labels in everyone)))
        rows = [Counter(labels[place] for labels in everyone) for place in shared]
        numbers = paired.numbered([prompts[place] for place in shared])
        counts = np.array([[row[label] for label in LABELS] for row in rows], int)
        kappa = None
        if shared:
            kappa = agreement.fleiss(counts, numbers, resamples=how.resamples, seed=how.seed)
        same = rate([len(row) == 1 for row in rows], numbers)
        found.append(_agreement(JUDGE, f"all {len(everyone)} annotators", same, kappa))
    return found


def _agreement(
    first: str, second: str, same: Rate, kappa: tuple[float, float, float] | None
) -> Agreement:
    estimate = None if kappa is None else Estimate(*kappa, same.n)
    return Agreement(first, second, same.n, same, estimate, None, None, None)
