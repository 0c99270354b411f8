"""People as judges: writes a sheet of shuffled, anonymous candidates and reads the choices."""

from collections.abc import Sequence
from pathlib import Path

from safety_jax.base.errors import DataError
from safety_jax.data import sheets
from safety_jax.data.shuffling import permutation
from safety_jax.raft import judging
from safety_jax.raft.prompt_pool import Prompt
from safety_jax.raft.round_files import Candidate
from safety_jax.raft.selection import CHOSEN, NONE_ACCEPTED, Selection

COLUMNS = ("prompt_number", "prompt", "choice")
STREAM = 8000  # of the shuffles; other streams shuffle prompts and epochs


def export(
    path: Path,
    prompts: Sequence[Prompt],
    candidates: Sequence[Sequence[Candidate]],
    seed: int,
) -> None:
    """Writes one line a prompt: its candidates in an order that does not tell where they come
    from, and an empty column for the number of the best, or 0 for none."""
    most = max(len(row) for row in candidates)
    rows = []
    for prompt, row in zip(prompts, candidates, strict=True):
        shown = [row[k].turn.answer for k in shuffled(prompt, len(row), seed)]
        # Spreadsheets, and `sheets.read`, expect the same number of cells in every row.
        rows.append([prompt.number, _asked(prompt), "", *shown, *[""] * (most - len(row))])
    sheets.write(path, [*COLUMNS, *(f"answer_{k + 1}" for k in range(most))], rows)


def _asked(prompt: Prompt) -> str:
    """The prompt as the model read it; if it has several turns, each begins with its role."""
    messages = judging.conversation(prompt, "").prompt
    if len(messages) == 1:
        return messages[0].content
    return "\n\n".join(f"[{message.role}] {message.content}" for message in messages)


def read(
    path: Path,
    prompts: Sequence[Prompt],
    candidates: Sequence[Sequence[Candidate]],
    seed: int,
) -> list[Selection]:
    """The choices that people wrote into the file.

    Raises:
        DataError: a prompt without a choice, or a choice without an answer or of an empty one;
            names the line.
    """
    given = {
        row["prompt_number"].strip(): (where, row["choice"].strip())
        for where, row in sheets.read(path, COLUMNS, "raft.people")
    }
    found = []
    for prompt, answers in zip(prompts, candidates, strict=True):
        where, written = given.get(str(prompt.number), (str(path), ""))
        count = len(answers)
        if not written.isdecimal() or int(written) > count:
            raise DataError(
                f"{where}: prompt {prompt.number} has the choice {written!r}; expected 1 to "
                f"{count}, or 0 for none of them"
            )
        place = int(written)
        if not place:
            found.append(Selection(None, NONE_ACCEPTED, ("",) * count))
            continue
        index = shuffled(prompt, count, seed)[place - 1]
        if answers[index].empty:
            raise DataError(
                f"{where}: prompt {prompt.number} has the choice {written!r}, an empty answer, "
                "from which there is nothing to learn; expected another, or 0 for none of them"
            )
        found.append(Selection(index, CHOSEN, ("",) * count))
    return found


def shuffled(prompt: Prompt, count: int, seed: int) -> list[int]:
    """The order in which a prompt's candidates are shown."""
    return permutation(count, seed=seed, stream=STREAM + prompt.number).tolist()
