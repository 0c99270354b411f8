"""Every kind of source gives the same rows; whatever is wrong with one takes one line to say."""

import csv
import functools
import gzip
import http.server
import json
import threading

import datasets
import openpyxl
import pyarrow as pa
import pyarrow.parquet
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import dataset_metadata

from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data.sources import open_source

ROWS = [
    {"instruction": "Name a colour.", "output": "Red.\nOr blue."},
    {"instruction": 'Say "hello", ü', "output": "hello"},
    {"instruction": "Third", "output": "3"},
]


def write(path, rows=ROWS):
    """Writes rows in the form that the path's ending asks for."""
    name = path.name
    compress = gzip.compress if name.endswith(".gz") else bytes
    if ".jsonl" in name:
        path.write_bytes(compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    elif ".json" in name:
        path.write_bytes(compress(json.dumps(rows, ensure_ascii=False, indent=1).encode()))
    elif name.endswith(".csv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif name.endswith(".xlsx"):
        book = openpyxl.Workbook()
        for row in (list(rows[0]), *(list(row.values()) for row in rows)):
            book.active.append(row)
        book.save(path)
    elif name.endswith(".parquet"):
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        make = pa.ipc.new_stream if "stream" in name else pa.ipc.new_file
        table = pa.Table.from_pylist(rows)
        with make(path, table.schema) as writer:
            writer.write_table(table)
    return path


LINES = ["line 1", "line 2", "line 3"]
INDICES = ["row 0", "row 1", "row 2"]


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("a.json", INDICES),
        ("a.json.gz", INDICES),
        ("a.jsonl", LINES),
        ("a.jsonl.gz", LINES),
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


def test_a_sheet_may_have_gaps(tmp_path):
    book = openpyxl.Workbook()
    for row in (["prompt", None, "n"], ["a", "no title", 1], [], ["b", None, None]):
        book.active.append(row)
    book.save(tmp_path / "a.xlsx")
    source = open_source(str(tmp_path / "a.xlsx"))
    assert source.rows == [{"prompt": "a", "n": "1"}, {"prompt": "b", "n": ""}]
    assert source.where == ["a.xlsx row 2", "a.xlsx row 4"]
    narrow = openpyxl.Workbook(write_only=True)  # which does not tell its width
    for row in (["prompt", "n"], ["a"], ["b", 2]):
        sheet = narrow.active or narrow.create_sheet()
        sheet.append(row)
    narrow.save(tmp_path / "c.xlsx")
    assert open_source(str(tmp_path / "c.xlsx")).rows == [
        {"prompt": "a", "n": ""}, {"prompt": "b", "n": "2"},
    ]  # fmt: skip
    book.active["C1"] = "prompt"
    book.save(tmp_path / "b.xlsx")
    with pytest.raises(DataError, match=r"b\.xlsx row 1: two columns share a name"):
        open_source(str(tmp_path / "b.xlsx"))


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
        ("a.json", b"[" * 100_000, "nested too deeply"),
        ("a.json", b"", "a.json line 1 column 1: broken JSON"),
        ("a.json", b"[]", "holds no rows"),
        ("a.jsonl", b"\n\n", "holds no rows"),
        ("a.csv", b"", "holds no rows"),
        ("a.csv", b"a,b\n", "holds no rows"),
        ("a.csv", b"a,b\n1,2\n3\n", "a.csv line 3: 1 cells; expected 2"),
        ("a.csv", b'a,b\n1,2\n3,"4\n5,6\n', "a.csv line 3: broken CSV"),
        ("a.csv", b"a,a\n1,2\n", "two columns share a name"),
        ("a.json", b'[\n{"a": "\xff"}]', "a.json line 2: cannot be read as UTF-8"),
        ("a.jsonl.gz", b"not gzip", "cannot be read"),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 99, mtime=0)[:-9], "cannot be read"),
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
        open_source(str(write(tmp_path / "a.json").rename(tmp_path / "a.txt")))
    with pytest.raises(ConfigError, match="names no source"):
        open_source("")


def test_options(tmp_path):
    path = write(tmp_path / "a.json")
    options = "rows=2&weight=0.25&format=alpaca&columns=instruction:q,output:a&name=my%20set"
    source = open_source(f"{path}?{options}&bad_rows=skip")
    assert (source.take, source.weight, source.format) == (2, 0.25, "alpaca")
    assert source.columns == {"instruction": "q", "output": "a"}
    assert (source.name, source.skip_bad_rows) == ("my set", True)
    plain = open_source(str(path))
    assert (plain.take, plain.weight, plain.format, plain.columns) == (None, None, None, {})
    assert not plain.skip_bad_rows


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("row=5", "unknown option 'row'; known are rows, weight, format, columns, name"),
        ("rows=0", "rows=0; expected a whole number above 0"),
        ("rows=many", "rows=many; expected a whole number above 0"),
        ("weight=-1", "weight=-1; expected a number above 0"),
        ("weight=inf", "weight=inf; expected a number above 0"),
        ("columns=a", "columns=a; expected ours:theirs pairs"),
        ("bad_rows=drop", "bad_rows=drop; expected skip or error"),
        ("name=", "name=; expected a word"),
    ],
)
def test_wrong_options(tmp_path, query, message):
    with pytest.raises(ConfigError) as error:
        open_source(f"{write(tmp_path / 'a.json')}?{query}")
    assert message in str(error.value)


def test_a_question_mark_in_a_path(tmp_path):
    path = write(tmp_path / "what?.json")
    assert len(open_source(f"{path}?").rows) == len(open_source(f"{path}?rows=2").rows) == 3


@pytest.fixture
def server(tmp_path):
    """A web server for a folder, which keeps the paths that were asked for."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            asked.append(self.path)

    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{running.server_port}", asked
        running.shutdown()
        thread.join()


def test_url_is_fetched_once(server, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", tmp_path / "cache")
    folder, address, asked = server
    write(folder / "a.jsonl.gz")
    for _ in range(2):
        source = open_source(f"{address}/a.jsonl.gz?rows=2")
        assert list(source.rows) == ROWS and source.take == 2
        assert source.where[0] == "a.jsonl.gz line 1" and source.name == "a"
    assert asked == ["/a.jsonl.gz"]
    with pytest.raises(ConfigError, match="404.*set data.safety to its path"):
        open_source(f"{address}/b.json", key="data.safety")
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_url_out_of_reach_names_the_key():
    with pytest.raises(ConfigError, match="cannot be fetched.*set data.train to its path"):
        open_source("http://127.0.0.1:9/a.json")


def test_hugging_face_dataset(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    (tmp_path / "mine").mkdir()
    write(tmp_path / "mine" / "train.jsonl")
    source = open_source(f"hf:{tmp_path}/mine:train?rows=2")
    assert list(source.rows) == ROWS
    assert source.name == "mine" and source.where[2] == f"hf:{tmp_path}/mine:train row 2"
    for spec in (f"hf:{tmp_path}/mine:nosplit", f"hf:{tmp_path}/mine:noconfig:train"):
        with pytest.raises(ConfigError, match="cannot be loaded.*set data.train to a file"):
            open_source(spec)
    with pytest.raises(ConfigError, match="expected hf:NAME:SPLIT"):
        open_source("hf:mine")


def test_tensorflow_dataset_without_tensorflow(tmp_path, monkeypatch):
    class TinyTurns(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        @classmethod
        def get_metadata(cls):
            return dataset_metadata.DatasetMetadata(description="three rows", citation="")

        def _info(self):
            text = tfds.features.Text()
            features = {"instruction": text, "output": text, "tags": tfds.features.Sequence(text)}
            features = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, _):
            rows = [(i, row | {"tags": ["ä", "b"]}) for i, row in enumerate(ROWS)]
            return {"train": iter(rows), "validation": iter(rows[:1])}

        def _generate_examples(self):
            raise AssertionError("the split has its own generator")

    tfds.display_progress_bar(False)
    TinyTurns(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    tfds.core.add_data_dir(tmp_path)
    source = open_source("tfds:tiny_turns:train")
    # TFDS shuffles what it stores.
    by_name = sorted(source.rows, key=lambda row: row["instruction"])
    expected = sorted(ROWS, key=lambda row: row["instruction"])
    assert by_name == [row | {"tags": ["ä", "b"]} for row in expected]
    assert len(open_source("tfds:tiny_turns:train+validation").rows) == len(ROWS) + 1
    with pytest.raises(ConfigError, match="cannot be loaded.*set data.train to a file"):
        open_source("tfds:tiny_turns:nosplit")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        open_source("tfds:there_is_no_such_set:train")
