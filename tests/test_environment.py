"""The folder of compiled programs that all tests share stays readable; dear files are named."""

import os
import time
import zlib
from pathlib import Path

import jax

from safety_jax.base import compilation
from tests import costs, environment


def test_torn_and_forgotten_programs_go(tmp_path):
    whole = zlib.compress(b"program" * 1000)
    for name, content in {"whole": whole, "torn": whole[:-10], "old": whole}.items():
        (tmp_path / f"{name}-cache").write_bytes(content)
    long_ago = time.time() - 40 * 24 * 3600
    os.utime(tmp_path / "old-cache", (long_ago, long_ago))
    environment.sweep(tmp_path)
    assert {path.name for path in tmp_path.glob("*-cache")} == {"whole-cache"}
    (tmp_path / "whole-cache").write_bytes(whole[:-10])  # torn since the last sweep
    environment.sweep(tmp_path)
    assert not list(tmp_path.glob("*-cache"))


def test_this_process_and_its_children_use_it():
    """By the same name: it is part of the programs' keys."""
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(environment.PROGRAMS)
    compilation.keep("")
    assert jax.config.jax_compilation_cache_dir == str(environment.PROGRAMS)


def test_every_dear_file_is_there():
    """One that was renamed would begin last, and `make check` would run it."""
    assert costs.SECONDS.keys() <= {path.stem for path in Path(__file__).parent.glob("test_*.py")}
