"""Keeps XLA's compiled programs on disk between starts, and counts them."""

import os
import warnings
from pathlib import Path
from typing import Any

import jax

from safety_jax.base import files
from safety_jax.base.errors import ConfigError

_COMPILED = "/jax/core/compile/backend_compile_duration"
_REUSED = "/jax/compilation_cache/cache_hits"


def keep(folder: str) -> None:
    """Keeps every compiled program in `folder`. "" means `JAX_COMPILATION_CACHE_DIR` if it is set,
    and otherwise the user's cache folder.

    A second start of the same run then compiles nothing, if it gives the same path: the path is
    part of the programs' keys. Call this before the process first compiles. Without a folder that
    can be made (in a container, the user's home may be read-only), nothing is kept.

    Raises:
        ConfigError: `folder` cannot be made; jax would run without a cache.
    """
    if folder and "://" not in folder:
        folder = str(files.expand(folder))
    told = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    path = folder or told or str(files.cache_home("compiled"))
    kept: str | None = path
    try:
        if "://" not in path:
            Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if folder:
            raise ConfigError(
                f"log.compilation_cache {folder}: {error.strerror}; expected a folder that can be "
                "written"
            ) from error
        if jax.process_index() == 0:
            print(f"note: compiled programs are not kept, {path}: {error.strerror}; another folder "
                  "can be set as log.compilation_cache", flush=True)  # fmt: skip
        kept = None
    jax.config.update("jax_compilation_cache_dir", kept)
    # Of every single program, where the disk is full or may only be read.
    warnings.filterwarnings("ignore", "Error writing persistent compilation cache entry")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


class Counter:
    """Counts the programs that this process compiled or loaded, and those loaded from the cache."""

    def __init__(self) -> None:
        self.programs = 0
        self.reused = 0
        jax.monitoring.register_event_duration_secs_listener(self._on_duration)
        jax.monitoring.register_event_listener(self._on_event)

    def _on_duration(self, event: str, duration_secs: float, **_: Any) -> None:
        self.programs += event == _COMPILED

    def _on_event(self, event: str, **_: Any) -> None:
        self.reused += event == _REUSED
