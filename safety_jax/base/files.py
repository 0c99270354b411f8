"""Files that are written whole or not at all."""

import os
from pathlib import Path

PART = ".part"  # ends the name of a file that is being written


def write(path: Path, content: str | bytes) -> None:
    """Writes a file whole or not at all: a kill leaves the old content or the new one."""
    part = path.with_name(path.name + PART)
    data = content.encode() if isinstance(content, str) else content
    with open(part, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
