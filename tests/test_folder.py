"""Model folders: finding weights, refusing what is unsafe or broken, fingerprints, replacement."""

import errno
import json
import os
import resource
import shutil

import numpy as np
import pytest
from huggingface_hub.utils import filter_repo_objects
from safetensors.numpy import save_file

from safety_jax.base.errors import CheckpointError
from safety_jax.models.folders import folder_writing, hub

ONE, TWO = "model-1.safetensors", "model-2.safetensors"


@pytest.fixture
def single(tmp_path):
    save_file({"a": np.zeros(3, np.float32)}, tmp_path / hub.WEIGHTS)
    return tmp_path


@pytest.fixture
def sharded(tmp_path):
    """Tensor `a` in the first shard, `b` in the second."""
    save_file({"a": np.zeros(3, np.float32)}, tmp_path / ONE)
    save_file({"b": np.ones(4, np.float32)}, tmp_path / TWO)
    write_index(tmp_path, {"a": ONE, "b": TWO})
    return tmp_path


def write_index(folder, weight_map):
    (folder / hub.INDEX).write_text(json.dumps({"weight_map": weight_map}))


def refusal(folder) -> str:
    with pytest.raises(CheckpointError) as raised:
        hub.locate(folder)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# ---------------------------------------------------------------------------- finding


def test_resolve_returns_a_folder_as_it_is(tmp_path, monkeypatch):
    assert hub.resolve(tmp_path) == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    assert hub.resolve("~/model") == tmp_path / "model"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("/no/such/folder", "does not exist"),
        ("./no/such/folder", "does not exist"),
        ("", "is a file|does not exist"),
        ("nobody/no-such-model", "neither a folder here nor a Hub repository"),
        ("bad--name/x", "neither a folder here nor a Hub repository"),
    ],
)
def test_resolve_refuses_with_one_line(given, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if given == "":
        (tmp_path / "weights").write_text("")
        given = str(tmp_path / "weights")
    with pytest.raises(CheckpointError, match=message) as raised:
        hub.resolve(given)
    assert "\n" not in str(raised.value)


def test_what_a_repository_is_read_for(tmp_path, monkeypatch):
    """Not for other copies of its weights, but for chat templates in a folder of their own."""
    wanted = {"config.json", hub.WEIGHTS, "LICENSE.txt", "merges.txt", "chat_template.jinja"}
    wanted |= {"additional_chat_templates/tool_use.jinja"}
    others = {"original/params.json", "onnx/model.safetensors", "consolidated.safetensors"}
    others |= {"original/tokenizer.model", "flax/LICENSE", "pytorch_model.bin", "modeling_x.py"}

    def download(repository, *, revision, **patterns):
        for name in filter_repo_objects(wanted | others, **patterns):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("{}")
        return str(tmp_path)

    monkeypatch.setattr(hub.huggingface_hub, "snapshot_download", download)
    assert hub.resolve("some/model") == tmp_path
    found = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()}
    assert found == wanted


def test_locates_a_single_file(single):
    assert hub.locate(single)["a"].shape == (3,)


def test_locates_shards(sharded):
    assert {name: tensor.file.name for name, tensor in hub.locate(sharded).items()} == {
        "a": ONE,
        "b": TWO,
    }


def test_links_of_the_hub_cache_are_followed(sharded, tmp_path):
    """There every file of a snapshot is a link to a blob outside the snapshot's folder."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for number, name in enumerate((ONE, TWO, hub.INDEX)):
        shutil.move(sharded / name, blobs / str(number))
        (snapshot / name).symlink_to(f"../../blobs/{number}")
    assert hub.locate(snapshot).keys() == {"a", "b"}


def test_a_link_of_a_copied_snapshot_says_what_it_lacks(sharded):
    for name in (ONE, "config.json"):
        (sharded / name).unlink(missing_ok=True)
        (sharded / name).symlink_to("../../blobs/0")
    told = f"{ONE} is a link to ../../blobs/0, which does not exist; copy the folder with"
    assert told in refusal(sharded)
    with pytest.raises(CheckpointError, match="config.json is a link to ../../blobs/0"):
        hub.read_json(sharded / "config.json")
    (sharded / hub.WEIGHTS).symlink_to("../../blobs/1")
    (sharded / hub.INDEX).unlink()
    assert f"{hub.WEIGHTS} is a link to ../../blobs/1" in refusal(sharded)


def test_a_single_file_wins_over_an_index(sharded):
    """As in transformers."""
    save_file({"c": np.zeros(1, np.float32)}, sharded / hub.WEIGHTS)
    assert hub.locate(sharded).keys() == {"c"}


@pytest.mark.parametrize(
    "shard",
    ["/etc/x.safetensors", "../x.safetensors", "a/../../x.safetensors", "..\\x.safetensors"],
)
def test_shards_outside_the_folder_are_refused(shard, sharded):
    write_index(sharded, {"a": shard})
    assert "outside the folder" in refusal(sharded)


def test_missing_and_wrong_shards(sharded):
    (sharded / TWO).unlink()
    assert f"{TWO}, which is missing" in refusal(sharded)
    write_index(sharded, {"a": ONE, "b": ONE})
    assert f"lists b in {ONE}, which does not contain it" in refusal(sharded)
    write_index(sharded, {"a": ONE, "b": "pytorch_model.bin"})
    assert "not a .safetensors file" in refusal(sharded)
    write_index(sharded, {})
    assert "expected a weight_map" in refusal(sharded)
    (sharded / hub.INDEX).write_text("[1]")
    assert "expected a JSON object" in refusal(sharded)
    (sharded / hub.INDEX).write_text("{")
    assert "not valid JSON" in refusal(sharded)


def test_truncated_shard(sharded):
    content = (sharded / TWO).read_bytes()
    (sharded / TWO).write_bytes(content[:-1])
    assert "truncated" in refusal(sharded)


def test_a_tensor_in_two_files(sharded):
    save_file({"a": np.zeros(3, np.float32), "b": np.ones(4, np.float32)}, sharded / TWO)
    assert f"tensor a is in both {ONE} and {TWO}" in refusal(sharded)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pytorch_model.bin", "convert once with transformers"),
        ("consolidated.00.pth", "only pickled weights"),
        ("consolidated.safetensors", "only consolidated.safetensors; expected model.safetensors"),
        ("config.json", "holds no weights"),
    ],
)
def test_folders_without_usable_weights(name, message, tmp_path):
    (tmp_path / name).write_text("{}")
    assert message in refusal(tmp_path)


def test_read_json_names_what_is_missing(tmp_path):
    with pytest.raises(CheckpointError, match="holds no config.json"):
        hub.read_json(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match="cannot be read"):
        hub.read_json(tmp_path)


# ---------------------------------------------------------------------------- token ids


def test_token_ids_from_tokenizer_files(tmp_path):
    nothing = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    assert hub.token_ids(None) == hub.token_ids(tmp_path) == nothing
    settings = {
        "bos_token": "<s>",
        "eos_token": {"content": "</s>"},
        "pad_token": None,
        "added_tokens_decoder": {"1": {"content": "<s>"}},
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert hub.token_ids(tmp_path) == nothing | {"bos_token_id": 1}
    added = {"added_tokens": [{"id": 2, "content": "</s>"}]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(added))
    assert hub.token_ids(tmp_path) == nothing | {"bos_token_id": 1, "eos_token_id": 2}


# ---------------------------------------------------------------------------- fingerprint


@pytest.mark.parametrize("exported", ["config.json", hub.ADAPTER])
def test_the_folder_of_a_run_is_no_model_but_has_one(exported, tmp_path):
    (tmp_path / "config.json").write_text('{"seed": 0}')
    assert hub.resolve(tmp_path) == tmp_path  # nothing has been exported yet
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / exported).write_text("{}")
    with pytest.raises(CheckpointError, match=f"is the folder of a run; .*'{tmp_path}/export'"):
        hub.resolve(str(tmp_path))
    assert hub.resolve(tmp_path / "export") == tmp_path / "export"
    save_file({"a": np.zeros(3, np.float32)}, tmp_path / hub.WEIGHTS)  # a model beside a folder
    assert hub.resolve(tmp_path) == tmp_path


@pytest.fixture
def cache(tmp_path_factory, monkeypatch):
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return cache


def test_fingerprint_follows_content(sharded, cache):
    before = hub.fingerprint(sharded)
    assert len(before) == 64 and hub.fingerprint(sharded) == before
    write_index(sharded, {"b": TWO, "a": ONE})
    assert hub.fingerprint(sharded) == before
    save_file({"b": np.full(4, 2, np.float32)}, sharded / TWO)
    assert hub.fingerprint(sharded) != before


def test_fingerprint_of_a_model_beside_an_adapter_is_of_both(single, cache):
    adapter = single / "adapter_model.safetensors"
    found = {hub.fingerprint(single)}
    for value in (0, 1):
        save_file({"b": np.full(2, value, np.float32)}, adapter)
        found.add(hub.fingerprint(single))
    save_file({"a": np.full(4, 2, np.float32)}, single / hub.WEIGHTS)
    assert hub.fingerprint(single) not in found and len(found) == 3


@pytest.mark.parametrize(
    ("name", "told"),
    [("adapter_model.bin", "only pickled weights (adapter_model.bin)"), ("x", "without weights")],
)
def test_fingerprint_of_an_adapter_without_safetensors_tells_of_the_adapter(name, told, tmp_path):
    (tmp_path / hub.ADAPTER).write_text("{}")
    (tmp_path / name).write_text("")
    with pytest.raises(CheckpointError) as raised:
        hub.fingerprint(tmp_path)
    message = str(raised.value)
    assert told in message and "expected adapter_model.safetensors; " in message
    assert "with peft: PeftModel" in message and "give it as model.adapter" not in message


def test_fingerprint_is_kept_by_path_size_and_time(single, cache):
    file = single / hub.WEIGHTS
    before, status = hub.fingerprint(single), file.stat()
    save_file({"a": np.ones(3, np.float32)}, file)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert hub.fingerprint(single) == before  # same key, so the kept digest is used
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert hub.fingerprint(single) != before


def test_fingerprint_survives_a_bad_cache(single, cache, monkeypatch):
    before = hub.fingerprint(single)
    (kept,) = (cache / "safety_jax" / "fingerprints").iterdir()
    kept.write_text("half a dig")
    assert hub.fingerprint(single) == before
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert hub.fingerprint(single) == before


# ---------------------------------------------------------------------------- replacing


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_replacing_swaps_the_whole_folder(tmp_path):
    target = tmp_path / "export"
    for content in ("first", "second"):
        with folder_writing.replacing(target, "config.json") as partial:
            (partial / "config.json").write_text(content)
            (partial / content).write_text("")
            assert target.exists() == (content == "second")
        assert names(target) == sorted(["config.json", content])
    assert names(tmp_path) == ["export"]


def test_replacing_leaves_other_folders_alone(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("")
    with pytest.raises(CheckpointError, match="holds other files"):
        with folder_writing.replacing(tmp_path / "notes", "config.json"):
            raise AssertionError("the block must not run")
    assert names(tmp_path / "notes") == ["mine.txt"]
    with pytest.raises(CheckpointError, match="Not a directory"):
        with folder_writing.replacing(tmp_path / "notes" / "mine.txt", "config.json"):
            raise AssertionError("the block must not run")


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyError()])
def test_a_failed_block_changes_nothing(failure, tmp_path):
    target = tmp_path / "export"
    with folder_writing.replacing(target, "config.json") as partial:
        (partial / "config.json").write_text("old")
    expected = CheckpointError if isinstance(failure, OSError) else KeyError
    with pytest.raises(expected):
        with folder_writing.replacing(target, "config.json") as partial:
            (partial / "config.json").write_text("new")
            raise failure
    assert (target / "config.json").read_text() == "old"
    assert names(tmp_path) == ["export"]


def test_what_a_killed_run_left_is_tidied(tmp_path):
    (tmp_path / ".export.partial").mkdir()
    (tmp_path / ".export.partial" / "half").write_text("")
    (tmp_path / ".export.previous").mkdir()  # killed between the two renames
    (tmp_path / ".export.previous" / "config.json").write_text("old")
    with pytest.raises(KeyError):
        with folder_writing.replacing(tmp_path / "export", "config.json") as partial:
            assert names(partial) == []
            raise KeyError
    assert (tmp_path / "export" / "config.json").read_text() == "old"
    assert names(tmp_path) == ["export"]


def test_a_full_disk_is_one_line(tmp_path):
    """The limit on file size stands for the full disk: a real write fails with a real error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(CheckpointError, match="cannot write .*export.*free space") as raised:
        with folder_writing.replacing(tmp_path / "export", "config.json") as partial:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
            try:
                (partial / "weights").write_bytes(bytes(5000))
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(raised.value)
    assert names(tmp_path) == []


def test_folders_and_broken_links_are_not_copied(tmp_path):
    """A source may have the folder LICENSES; an export at the end of a run must not fail on it."""
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "LICENSES").mkdir(parents=True)
    (source / "LICENSES" / "MIT.txt").write_text("")
    (source / "NOTICE").symlink_to("nothing")
    (source / "LICENSE.txt").write_text("the licence")
    target.mkdir()
    folder_writing.copy_matching(source, hub.LICENCE_FILES, target)
    assert names(target) == ["LICENSE.txt"]
