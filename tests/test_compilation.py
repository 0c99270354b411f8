"""Where compiled programs are kept."""

import contextlib

import jax
import pytest
from ml_collections import ConfigDict

from safety_jax.base import compilation
from safety_jax.base.errors import ConfigError
from safety_jax.stages import references


@contextlib.contextmanager
def unchanged():
    names = (
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
        "jax_persistent_cache_min_entry_size_bytes",
    )
    before = {name: getattr(jax.config, name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def test_a_home_without_room_for_programs_is_one_note(tmp_path, monkeypatch, capsys):
    """As in a container whose home cannot be written; jax would warn of every program."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "file" / "kept"))
    with unchanged():
        compilation.keep("")
        assert jax.config.jax_compilation_cache_dir is None
    note = f"note: compiled programs are not kept, {tmp_path}/file/kept: Not a directory; "
    assert capsys.readouterr().out.startswith(note)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    """jax alone would warn, and compile everything anew in every start."""
    before = jax.config.jax_compilation_cache_dir
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="log.compilation_cache .*/file/kept: Not a directory"):
        compilation.keep(str(tmp_path / "file" / "kept"))
    assert jax.config.jax_compilation_cache_dir == before


def test_a_folder_at_home_is_no_folder_called_tilde(tmp_path, monkeypatch):
    """A shell does not expand it behind `--config.log.compilation_cache=`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with unchanged():
        compilation.keep("~/kept")
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "kept")
    group = ConfigDict({"reference_folder": "~/kept"})
    assert references.cache(group, {}).root == tmp_path / "kept"
    with pytest.raises(ConfigError, match="is a URL; expected a path on a disk"):
        references.cache(ConfigDict({"reference_folder": "gs://bucket/kept"}), {})
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
