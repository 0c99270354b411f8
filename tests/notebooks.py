"""Runs a notebook's code cells in this process, without Jupyter.

python -m tests.notebooks docs/quickstart.ipynb      runs it and writes its outputs into it
"""

import contextlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def stored(notebook: dict[str, Any]) -> list[str]:
    """What each code cell printed when the notebook was written."""
    return [
        "".join(text for output in cell["outputs"] for text in output["text"])
        for cell in code_cells(notebook)
    ]


def run(path: Path) -> list[str]:
    """What each code cell prints, run one after the other in the notebook's folder."""
    notebook = json.loads(path.read_text("utf-8"))
    names: dict[str, Any] = {"__name__": "__main__"}
    printed = []
    with contextlib.chdir(path.parent):
        for number, cell in enumerate(code_cells(notebook), 1):
            out = io.StringIO()
            program = compile("".join(cell["source"]), f"{path.name} cell {number}", "exec")
            with contextlib.redirect_stdout(out):
                exec(program, names)
            printed.append(out.getvalue())
    return printed


def write(path: Path) -> None:
    """Runs a notebook and keeps what it prints."""
    notebook, printed = json.loads(path.read_text("utf-8")), run(path)
    for number, (cell, text) in enumerate(zip(code_cells(notebook), printed, strict=True), 1):
        stream = {"name": "stdout", "output_type": "stream", "text": text.splitlines(True)}
        cell["outputs"], cell["execution_count"] = [stream] if text else [], number
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    os.environ["JAX_PLATFORMS"] = "cpu"
    write(Path(sys.argv[1]))
