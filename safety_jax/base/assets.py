"""Where the files are that ship beside the code: `configs/`, the model and data of the demo,
and the data of the recipe on a real model.

A checkout has them at its top. A wheel carries them inside the package, in `safety_jax/packaged`,
laid out as in the checkout (pyproject.toml says which), so that one relative path names a file in
both.
"""

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent


def root() -> Path:
    """The folder that holds `configs/` and `launch/demo/`."""
    packaged = _PACKAGE / "packaged"
    return packaged if packaged.is_dir() else _PACKAGE.parent


def find_asset(path: str) -> str:
    """The place of `configs/...` or `launch/demo/...`, wherever the command runs.

    Args:
        path: relative to the top of a checkout.

    Returns:
        `path` itself where it exists from the current folder, as in a checkout; else the absolute
        path of the file that was installed.
    """
    return path if os.path.exists(path) else str(root() / path)
