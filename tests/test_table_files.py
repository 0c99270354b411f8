"""Excel, Parquet and Arrow files: their values, and broken files in one line."""

import datetime
import zipfile

import numpy as np
import openpyxl
import pyarrow as pa
import pyarrow.parquet
import pytest

from safety_jax.base.errors import DataError
from safety_jax.data import records, table_files, values
from safety_jax.data.sources import open_source
from tests.data_files import write

# ---------------------------------------------------------------------------- Excel


def test_a_sheet_may_have_gaps(tmp_path):
    book = openpyxl.Workbook()
    for row in (["prompt", None, "n"], ["a", "no title", 1], [], ["b", None, None]):
        book.active.append(row)
    book.save(tmp_path / "a.xlsx")
    source = open_source(str(tmp_path / "a.xlsx"))
    assert source.rows == [{"prompt": "a", "n": "1"}, {"prompt": "b", "n": ""}]
    assert source.where == ["a.xlsx row 2", "a.xlsx row 4"]
    escaped = openpyxl.Workbook()
    escaped.active.append(["prompt"])
    escaped.active.append(["Bake_x000D_\n_x0041_ cake"])  # a carriage return, as Excel writes it
    escaped.save(tmp_path / "d.xlsx")
    assert open_source(str(tmp_path / "d.xlsx")).rows == [{"prompt": "Bake\r\n_x0041_ cake"}]
    narrow = openpyxl.Workbook(write_only=True)  # which does not tell its width
    for row in (["prompt", "n"], ["a"], ["b", 2]):
        sheet = narrow.active or narrow.create_sheet()
        sheet.append(row)
    narrow.save(tmp_path / "c.xlsx")
    assert open_source(str(tmp_path / "c.xlsx")).rows == [
        {"prompt": "a", "n": ""}, {"prompt": "b", "n": "2"},
    ]  # fmt: skip
    blank = openpyxl.Workbook()
    for row in ([None, " ", "prompt", " "], [0, 0, "a", ""]):
        blank.active.append(row)
    blank.save(tmp_path / "e.xlsx")
    assert open_source(str(tmp_path / "e.xlsx")).rows == [{"prompt": "a"}]
    book.active["C1"] = "prompt"
    book.save(tmp_path / "b.xlsx")
    with pytest.raises(DataError, match=r"b\.xlsx row 1: two columns share a name"):
        open_source(str(tmp_path / "b.xlsx"))


def test_a_sheet_that_unpacks_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(table_files, "_SHEET_BYTES", 1 << 20)
    path = write(tmp_path / "a.xlsx")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("xl/media/image1.png", bytes(4 << 20))
    with pytest.raises(DataError, match="not a readable Excel workbook .*unpacks to 4 MiB"):
        open_source(str(path))


# ---------------------------------------------------------------------------- Parquet and Arrow


def test_values_of_tables_become_plain(tmp_path):
    when = datetime.date(2026, 5, 1)
    table = pa.table(
        {
            "text": pa.array(["a", None]).dictionary_encode(),
            "number": [1.5, float("nan")],
            "infinite": [float("inf"), 0.0],
            "when": [when, None],
            "bytes": [b"\xc3\xbc", b""],
            "turns": [[{"role": "user"}], []],
            "map": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    first, second = open_source(str(tmp_path / "a.parquet")).rows
    assert first == {
        "text": "a", "number": 1.5, "infinite": "inf", "when": "2026-05-01", "bytes": "ü",
        "turns": [{"role": "user"}], "map": [["k", 1]],
    }  # fmt: skip
    assert second["text"] is second["number"] is second["when"] is second["map"] is None
    unknown = {"bytes": "object", "path": None}
    assert values.plain({1: np.array([1, 2]), "x": object()}) == {"1": [1, 2], "x": unknown}


def test_pictures_in_tables_are_named_and_their_columns_can_be_passed_over(tmp_path):
    """Slow, because a process of its own reads each of ten files."""
    picture = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
    stored = [{"bytes": picture, "path": "a.png"}, {"bytes": None, "path": "b.png"}]
    table = {"prompt": ["a", "b"], "response": ["c", "d"]}
    for column in (stored, [[stored[0]], []], [picture, None]):
        path = tmp_path / "a.parquet"
        pyarrow.parquet.write_table(pa.table(table | {"figure": column}), path)
        for options in ("", "?broken_text=replace"):
            source = open_source(f"{path}{options}")
            with pytest.raises(DataError, match="row 0: 'figure' holds pictures or sounds"):
                records.read_records(source)
        assert len(records.read_records(open_source(f"{path}?without=figure"))) == 2
    pyarrow.parquet.write_table(pa.table({"text": [b"\xff\xfe", b""]}), path)
    with pytest.raises(DataError, match="text: bytes that are not UTF-8"):
        open_source(str(path))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"a": ["x" * 12_345]}), "ffset invariant failure|larger than"),
        (pa.table({"a": pa.array([b"\xff\xfe"]).view(pa.string())}), "Invalid UTF8"),
        (pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"]), "share a name: a, a"),
    ],
)
def test_broken_tables_take_one_line(tmp_path, table, message):
    """Offsets outside, text that is none, two columns of one name."""
    path = tmp_path / "a.arrow"
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)
    content = bytearray(path.read_bytes())
    # The last such number is the column's offset; pyarrow itself writes none that is wrong.
    if (at := content.rfind(np.int32(12_345).tobytes())) > 0:
        content[at : at + 4] = np.int32(2_000_000_000).tobytes()
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.arrow: not a readable Arrow file \(.*({message})"):
        open_source(str(path))


def test_a_crash_or_a_hang_of_the_reading_process_takes_one_line(tmp_path, monkeypatch):
    path = write(tmp_path / "a.parquet")
    for command, message in [
        ("kill -SEGV $$", r"\(reading it ended with SIGSEGV: it is broken\)"),
        ("exec sleep 60", "not read within 0 seconds"),
        ("exit 3", r"\(code 3\)"),
    ]:
        program = tmp_path / "python"
        program.write_text(f"#!/bin/sh\n{command}\n")
        program.chmod(0o755)
        monkeypatch.setattr(table_files.sys, "executable", str(program))
        monkeypatch.setattr(table_files, "_SECONDS", 0.3)
        with pytest.raises(DataError, match=message):
            open_source(str(path))
