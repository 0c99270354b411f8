"""What a round of RAFT leaves for people and later stages: summary, sheets, selected answers."""

import csv
import json

import numpy as np
import pytest

from safety_jax.base.errors import DataError
from safety_jax.data import records, sources
from safety_jax.data.messages import Message
from safety_jax.data.records import Record
from safety_jax.raft import judging, people, prompt_pool, reporting, round_files, selection
from safety_jax.raft.round_files import Candidate


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"round": 1}'])
def test_an_edited_summary_is_one_line(text, tmp_path):
    assert round_files.read_summary(tmp_path) is None
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(DataError, match=r"summary.json: .*; put the file back, or use another"):
        round_files.read_summary(tmp_path)


# ---------------------------------------------------------------------------- people


def prompt(number: int) -> prompt_pool.Prompt:
    record = Record((Message("user", f"=cmd {number}"),), "", "s", f"row {number}")
    return prompt_pool.Prompt(number, "unsafe", record, [1], "")


def test_people_choose_blind(tmp_path):
    asked = [prompt(i) for i in range(12)]
    texts = [[Candidate(f"-{k} of {i}", (1,), 0.0, "eos") for k in range(4)] for i in range(12)]
    file = tmp_path / "for_people.csv"
    people.export(file, asked, texts, seed=0)
    with open(file, newline="", encoding="utf-8-sig") as opened:
        rows = list(csv.DictReader(opened))
    assert not any(cell.startswith(("=", "-", "+", "@")) for row in rows for cell in row.values())
    shown = [[row[f"answer_{k + 1}"] for k in range(4)] for row in rows]
    assert [sorted(row) for row in shown] == [
        [f"'-{k} of {i}" for k in range(4)] for i in range(12)
    ]
    assert len({tuple(s[2] for s in row) for row in shown}) > 3  # each prompt has its own order

    for i, row in enumerate(rows):  # takes candidate 2, wherever it stands; none for the first
        row["choice"] = str(shown[i].index(f"'-2 of {i}") + 1) if i else "0"
    with open(file, "w", newline="", encoding="utf-8-sig") as opened:
        writer = csv.DictWriter(opened, list(rows[0]))
        writer.writeheader()
        writer.writerows(reversed(rows))
    found = people.read(file, asked, texts, seed=0)
    assert [choice.index for choice in found] == [None] + [2] * 11
    file.write_text(file.read_text(encoding="utf-8-sig").replace("cmd 3,", "cmd 3,x"))
    with pytest.raises(DataError, match=r"line 10: prompt 3 has the choice 'x\d'; expected 1 to 4"):
        people.read(file, asked, texts, seed=0)


ABOUT = prompt_pool.Prompt(
    3, "ordinary",
    Record(
        (
            Message("user", "Sum up."), Message("assistant", "What?", learned=False),
            Message("user", "This."), Message("assistant", "It is lo", cut=True),
        ),
        "A long text.", "s", "row 3",
    ),
    [1], "It is lo",
)  # fmt: skip


def test_people_read_all_that_the_model_read(tmp_path):
    people.export(tmp_path / "sheet.csv", [ABOUT], [[Candidate("-", (1,), 0.0, "eos")]], seed=0)
    with open(tmp_path / "sheet.csv", newline="", encoding="utf-8-sig") as opened:
        (row,) = csv.DictReader(opened)
    assert row["prompt"] == "[user] Sum up.\n\nA long text.\n\n[assistant] What?\n\n[user] This."


@pytest.mark.parametrize(
    ("candidate", "finish"),
    [
        (Candidate("It is lo", (1,), 0.0, "length"), "length"),
        (Candidate("It is long.", (1,), 0.0, "eos"), "stop"),
        (Candidate.of_reference("It is lo"), "length"),  # as its row says
    ],
)
def test_what_a_round_selects_is_read_as_the_round_learned_it(candidate, finish, tmp_path):
    chosen = selection.Selection(0, selection.CHOSEN, ("",))
    reporting.write(tmp_path, [ABOUT], [[candidate]], [{}], [np.zeros(1)], [chosen])
    (row,) = map(json.loads, (tmp_path / "selected.jsonl").read_text().splitlines())
    assert row["finish_reason"] == finish
    (read,) = records.read_records(sources.open_source(str(tmp_path / "selected.jsonl")))
    learned = judging.to_learn(ABOUT, candidate)
    assert read.messages[0].content == "Sum up.\n\nA long text."
    assert read.messages[1:] == learned.messages[1:] and learned.context


@pytest.mark.parametrize(
    ("choice", "message"),
    [("²", "has the choice '²'; expected 1 to 1"), ("1", "has the choice '1', an empty answer")],
)
def test_choices_of_people_that_cannot_be(choice, message, tmp_path):
    file, answers = tmp_path / "choices.csv", [[Candidate("", (1,), 0.0, "eos")]]
    file.write_text(f"prompt_number,prompt,choice,answer_1\n0,Ask,{choice},\n")
    with pytest.raises(DataError, match=message):
        people.read(file, [prompt(0)], answers, seed=0)


# ---------------------------------------------------------------------------- measures
