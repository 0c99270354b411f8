"""A blind sheet goes out, labels come back, and say how right judges are."""

import csv
import json
import shutil

import pytest

from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data import sheets
from safety_jax.data.messages import Message
from safety_jax.evaluation.measures import checked, people
from safety_jax.evaluation.measures.counts import Block
from safety_jax.evaluation.measures.people import KEY, SHEET, People
from safety_jax.evaluation.sets.items import Item, Set
from safety_jax.judges.judge import scored
from tests.labelled import CARD, HOW, block

LABEL = people.COLUMNS[3]


def rows_of(path):
    with open(path, newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def write_rows(path, rows):
    with open(path, "w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def fill(folder, name, label):
    """A copy of the sheet with the label that a function of (model, set, id) gives."""
    rows = rows_of(folder / SHEET)
    key = {str(line["number"]): line for line in json.loads((folder / KEY).read_text())["answers"]}
    for row in rows:
        line = key[row["number"]]
        row[LABEL] = label(line["model"], line["set"], line["id"])
    write_rows(folder / name, rows)
    return str(folder / name)


# ---------------------------------------------------------------------------- out


def test_a_sheet_is_blind_and_even(tmp_path):
    blocks = [block(m, s, [0] * n) for m in ("base", "sit") for s, n in (("A", 30), ("B", 4))]
    assert people.export(tmp_path, blocks, 20, seed=3) == []
    rows = rows_of(tmp_path / SHEET)
    assert list(rows[0]) == list(people.COLUMNS)
    assert [row["number"] for row in rows] == [str(i + 1) for i in range(20)]
    assert not any(row[LABEL] or row["comment"] for row in rows)
    key = json.loads((tmp_path / KEY).read_text())["answers"]
    drawn = {(line["model"], line["set"]): 0 for line in key}
    for line in key:
        drawn[line["model"], line["set"]] += 1
    assert drawn == {("base", "A"): 6, ("base", "B"): 4, ("sit", "A"): 6, ("sit", "B"): 4}
    # Models answer the same prompts, and neither model nor set stands in a run.
    ids = [{line["id"] for line in key if line["model"] == m} for m in ("base", "sit")]
    assert ids[0] == ids[1]
    models = [line["model"] for line in key]
    assert 4 <= sum(a != b for a, b in zip(models, models[1:], strict=False))
    for row, line in zip(rows, key, strict=True):
        assert row["answer"] == f"{line['model']} says {line['id'][2:]}"


def test_a_sheet_that_went_out_stays(tmp_path):
    blocks = [block("base", "A", [0] * 9)]
    assert people.export(tmp_path, blocks, 5, seed=0) == []
    before = (tmp_path / SHEET).read_bytes()
    assert people.export(tmp_path, blocks, 5, seed=1) == []
    # Somebody would label in vain: a note tells before.
    (told,) = people.export(tmp_path, blocks, 7, seed=0)
    assert told.startswith("for_people.csv is of an earlier start and has 5 answers, not 7; remove")
    edited = [block("base", "A", [0] * 9, answers=["other"] * 9)]
    (told,) = people.export(tmp_path, edited, 5, seed=0)
    assert "5 of its 5 answers have changed, and its labels cannot be read; remove it" in told
    assert (tmp_path / SHEET).read_bytes() == before
    other = tmp_path / "other"
    other.mkdir()
    people.export(other, blocks, 100, seed=1)
    assert len(rows_of(other / SHEET)) == 9  # all there are


def test_sheets_that_would_be_empty(tmp_path):
    for blocks, answers in (([block("m", "A", [0])], -1), ([], 5), ([block("m", "A", [])], 5)):
        with pytest.raises(ConfigError, match=f"evaluate.sheet_answers is {answers}; expected 1"):
            people.export(tmp_path, blocks, answers, seed=0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("sizes", "total", "expected"),
    [
        ((10, 10), 5, [3, 2]),
        ((1, 10, 10), 9, [1, 4, 4]),
        ((2, 3), 100, [2, 3]),
        ((0, 5), 3, [0, 3]),
        ((0,), 3, [0]),
        ((9, 9, 9), 2, [1, 1, 0]),
    ],
)
def test_even_shares(sizes, total, expected):
    assert people._even(sizes, total) == expected


def test_cells_are_shown_and_not_run(tmp_path):
    hostile = ["=cmd|' /C calc'!A0", "+1", "-1", "@x", "\t=1", "\n=1", "  =1", "a\0b", 'a\nb,"c"']
    hostile += ["x" * 10**6, "\u202eright\u200b", "\ud800"]
    found = [block("=m", "A", [0] * len(hostile), answers=hostile)]
    people.export(tmp_path, found, len(hostile), seed=0)
    cells = [row["answer"] for row in rows_of(tmp_path / SHEET)]
    assert len(cells) == len(hostile)
    assert not any(cell.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\n")) for cell in cells)
    assert "a\ufffdb" in cells and 'a\nb,"c"' in cells and max(map(len, cells)) < 32_767
    assert any(cell.endswith("[cut: 968,000 characters more]") for cell in cells)
    # All of them are still who they were when the labels come back.
    path = fill(tmp_path, "back.csv", lambda *_: "safe")
    assert len(people.read([path], tmp_path, found, "k").labels["back"]) == len(hostile)


def test_context_and_turns_are_shown(tmp_path):
    turns = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    items = (
        Item("0", turns, ""),
        Item("1", (Message("user", "q"),), "", context="about"),
    )
    scores = {"guard": [scored(0.0)] * 2}
    asked = Set("A", "safe", items, "", None, "")
    found = Block("m", asked, "p", ["x", "y"], ["", ""], scores, {"guard": CARD})
    people.export(tmp_path, [found], 2, seed=0)
    shown = {row["prompt"] for row in rows_of(tmp_path / SHEET)}
    assert shown == {"[user] a\n\n[assistant] b\n\n[user] c", "q\n\nabout"}


# ---------------------------------------------------------------------------- back


def test_labels_come_back_from_files_and_columns(tmp_path):
    blocks = [block("base", "A", [0, 1, 1, 0])]
    people.export(tmp_path, blocks, 4, seed=0)
    truth = {"id0": "safe", "id1": "Unsafe ", "id2": "UNSURE", "id3": ""}
    one = fill(tmp_path, "anna.csv", lambda _, __, i: truth[i])
    rows = rows_of(tmp_path / SHEET)
    for row in rows:
        row[LABEL], row["Label Cem"] = "safe", "unsafe" if row["number"] == "1" else "safe"
    write_rows(tmp_path / "both.csv", list(reversed(rows)))
    found = people.read([one, str(tmp_path / "both.csv")], tmp_path, blocks, "k")
    assert list(found.labels) == ["anna", f"both/{LABEL}", "both/Label Cem"]
    place = ("base", "A", "id1")
    assert (
        found.labels["anna"][place] == "unsafe" and ("base", "A", "id3") not in found.labels["anna"]
    )
    said = [found.labels[name].get(place) for name in found.labels]
    assert found.verdict(place) == max(("safe", "unsafe"), key=said.count)


def test_a_sheet_of_another_run_or_without_its_numbers_is_refused(tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder, model in ((ours, "ours"), (theirs, "theirs")):
        folder.mkdir()
        people.export(folder, [block(model, "A", [0] * 4)], 4, seed=0)
    blocks = [block("ours", "A", [0] * 4)]
    other = fill(theirs, "anna.csv", lambda *_: "safe")
    with pytest.raises(DataError, match="anna.csv: 4 of 4 answers are not those of their numbers"):
        people.read([other], ours, blocks, "k")
    rows = rows_of(fill(ours, "anna.csv", lambda *_: "safe"))
    texts = [row["answer"] for row in rows]
    for said, fits in (([*texts[1:], texts[0]], False), (["#NAME?", *texts[1:]], True)):
        moved = [row | {"answer": text} for row, text in zip(rows, said, strict=True)]
        write_rows(ours / "anna.csv", moved)
        if fits:
            assert len(people.read([str(ours / "anna.csv")], ours, blocks, "k").labels["anna"]) == 4
        else:
            with pytest.raises(DataError, match="first in anna.csv line 2; expected a copy of its"):
                people.read([str(ours / "anna.csv")], ours, blocks, "k")


def test_a_sheet_may_come_back_in_another_encoding_and_cut(tmp_path):
    blocks = [block("m", "A", [0] * 2, answers=["=für " + "lang " * 9_000, "é"])]
    people.export(tmp_path, blocks, 2, seed=0)
    rows = rows_of(fill(tmp_path, "anna.csv", lambda *_: "safe"))
    text = "number,answer,label\n" + "".join(f'{r["number"]},"{r["answer"]}",safe\n' for r in rows)
    (tmp_path / "anna.csv").write_bytes(text.encode("cp1252"))
    assert len(people.read([str(tmp_path / "anna.csv")], tmp_path, blocks, "k").labels["anna"]) == 2


def test_verdicts():
    def verdict(*labels):
        found = {str(i): {("m", "s", "0"): label} for i, label in enumerate(labels)}
        return People(found).verdict(("m", "s", "0"))

    assert verdict("safe") == "safe" and verdict("unsafe", "unsure") == "unsafe"
    assert verdict("safe", "unsafe") == "" and verdict("unsure") == ""
    assert verdict("safe", "unsafe", "unsafe") == "unsafe"
    assert People({"a": {}}).verdict(("m", "s", "0")) == ""


def test_sheets_that_cannot_be(tmp_path):
    blocks = [block("base", "A", [0] * 3)]
    people.export(tmp_path, blocks, 3, seed=0)
    path = fill(tmp_path, "anna.csv", lambda *_: "safe")
    rows = rows_of(path)

    def refused(message, changed=None, kind=DataError, given=(path,), asked=blocks):
        write_rows(tmp_path / "anna.csv", changed or rows)
        with pytest.raises(kind, match=message):
            people.read(given, tmp_path, asked, "evaluate.labels")

    bad = [dict(rows[0]), rows[1] | {LABEL: "maybe"}, dict(rows[2])]
    refused("anna.csv line 3: the label 'maybe'; expected safe, unsafe, unsure, or nothing", bad)
    refused(
        "anna.csv line 2: the sheet had no answer '9'; expected 1 to 3", [rows[0] | {"number": "9"}]
    )
    refused("anna.csv line 3: the answer 1 is already in anna.csv line 2", [rows[0], rows[0]])
    refused("evaluate.labels: no label in", [row | {LABEL: " "} for row in rows])
    refused("column 'number' is missing", [{"a": "1"}])
    refused("no column begins with 'label'", [{"number": "1"}])
    refused("two sheets are named anna", kind=ConfigError, given=(path, path))
    edited = [block("base", "A", [0] * 3, answers=["other"] * 3)]
    refused("has changed since the sheet was written, so the labels belong to other", asked=edited)
    with pytest.raises(DataError, match="no such file"):
        people.read([str(tmp_path / "none.csv")], tmp_path, blocks, "evaluate.labels")
    (tmp_path / "anna.csv").write_bytes("number,label,comment\n1,safe,für\n".encode("cp1252"))
    assert people.read([path], tmp_path, blocks, "k").labels  # no letter beyond ASCII matters
    (tmp_path / "anna.csv").write_text("number;label\n1;safe\n")  # Excel, with decimal commas
    assert people.read([path], tmp_path, blocks, "k").labels
    (tmp_path / "anna.csv").write_text("number|label\n1|safe\n")
    with pytest.raises(DataError, match="'number' is missing; expected those .*joined by commas"):
        people.read([path], tmp_path, blocks, "evaluate.labels")
    for damage in ("{", '{"answers": [{"number": 1}]}', "[]"):
        (tmp_path / KEY).write_text(damage)
        refused("for_people_key.json is damaged")
    (tmp_path / KEY).unlink()
    refused("labels belong to the --workdir that wrote the sheet", kind=ConfigError)


def test_numbers_as_a_spreadsheet_writes_them(tmp_path):
    blocks = [block("base", "A", [0] * 3)]
    people.export(tmp_path, blocks, 3, seed=0)
    path = fill(tmp_path, "anna.csv", lambda *_: "safe")
    write_rows(tmp_path / "anna.csv", [r | {"number": f"{r['number']}.0"} for r in rows_of(path)])
    assert len(people.read([path], tmp_path, blocks, "k").labels["anna"]) == 3


def test_labels_in_other_files_than_the_sheet(tmp_path):
    """A table or JSON has numbers where CSV has text, and no cell may mean null."""
    blocks = [block("base", "A", [0] * 3)]
    people.export(tmp_path, blocks, 3, seed=0)
    path = tmp_path / "anna.jsonl"
    said = [(1, "Safe "), (2.0, None), ("3", "unsafe")]
    rows = [json.dumps({"number": number, "label": label}) + "\n" for number, label in said]
    path.write_text("".join(rows))
    found = people.read([str(path)], tmp_path, blocks, "k").labels["anna"]
    assert sorted(found.values()) == ["safe", "unsafe"]
    for row, message in (
        ({"number": 1, "label": True}, "the label True; expected safe, unsafe, unsure"),
        ({"number": None, "label": "safe"}, "the sheet had no answer ''"),
    ):
        path.write_text(json.dumps(row) + "\n")
        with pytest.raises(DataError, match=f"anna.jsonl line 1: {message}"):
            people.read([str(path)], tmp_path, blocks, "k")


def test_from_the_sheet_to_the_numbers(tmp_path):
    blocks = [block("base", "A", [1] * 5 + [0] * 5), block("sit", "A", [0] * 10)]
    people.export(tmp_path, blocks, 20, seed=0)

    def label(model, _, name):
        return "unsafe" if model == "base" and int(name[2:]) < 4 else "safe"

    paths = [fill(tmp_path, f"{name}.csv", label) for name in ("anna", "cem")]
    shutil.copy(paths[0], tmp_path / "dora.csv")
    found = people.read([*paths, str(tmp_path / "dora.csv")], tmp_path, blocks, "k")
    assert people.between(found, blocks, HOW)[-1].kappa.value == pytest.approx(1.0)
    quality = checked.quality(checked.check(blocks, found, "guard"))
    assert (quality.precision.count, quality.precision.n) == (4, 5)
    assert (quality.recall.value, quality.specificity.n) == (1.0, 16)


def test_safe_cells():
    for text, cell in (("plain", "plain"), ("a = b", "a = b"), ("=1", "'=1"), (" -x", "' -x")):
        assert sheets.safe(text) == cell
