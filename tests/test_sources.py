"""Sources given as one line of text: options, downloads, Hugging Face, TensorFlow Datasets."""

import dataclasses
import hashlib

import datasets
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import dataset_metadata

from safety_jax.base import redaction
from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data import source_spec
from safety_jax.data.records import read_records
from safety_jax.data.source_spec import public
from safety_jax.data.sources import Source, draw, open_source
from safety_jax.evaluation.answers import existing
from safety_jax.evaluation.sets import reading
from safety_jax.judges import inputs
from tests.data_files import ROWS, write


def test_options(tmp_path):
    path = write(tmp_path / "a.json")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    options = (
        "rows=2&weight=0.25&format=alpaca&columns=question:instruction,answer:output"
        f"&name=my%20set&bad_rows=skip&sha256={digest.upper()}"
    )
    source = open_source(f"{path}?{options}")
    assert (source.take, source.weight, source.format) == (2, 0.25, "alpaca")
    assert source.columns == {"question": "instruction", "answer": "output"}
    assert (source.name, source.skip_bad_rows) == ("my set", True)
    plain = open_source(str(path))
    assert (plain.take, plain.weight, plain.format, plain.columns) == (None, None, None, {})
    assert not plain.skip_bad_rows and plain.sha256() == digest
    assert open_source(f"{path}?without=output").rows[2] == {"instruction": "Third"}


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("row=5", "unknown option 'row'; known are rows, weight, times, format, columns, without"),
        ("rows=0", "rows=0; expected a whole number above 0"),
        ("rows=many", "rows=many; expected a whole number above 0"),
        ("rows=" + "9" * 5_000, "expected a whole number above 0"),
        ("rows=1e9", "rows=1e9; expected a whole number above 0"),
        ("rows=1&name=a&rows=2", "rows= is given twice; expected it once"),
        ("weight=-1", "weight=-1; expected a number above 0"),
        ("weight=inf", "weight=inf; expected a number above 0"),
        ("weight=1e-320", "weight=1e-320; expected a number above 0, from 1e-9 to 1e9"),
        ("columns=a", "columns=a; expected ours:theirs pairs"),
        ("columns=a:output,a:instruction", "expected ours:theirs pairs, each of ours once"),
        ("columns=output:outptu", "no row has a column 'outptu'; there are instruction, output"),
        ("without=input", "no row has a column 'input'; there are instruction, output"),
        ("bad_rows=drop", "bad_rows=drop; expected skip or error"),
        ("name=", "name=; expected a word"),
        ("sha256=abc", "sha256=abc; expected 64 hexadecimal digits"),
    ],
)
def test_wrong_options(tmp_path, query, message):
    with pytest.raises(ConfigError) as error:
        open_source(f"{write(tmp_path / 'a.json')}?{query}")
    assert message in str(error.value)


def test_a_file_of_another_hash_is_refused(tmp_path):
    with pytest.raises(DataError, match=f"its sha256 is .*, not {'0' * 64}; change data.train"):
        open_source(f"{write(tmp_path / 'a.json')}?sha256={'0' * 64}")


@pytest.mark.parametrize("place", ["s3://bucket/a.jsonl", "file:///tmp/a.jsonl"])
def test_places_that_are_no_path_and_no_web_address(place):
    with pytest.raises(ConfigError, match="expected a path, http://, https://, hf: or tfds:"):
        open_source(place)


@pytest.mark.parametrize(
    ("spec", "shown"),
    [
        ("a.jsonl?rows=5", "a.jsonl?rows=5"),
        ("hf:a/b:train?rows=5&name=x", "hf:a/b:train?rows=5&name=x"),
        ("https://host/a.jsonl?rows=5", "https://host/a.jsonl?rows=5"),
        ("https://ann:S3CRET@host/a.jsonl", "https://***@host/a.jsonl"),
        ("https://host/a.jsonl?sig=S3CRET?rows=5&set=x", "https://host/a.jsonl?***?rows=5&set=x"),
        ("https://host/a b.jsonl?sig=S3CRET?rows=5", "https://host/a%20b.jsonl?***?rows=5"),
        (
            "https://host/a.csv?sig=S3CRET?kind=choice&read=x",
            "https://host/a.csv?***?kind=choice&read=x",
        ),
        ("https://host/a.csv?turns=again&asked=y", "https://host/a.csv?turns=again&asked=y"),
        ("https://host/a.jsonl?sig=S3CRET?", "https://host/a.jsonl?***"),
        ("https://host/a.jsonl?sig=S3CRET&rows=5", "https://host/a.jsonl?***"),
    ],
)
def test_the_public_name_of_a_source(spec, shown):
    assert public(spec) == shown == public(shown)


def test_options_of_specs_are_no_secrets():
    own = set(source_spec._OPTIONS)
    of_readers = {*reading.OPTIONS, *existing.OPTIONS, *inputs.OPTIONS}
    assert set(redaction.OPTIONS) == own | of_readers and not own & of_readers


def test_rows_asked_for_are_drawn_in_the_order_of_the_file():
    source = Source("a", "a", [{}] * 9, ["?"] * 9, 4, None, None, {}, False)
    found = draw(list(range(9)), source, "data.eval", seed=1)
    assert len(found) == 4 and found == sorted(found)
    assert draw(list(range(9)), source, "data.eval", seed=2) != found
    with pytest.raises(ConfigError, match="data.eval: a: 4 rows asked for; expected at most the 3"):
        draw([1, 2, 3], source, "data.eval", seed=1)
    with pytest.raises(ConfigError, match="a weight has no meaning here"):
        draw([1], dataclasses.replace(source, weight=1.0), "data.eval", seed=1)
    with pytest.raises(ConfigError, match="times= has no meaning here; use rows="):
        draw([1], dataclasses.replace(source, times=2), "data.eval", seed=1)


def test_a_question_mark_in_a_path(tmp_path):
    path = write(tmp_path / "what?.json")
    assert len(open_source(f"{path}?").rows) == len(open_source(f"{path}?rows=2").rows) == 3


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
    assert list(open_source(f"hf:{tmp_path}/mine:train[1:]").rows) == ROWS[1:]


def test_what_save_to_disk_wrote(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    datasets.disable_progress_bars()
    found = datasets.Dataset.from_list(ROWS)
    found.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": found, "test": found.select([2])}).save_to_disk(tmp_path / "two")
    for name in ("one", "two"):
        assert list(open_source(f"hf:{tmp_path}/{name}:train").rows) == ROWS
    assert list(open_source("hf:~/two:test").rows) == ROWS[2:]
    assert list(open_source(f"hf:{tmp_path}/two:train[1:]").rows) == ROWS[1:]
    assert list(open_source(f"hf:{tmp_path}/two:train[:1]+test").rows) == [ROWS[0], ROWS[2]]
    for spec in ("one:test", "two:nosplit", "two:default:train"):
        with pytest.raises(ConfigError, match="save_to_disk wrote it with the splits train"):
            open_source(f"hf:{tmp_path}/{spec}")


def test_pictures_and_sounds_of_a_dataset_are_refused_and_never_decoded(tmp_path):
    """The sound is none: whatever decodes it fails."""
    datasets.disable_progress_bars()
    row = {"prompt": "a", "response": "b", "audio": {"bytes": b"no sound", "path": None}}
    audio = datasets.Dataset.from_list([row]).cast_column("audio", datasets.Audio())
    figures = datasets.Dataset.from_list([row | {"audio": [row["audio"]]}])
    figures = figures.rename_column("audio", "figures")
    figures = figures.cast_column("figures", datasets.List(datasets.Image()))
    for name, found in (("audio", audio), ("figures", figures)):
        found.save_to_disk(tmp_path / name)
        spec = f"hf:{tmp_path}/{name}:train"
        with pytest.raises(DataError, match=f"row 0: '{name}' holds pictures or sounds"):
            read_records(open_source(spec))
        assert len(read_records(open_source(f"{spec}?without={name}"))) == 1


def test_a_folder_of_several_kinds_of_files_is_not_read_in_part(tmp_path):
    """`datasets` reads the commonest kind, and says nothing of the others."""
    datasets.disable_progress_bars()
    folder = tmp_path / "mine"
    folder.mkdir()
    write(folder / "a.jsonl")
    (folder / "notes.txt").write_text("nothing")
    assert len(open_source(f"hf:{folder}:train").rows) == 3
    write(folder / "b.csv")
    (folder / "README.md").write_text("# Rows\n")
    with pytest.raises(ConfigError, match=r"several kinds \(1 \.json, 1 \.csv\).*name each file"):
        open_source(f"hf:{folder}:train")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files: a.jsonl\n---\n"
    )
    assert len(open_source(f"hf:{folder}:train").rows) == 3


def test_tensorflow_dataset_without_tensorflow(tmp_path, monkeypatch):
    class TinyTurns(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        @classmethod
        def get_metadata(cls):
            return dataset_metadata.DatasetMetadata(description="three rows", citation="")

        def _info(self):
            text = tfds.features.Text()
            features = {"instruction": text, "output": text, "tags": tfds.features.Sequence(text)}
            features["kind"] = tfds.features.ClassLabel(names=["short", "long"])
            features = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, _):
            more = {"tags": ["ä", "b"], "kind": "long"}
            rows = [(i, row | more) for i, row in enumerate(ROWS)]
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
    assert by_name == [row | {"tags": ["ä", "b"], "kind": "long"} for row in expected]
    assert len(open_source("tfds:tiny_turns:train+validation").rows) == len(ROWS) + 1
    with pytest.raises(ConfigError, match="cannot be loaded.*set data.train to a file"):
        open_source("tfds:tiny_turns:nosplit")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        open_source("tfds:there_is_no_such_set:train")
