"""Finds the files that ship with the code: `configs/`, the model and data of the demo, and the data
of the recipe for a real model.

In a checkout they are at the top. In a wheel they are inside the package, in `safety_jax/packaged`
(pyproject.toml lists them), with the same folders as in the checkout. The same relative path
therefore names a file in both.
"""

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent


def root() -> Path:
    """The folder that contains `configs/` and `launch/demo/`."""
    packaged = _PACKAGE / "packaged"
    return packaged if packaged.is_dir() else _PACKAGE.parent


def find_asset(path: str) -> str:
    """The path of `configs/...` or `launch/demo/...`, from any working directory.

    Args:
        path: relative to the top of a checkout.

    Returns:
        `path` itself if it exists relative to the working directory, as in a checkout; otherwise
        the absolute path of the installed file.
    """
    return path if os.path.exists(path) else str(root() / path)
