"""Where compiled programs are kept."""

import jax
import pytest

from safety_jax.base import compilation
from safety_jax.base.errors import ConfigError


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    """jax alone would warn, and compile everything anew in every start."""
    before = jax.config.jax_compilation_cache_dir
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="log.compilation_cache .*/file/kept: Not a directory"):
        compilation.keep(str(tmp_path / "file" / "kept"))
    assert jax.config.jax_compilation_cache_dir == before
