"""Sources given as one line of text: options, downloads, Hugging Face, TensorFlow Datasets."""

import functools
import http.server
import threading

import datasets
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import dataset_metadata
from test_readers import ROWS, write

from safety_jax.base.errors import ConfigError
from safety_jax.data.sources import open_source


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
