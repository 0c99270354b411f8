"""Whole writes, lines that survive a kill, careful reads, the home of caches."""

import os
import resource
from pathlib import Path

import pytest

from safety_jax.base import files
from safety_jax.base.errors import CheckpointError, ConfigError, DataError
from safety_jax.training import metrics


def test_write_is_whole_or_absent(tmp_path):
    file = tmp_path / "a.json"
    files.write(file, "old")
    with pytest.raises(UnicodeEncodeError):
        files.write(file, "new \ud800")
    assert file.read_text() == "old"
    files.write(file, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"] and file.read_bytes() == b"new"


def test_a_file_that_cannot_grow_is_named(tmp_path):
    """As on a full disk: the system names a file that cannot be opened, but not this one."""
    with metrics.Writer(tmp_path, 0, False, False, {}) as writer:
        writes = {
            "whole.json": lambda path: files.write(path, "x" * 200),
            "rows.jsonl": lambda path: opened(path).append([{"x": "x" * 200}]),
            "metrics.jsonl": lambda path: writer.write(1, {"x" * 200: 1.0}),
        }
        _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        for name, write in writes.items():
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
            try:
                with pytest.raises(OSError) as error:
                    write(tmp_path / name)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            assert error.value.filename == str(tmp_path / name), name
    assert not list(tmp_path.glob(f"*{files.PART}"))  # its room is needed


def opened(path: Path, writes: bool = True) -> files.Lines:
    return files.Lines(path, writes=writes, remedy="remove the line")


def read(lines: files.Lines) -> list[int]:
    return lines.read(lambda row: int(row["n"]))


def test_lines_come_back_and_the_torn_one_is_dropped(tmp_path):
    path = tmp_path / "below" / "rows.jsonl"
    lines = opened(path)
    assert read(lines) == []
    lines.append([{"n": 1, "text": "half a pair \ud83d"}, {"n": 2}])
    opened(path).append([{"n": 3}])
    whole = path.read_bytes()
    for torn in (b'{"n": 4', b"\x00" * 9, b""):
        path.write_bytes(whole + torn)
        assert read(opened(path, writes=False)) == [1, 2, 3]
        assert path.read_bytes() == whole + torn  # only the process that writes mends
        assert read(opened(path)) == [1, 2, 3]
        assert path.read_bytes() == whole
    assert opened(path).read(lambda row: row.get("text")) == ["half a pair \ud83d", None, None]


def test_lines_are_cut_after_a_block(tmp_path):
    path = tmp_path / "rows.jsonl"
    opened(path).append([{"n": n} for n in range(5)])
    path.write_bytes(path.read_bytes().replace(b'{"n": 1}\n', b'\n{"n": 1}\n'))  # by hand
    lines = opened(path)
    assert read(lines) == [0, 1, 2, 3, 4]
    lines.keep(4)
    lines.append([{"n": 7}])
    assert read(opened(path)) == [0, 1, 2, 3, 7]
    lines.keep(0)
    assert path.read_bytes() == b""


@pytest.mark.parametrize("line", ["{", "[]", '{"m": 1}', '{"n": []}', "\udc80", "[" * 9999])
def test_a_damaged_line_is_named(line, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"n": 1}\n' + line.encode("utf-8", "surrogateescape") + b'\n{"n": 2}\n')
    with pytest.raises(DataError, match=r"rows.jsonl line 2 is damaged \(\w+\); remove the line"):
        read(opened(path))


def test_pipes_devices_folders_and_large_files_are_not_opened(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "large").write_bytes(b'{"text": "' + b"x" * (2 << 20) + b'"}')
    monkeypatch.setattr(files, "JSON_BYTES", 1 << 20)
    for path, message in (
        (tmp_path / "pipe", "not a regular file"),
        (Path("/dev/zero"), "not a regular file"),
        (tmp_path / "folder", "a folder"),
        (tmp_path / "large", "larger than 1 MiB"),
    ):
        with pytest.raises(CheckpointError, match=rf"{path}: cannot be read \({message}\); mend"):
            files.read_object(path, CheckpointError, "mend it")
    with pytest.raises(FileNotFoundError):
        files.read_object(tmp_path / "none", CheckpointError, "mend it")
    (tmp_path / "link").symlink_to(tmp_path / "large")
    assert len(files.read_bytes(tmp_path / "link", most=None)) > 1 << 20


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not valid JSON"),
        (b"[" * 99999, "nested too deeply"),
        (b'{"a": ' * 99999, "nested too deeply"),
        (b"\xff{}", "not valid JSON"),
        (b"1" * 5000, "not valid JSON"),
        (b"null", "expected a JSON object, found NoneType"),
    ],
)
def test_what_is_no_json_object_is_one_line(content, message, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as raised:
        files.read_object(path, CheckpointError, "mend it")
    assert str(raised.value).startswith(f"{path}: ") and len(str(raised.value)) < 400
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')  # as some editors save it
    assert files.read_object(path, CheckpointError, "mend it") == {"a": 1}


def test_the_home_of_caches(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert files.cache_home("x") == tmp_path / "safety_jax" / "x"
    monkeypatch.setenv("HOME", "/somewhere")
    for ignored in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert files.cache_home("x") == Path("/somewhere/.cache/safety_jax/x")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert files.cache_home("x").is_absolute()


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("~nobody-of-this-name/x", "no user has the home ~nobody-of-"),
        ("x" * 300, "too long"),
        ("/" + "x/" * 3000, "too long"),
        ("a\ud800b", r"'a\\ud800b': not in UTF-8"),
    ],
)
def test_a_path_that_no_disk_could_have_is_refused(path, said):
    """As every word of a command may be one: `Path` itself raises what is no OSError, or anew."""
    with pytest.raises(ConfigError, match=said):
        files.expand(path)


@pytest.mark.parametrize("path", ["gs://bucket/a.jsonl", "s3:/bucket", "abfs://a/b", "ftp://h/x"])
def test_a_url_is_no_path(path):
    with pytest.raises(
        ConfigError, match=f"{path} is a URL; expected a path on a disk: (mount|copy)"
    ):
        files.expand(path)


def test_a_name_becomes_the_name_of_a_file_and_no_path():
    names = [
        "a",
        "a/b",
        "../x",
        ".",
        "..",
        ".hidden",
        "x" * 300,
        "x" * 301,
        "日" * 90,
        "a b",
        "\ud800",
    ]
    found = [files.file_name(name, ".jsonl") for name in names]
    assert found[:6] == [
        "a.jsonl", "a%2Fb.jsonl", "%2E.%2Fx.jsonl", "%2E.jsonl", "%2E..jsonl", "%2Ehidden.jsonl"
    ]  # fmt: skip
    assert len(set(found)) == len(names) and max(map(len, found)) < 250
    assert all(Path(name).name == name and name not in (".", "..") for name in found)
