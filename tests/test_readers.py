"""Every kind of file gives the same rows; a broken file is reported in one line."""

import bz2
import gzip
import json
import lzma
import os
import socket

import datasets
import openpyxl
import pyarrow as pa
import pyarrow.parquet
import pytest

from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data import readers
from safety_jax.data.sources import open_source
from tests.data_files import ROWS, write

LINES = ["line 1", "line 2", "line 3"]
INDICES = ["row 0", "row 1", "row 2"]


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("a.json", INDICES),
        ("a.json.gz", INDICES),
        ("a.jsonl", LINES),
        ("a.jsonl.gz", LINES),
        ("a.jsonl.xz", LINES),
        ("a.jsonl.bz2", LINES),
        ("a.ndjson.zst", LINES),
        ("a.ndjson", LINES),
        ("a.tsv", ["line 2", "line 4", "line 5"]),
        ("a.csv", ["line 2", "line 4", "line 5"]),  # below the header; the first has two lines
        ("a.xlsx", ["row 2", "row 3", "row 4"]),  # below the header
        ("a.parquet", INDICES),
        ("stream.arrow", INDICES),
        ("file.arrow", INDICES),
    ],
)
def test_file_kinds(tmp_path, name, places):
    source = open_source(str(write(tmp_path / name)))
    assert list(source.rows) == ROWS
    assert source.where == [f"{name} {place}" for place in places]
    assert source.name == name.split(".")[0]


def test_json_lines_under_a_json_name(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("\n\n".join(json.dumps(row) for row in ROWS))
    source = open_source(str(path))
    assert list(source.rows) == ROWS
    assert source.where == ["a.json line 1", "a.json line 3", "a.json line 5"]


def test_json_lines_may_hold_other_line_breaks(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one\u2028two\u0085three"}\n', encoding="utf-8")
    assert open_source(str(path)).rows == [{"text": "one\u2028two\u0085three"}]


def test_byte_order_mark_is_no_data(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbfinstruction,output\nq,a\n")
    assert open_source(str(path)).rows == [{"instruction": "q", "output": "a"}]


def test_columns_without_a_name_are_no_data(tmp_path):
    """Pandas' index after one and two writes, and a header that ends in separators."""
    path = tmp_path / "a.csv"
    for text in (",a\n0,q\n", ",,a\n0,0,q\n", "a,, \nq,,\n", " ;a;\n0;q;\n"):
        path.write_text(text)
        assert open_source(str(path)).rows == [{"a": "q"}]


def test_parallel_lists(tmp_path):
    path = tmp_path / "I-CoNa.json"
    lists = {"parameters": {"beams": 4}, "inputs": [], "instructions": ["a", "b"], "tags": [1, 2]}
    path.write_text(json.dumps(lists))
    source = open_source(str(path))
    assert source.rows == [{"instructions": "a", "tags": 1}, {"instructions": "b", "tags": 2}]
    assert source.where == ["I-CoNa.json row 0", "I-CoNa.json row 1"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": \n', "a.jsonl line 2: broken JSON"),
        ("a.jsonl", b'{"a": 1}\n[1]\n', "a.jsonl line 2: expected an object, got list"),
        ("a.json", b'[\n{"a": 1},\n{"a" 2}\n]', "a.json line 3 column 6: broken JSON"),
        ("a.json", b'[{"a": 1}, 5]', "a.json row 1: expected an object, got int"),
        ("a.json", b'"text"', "a.json: expected a list of objects, got one str"),
        ("a.json", b'{"x": [1], "y": [1, 2]}', "different lengths {'x': 1, 'y': 2}"),
        ("a.json", b'{"prompt": "x"}', "one object with keys prompt"),
        ("a.json", b"[" * 100_000, "a.json: lists and objects in one another, deeper than 64"),
        ("a.json", b'[{"a": ' + b"[" * 70 + b"]" * 70 + b"}]", "row 0: a[0][0]: lists and objects"),
        (
            "a.jsonl",
            b'{"a": 1}\n{"a": ' + b"[" * 99_999,
            "a.jsonl line 2: lists and objects in one",
        ),
        ("a.jsonl", b'{"a": 1, "b": {"c": 1, "c": 2}}', "line 1: b: the key 'c' stands twice"),
        ("a.json", b'{"a": [1], "a": [2]}', "a.json: the key 'a' stands twice"),
        ("a.jsonl", b'{"a": 1}\n{"b": NaN}', "line 2: b: NaN is no JSON number; write null"),
        ("a.jsonl", b'{"b": [-Infinity]}', "line 1: b[0]: -Infinity is no JSON number"),
        ("a.jsonl", b'{"b": 1e999}', "line 1: b: the number 1e999 is too large"),
        ("a.jsonl", b'{"b": ' + b"9" * 5_000 + b"}", "line 1: b: a number of 5,000 digits"),
        (
            "a.jsonl",
            b'{"b": ["\\udc00\\ud83d"]}',
            "half of a surrogate pair, '\\udc00'; mend the row,",
        ),
        ("a.jsonl", b'{"\\ud83d": 1}', "line 1: half of a surrogate pair"),
        ("a.json", b"", "holds no rows"),
        ("a.json", b"\n \n", "holds no rows"),
        ("a.parquet", b"", "holds no rows"),
        ("a.xlsx", b"", "holds no rows"),
        ("a.json", b'{"x": {"0": "a"}, "y": {"0": "b"}}', "objects, x, y; expected a list of obj"),
        ("a.json", b"[]", "holds no rows"),
        ("a.jsonl", b"\n\n", "holds no rows"),
        ("a.csv", b"", "holds no rows"),
        ("a.csv", b"a,b\n", "holds no rows"),
        ("a.csv", b"a,b\n1,2\n3\n", "a.csv line 3: 1 cells; expected 2"),
        ("a.csv", b'a,b\n1,2\n3,"4\n5,6\n', "a.csv line 3: broken CSV"),
        ("a.csv", b"a,a\n1,2\n", "two columns share a name"),
        ("a.csv", b"a,b\n1,2\na,b\n3,4\n", "a.csv line 3: repeats the header, as two files in one"),
        ("a.tsv", b"a\tb\n1\n", "a.tsv line 2: 1 cells; expected 2"),
        ("a.txt", b"\n \r\n", "holds no rows"),
        ("a.csv", "a,b\n1,2\n".encode("utf-16"), "a.csv: is UTF-16; expected UTF-8, save it as"),
        ("a.jsonl", '{"a": 1}'.encode("utf-16-be"), "a.jsonl: is UTF-16; expected UTF-8"),
        ("a.txt", "a".encode("utf-32"), "a.txt: is UTF-32; expected UTF-8"),
        ("a.csv", b"a,b\n\xff\xfe,2\n", "a.csv line 2: cannot be read as UTF-8"),
        ("a.json", b'[\n{"a": "\xff"}]', "a.json line 2: cannot be read as UTF-8"),
        ("a.jsonl.gz", b"not gzip", "cannot be read"),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 99, mtime=0)[:-9], "cannot be read"),
        ("a.jsonl.xz", lzma.compress(b'{"a": 1}\n' * 99)[:-9], "cannot be read"),
        ("a.jsonl.bz2", bz2.compress(b'{"a": 1}\n' * 99)[:-9], "cannot be read"),
        ("a.jsonl.zst", b"not zstd", "cannot be read"),
        ("a.xlsx", b"PK and no more", "a.xlsx: not a readable Excel workbook"),
        ("a.parquet", b"PAR1 and no more", "not a readable Parquet file"),
        ("a.arrow", b"ARROW1 and no more", "not a readable Arrow file"),
        ("a.arrow", b"\xff\xff\xff\xff and no more", "not a readable Arrow file"),
    ],
)
def test_broken_files_take_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        open_source(str(path), key="data.safety")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_missing_files_and_unknown_kinds(tmp_path):
    with pytest.raises(DataError, match="no such file.*change data.safety"):
        open_source(str(tmp_path / "none.json"), key="data.safety")
    with pytest.raises(DataError, match="is a directory"):
        open_source(str(tmp_path))
    with pytest.raises(ConfigError, match=r"unknown kind of source.*\.jsonl.*hf:NAME:SPLIT"):
        open_source(str(write(tmp_path / "a.json").rename(tmp_path / "a.doc")))
    with pytest.raises(ConfigError, match="names no source"):
        open_source("")


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "zero.jsonl").symlink_to("/dev/zero")
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder.parquet").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s.csv"))
        for name, message in [
            ("pipe.jsonl", "not a regular file"),
            ("zero.jsonl", "not a regular file"),
            ("s.csv", "not a regular file"),
            ("gone.jsonl", "no such file"),
            ("folder.parquet", "is a directory"),
        ]:
            with pytest.raises(DataError, match=message):
                open_source(str(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "content", "rows"),
    [
        ("a.json", b'{"version": 2, "data": [{"a": 1}, {"a": 2}]}', [{"a": 1}, {"a": 2}]),
        ("a.json", b'{"messages": [{"role": "user"}]}', [{"messages": {"role": "user"}}]),
        (
            "a.jsonl",
            b'\xef\xbb\xbf{"a": 1}\r\n\r\n  \r\n{"b": [2.5, null]}',
            [{"a": 1}, {"b": [2.5, None]}],
        ),
        ("a.jsonl", b'{"a": "\\ud83d\\ude00"}', [{"a": "\N{GRINNING FACE}"}]),
        (
            "a.jsonl",
            b'{"a": 123456789012345678901234567890}',
            [{"a": 123456789012345678901234567890}],
        ),
        ("a.csv", b'a,b\r\n1,\r\n\r\n"x\ny",2\r\n', [{"a": "1", "b": ""}, {"a": "x\ny", "b": "2"}]),
        # Excel's, where numbers have a comma; others'; what a first line names.
        ("a.csv", b'\xef\xbb\xbfa;b\r\n1,5;"x; y"\r\n', [{"a": "1,5", "b": "x; y"}]),
        ("a.csv", b"a\tb\n1, 2\tx;y\n", [{"a": "1, 2", "b": "x;y"}]),
        ("a.csv", b"\r\na;b\r\n1;2\r\n", [{"a": "1", "b": "2"}]),
        ("a.csv", b"sep=;\r\na;b,c\r\n1;2\r\n", [{"a": "1", "b,c": "2"}]),
        ("a.csv", b"a,b;c\n1,2;3\n", [{"a": "1", "b;c": "2;3"}]),
        ("a.tsv", b'a\tb\n"x ""y"""\t1, 2\n', [{"a": 'x "y"', "b": "1, 2"}]),
        (
            "a.txt",
            b"\xef\xbb\xbfName a bird.\r\n\r\n Name a tree.",
            [{"prompt": "Name a bird."}, {"prompt": " Name a tree."}],
        ),
    ],
)
def test_odd_and_legal_shapes(tmp_path, name, content, rows):
    path = tmp_path / name
    path.write_bytes(content)
    assert open_source(str(path)).rows == rows


def test_lines_behind_a_separator_keep_their_numbers(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("sep=;\na;b\n1;2\n1;2;3\n")
    with pytest.raises(DataError, match="a.csv line 4: 3 cells; expected 2"):
        open_source(str(path))


def test_broken_text_can_be_replaced(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": "\\ud83d!"}\n{"a": "\xff"}')
    found = open_source(f"{path}?broken_text=replace").rows
    assert found == [{"a": "\ufffd!"}, {"a": "\ufffd"}]


def test_a_name_of_escapes_stays_a_name(tmp_path):
    path = write(tmp_path / "\x1b[2J.jsonl")
    assert open_source(str(path)).where[0] == r"\x1b[2J.jsonl line 1"


def test_a_file_that_unpacks_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "_ANY_TEXT", 1 << 20)
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(bytes(8 << 20)))
    with pytest.raises(DataError, match="unpacks to more than 1 MiB"):
        open_source(str(path))


def test_endings_of_files_with_columns():
    assert ".tsv.zst" in readers.COLUMN_ENDINGS and ".txt.gz" not in readers.COLUMN_ENDINGS
    assert set(readers.COLUMN_ENDINGS) < set(readers.ENDINGS)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs"),
        ("a.json", b"<!DOCTYPE html><html><body>", "is a web page; download the file itself"),
        (
            "a.jsonl",
            gzip.compress(b"{}", mtime=0),
            "is compressed by gzip; let its name end in .gz",
        ),
        ("a.csv", lzma.compress(b"{}"), "is compressed by xz"),
        ("a.csv", bz2.compress(b"{}"), "is compressed by bzip2"),
        ("a.csv", b"PK\3\4", "an Excel workbook whose name should end in .xlsx"),
    ],
)
def test_a_file_of_another_kind_is_called_by_its_name(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_source(str(tmp_path / name))


def test_a_file_that_begins_with_such_a_word_is_read(tmp_path):
    for name, text in (("a.csv", "PAR1,b\n1,2\n"), ("b.csv", "BZh9,b\n1,2\n"), ("a.txt", "<html>")):
        (tmp_path / name).write_text(text)
        assert len(open_source(str(tmp_path / name)).rows) == 1


def test_a_folder_or_several_files_have_a_spec_of_their_own(tmp_path):
    with pytest.raises(DataError, match=f"is a directory; .* hf:{tmp_path}:SPLIT"):
        open_source(str(tmp_path))
    with pytest.raises(DataError, match="no such file.*hf:FOLDER:SPLIT"):
        open_source(f"{tmp_path}/train-*.parquet")


def test_a_workbook_of_several_sheets_is_not_read_in_part(tmp_path):
    path = write(tmp_path / "a.xlsx")
    book = openpyxl.load_workbook(path)
    book.create_sheet("empty", 0)
    book.save(path)
    assert list(open_source(str(path)).rows) == ROWS, "an empty sheet does not count"
    book.create_sheet("More").append(["instruction", "output"])
    book.save(path)
    with pytest.raises(DataError, match=r"a\.xlsx: 2 sheets hold something \('Sheet', 'More'\)"):
        open_source(str(path))


CLASSES = datasets.Features({
    "prompt": datasets.Value("string"), "response": datasets.Value("string"),
    "label": datasets.ClassLabel(names=["unsafe", "safe"]),
    "category": datasets.List(datasets.ClassLabel(names=["theft", "fraud"])),
})  # fmt: skip


@pytest.mark.parametrize("kind", ["parquet", "arrow", "hub"])
def test_classes_are_read_by_name_and_not_by_number(kind, tmp_path):
    """Here 1 means safe; read as a number, it would mean unsafe."""
    datasets.disable_progress_bars()
    found = datasets.Dataset.from_dict(
        {"prompt": ["a"] * 3, "response": ["b"] * 3, "label": [0, 1, -1],
         "category": [[0, 1], [], [1]]},
        features=CLASSES,
    )  # fmt: skip
    path = tmp_path / f"rows.{kind}"
    if kind == "parquet":
        found.to_parquet(path)
    else:
        found.save_to_disk(tmp_path / "saved")
        (arrow,) = (tmp_path / "saved").glob("*.arrow")
        path = arrow if kind == "arrow" else f"hf:{tmp_path}/saved:train"
    rows = open_source(str(path)).rows
    assert [row["label"] for row in rows] == ["unsafe", "safe", None]
    assert [row["category"] for row in rows] == [["theft", "fraud"], [], ["fraud"]]


@pytest.mark.parametrize(
    "written",
    [b"{", b"[]", b"[" * 9999,
     b'{"info": {"features": {"label": {"names": 3, "_type": "ClassLabel"}}}}'],
)  # fmt: skip
def test_odd_metadata_names_no_classes(written, tmp_path):
    table = pa.table({"label": [0]}).replace_schema_metadata({"huggingface": written})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert open_source(f"{tmp_path}/a.parquet").rows[0]["label"] == 0
