"""People as judges: candidates go out blind and shuffled, choices come back.

Both are CSV files that a spreadsheet opens. A cell that a spreadsheet would run as a formula gets
an apostrophe in front; nobody reads texts back from the file, only the choice.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from safety_jax import workdir
from safety_jax.data.order import permutation
from safety_jax.errors import DataError
from safety_jax.raft.folder import Candidate
from safety_jax.raft.pool import Prompt
from safety_jax.raft.selection import CHOSEN, NONE_ACCEPTED, Choice

COLUMNS = ("prompt_number", "prompt", "choice")
STREAM = 8000  # of the shuffles, beside those of prompts and epochs
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def export(
    path: Path,
    prompts: Sequence[Prompt],
    candidates: Sequence[Sequence[Candidate]],
    seed: int,
) -> None:
    """Writes one line a prompt: its candidates in an order that says nothing of where they come
    from, and an empty column for the number of the best, or 0 for none."""
    most = max(len(row) for row in candidates)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([*COLUMNS, *(f"answer_{k + 1}" for k in range(most))])
    for prompt, row in zip(prompts, candidates, strict=True):
        asked = prompt.record.messages
        question = next(m.content for m in reversed(asked) if m.role == "user")
        shown = [row[k].text for k in shuffled(prompt, len(row), seed)]
        writer.writerow([prompt.number, _safe(question), "", *map(_safe, shown)])
    # The mark tells spreadsheets that this is UTF-8.
    workdir.write(path, text.getvalue().encode("utf-8-sig", "replace"))


def read(
    path: Path,
    prompts: Sequence[Prompt],
    candidates: Sequence[Sequence[Candidate]],
    seed: int,
) -> list[Choice]:
    """The choices that people wrote into the file.

    Raises:
        DataError: a prompt without a choice, or a choice that no answer has; names the line.
    """
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    missing = set(COLUMNS) - set(rows[0] if rows else ())
    if missing:
        raise DataError(f"{path}: column {min(missing)!r} is missing; expected those that went out")
    given = {}
    for number, row in enumerate(rows, start=1):
        given[row["prompt_number"].strip()] = (f"{path} row {number}", row["choice"].strip())
    found = []
    for prompt, answers in zip(prompts, candidates, strict=True):
        where, written = given.get(str(prompt.number), (str(path), ""))
        count = len(answers)
        if not written.isdigit() or int(written) > count:
            raise DataError(
                f"{where}: prompt {prompt.number} has the choice {written!r}; expected 1 to "
                f"{count}, or 0 for none of them"
            )
        place = int(written)
        if not place:
            found.append(Choice(None, NONE_ACCEPTED, ("",) * count))
            continue
        index = shuffled(prompt, count, seed)[place - 1]
        found.append(Choice(index, CHOSEN, ("",) * count))
    return found


def shuffled(prompt: Prompt, count: int, seed: int) -> list[int]:
    """The order in which a prompt's candidates are shown."""
    return permutation(count, seed=seed, stream=STREAM + prompt.number).tolist()


def _safe(cell: str) -> str:
    return "'" + cell if cell.startswith(_FORMULA) else cell
