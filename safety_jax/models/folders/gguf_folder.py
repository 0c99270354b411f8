"""Unpacks a GGUF file into a Hugging Face folder.

    ~/.cache/safety_jax/gguf/SmolLM2-135M-Instruct.Q4_1-3f0c9a…/
        config.json, generation_config.json     from the metadata
        tokenizer.json, tokenizer_config.json   from the metadata, too; if that is impossible,
                                                no_tokenizer.txt says why
        model.gguf                              a link to the file, from which weights are read

All code that reads model folders can thus read GGUF files, and a run exports a model in the same
way as from any other folder. A new folder is made when the file changes. Such folders may be
deleted at any time.
"""

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np

from safety_jax.base import files
from safety_jax.base.errors import CheckpointError, few
from safety_jax.models import llama
from safety_jax.models.folders import (
    folder_writing,
    gguf_config,
    gguf_header,
    gguf_tensors,
    gguf_tokenizer,
    hf,
    hf_config,
    hub,
    weight_table,
)
from safety_jax.models.folders.gguf_header import Header

# Increase this number when the content of the folder changes.
VERSION = 1
TOKEN_IDS = {"bos_token_id": "bos_token_id", "pad_token_id": "padding_token_id"}


def unpacked(file: Path) -> Path:
    """The folder of a GGUF file, which the first call makes.

    Raises:
        CheckpointError: the file is damaged, its model is not supported, or the folder cannot be
            written.
    """
    file = Path(os.path.abspath(file))
    try:
        files.check_regular(file)
        status = file.stat()
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({files.reason(error)})") from error
    key = f"{VERSION}\n{file}\n{status.st_size}\n{status.st_mtime_ns}"
    digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    stem = re.sub(r"[^\w.-]", "_", file.name.removesuffix(".gguf"))[:100]
    folder = files.cache_home("gguf") / f"{stem}-{digest}"
    if not (folder / "config.json").is_file():
        _make(file, folder)
    return folder


def _make(file: Path, folder: Path) -> None:
    header = gguf_header.read(file)
    attributes = gguf_config.attributes(header, file, _divisors(file, header))
    config = hf_config.parse(attributes, str(file))
    _check_tensors(file, header, config)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            ends = _write_tokenizer(partial, file, header, config)
            named = _token_ids(header)
            generation = {"_from_model_config": True, "eos_token_id": ends, **named}
            folder_writing.write_json(partial / hub.GENERATION, generation)
            folder_writing.write_json(
                partial / "config.json", attributes | {"eos_token_id": ends} | named
            )
            os.symlink(file, partial / hub.GGUF)
            with contextlib.suppress(OSError):  # another process was first
                partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise CheckpointError(
            f"{file}: its config and tokenizer cannot be written to {folder.parent} "
            f"({files.reason(error)}); set XDG_CACHE_HOME to a folder with free space"
        ) from error


def _token_ids(header: Header) -> dict[str, int | None]:
    tokens = header.metadata.get(f"{gguf_tokenizer.KEY}tokens")
    count = len(tokens) if isinstance(tokens, list) else 0
    found: dict[str, int | None] = {}
    for name, key in TOKEN_IDS.items():
        number = header.metadata.get(gguf_tokenizer.KEY + key)
        found[name] = number if type(number) is int and number < count else None
    return found


def _write_tokenizer(
    folder: Path, file: Path, header: Header, config: llama.LlamaConfig
) -> int | list[int] | None:
    """Writes the tokenizer's files. If there can be no tokenizer, writes a file with the reason:
    the user may name another tokenizer.

    Returns:
        The ids that end an answer, in the form of generation_config.json; None if unknown.
    """
    try:
        tokens = gguf_tokenizer.build(header.metadata, config.max_positions, file)
        ends = gguf_tokenizer.ends(header.metadata, file)
        if len(tokens) > config.vocabulary_size:
            raise CheckpointError(
                f"{file}: {len(tokens):,} tokens for {config.vocabulary_size:,} rows of embeddings"
                "; the file is damaged; download it again"
            )
    except CheckpointError as error:
        (folder / hub.NO_TOKENIZER).write_text(str(error), encoding="utf-8")
        return None
    tokens.save_pretrained(folder)
    return ends[0] if len(ends) == 1 else ends or None


def _divisors(file: Path, header: Header) -> np.ndarray | None:
    """The content of `rope_freqs.weight`."""
    stored = header.tensors.get(gguf_tensors.ROTARY)
    if stored is None:
        return None
    if stored.kind != 0 or len(stored.shape) != 1:
        raise CheckpointError(f"{file}: tensor {stored.name}: expected F32 of one axis")
    with open(file, "rb") as stream:
        stream.seek(stored.offset)
        return np.frombuffer(stream.read(4 * stored.shape[0]), "<f4")


def _check_tensors(file: Path, header: Header, config: llama.LlamaConfig) -> None:
    """Raises a CheckpointError unless the file has exactly the weights of `config`."""
    found = gguf_tensors.tensors(file, header)
    declared = llama.parameters(config)
    expected: dict[str, tuple[int, ...]] = {}
    for ours, place in weight_table.places(hf.layout(config), declared).items():
        expected |= dict.fromkeys(place.names, place.shape(declared[ours].shape))
    missing = [gguf_tensors.own_name(name) for name in expected if name not in found]
    unexpected = [tensor.name for name, tensor in found.items() if name not in expected]
    for what, names in (("missing", missing), ("not supported", unexpected)):
        if names:
            raise CheckpointError(
                f"{file}: tensors {what}: {few(names, 4)}; the file is of another "
                "kind of model, or damaged; use another file"
            )
    for name, shape in expected.items():
        if found[name].shape != shape:
            raise CheckpointError(
                f"{file}: tensor {found[name].name} has shape {list(found[name].shape)}, but the "
                f"metadata asks for {list(shape)}; the file is damaged; download it again"
            )
