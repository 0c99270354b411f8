"""Reads and checks the header of a GGUF file: its metadata, and the places of its tensors.

A file consists of: `GGUF`, version, number of tensors, number of metadata entries; the entries,
each with a key, a type and a value; one record per tensor (name, sizes with the fastest axis first,
type, offset); padding; and the tensors' bytes
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). The `gguf` package maps the file and
trusts its counts. This reader checks every count against the bytes that are left.
"""

import dataclasses
import math
import os
import struct
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from safety_jax.base import files
from safety_jax.base.errors import CheckpointError

EXTRA = "gguf"
MAGIC = b"GGUF"
VERSIONS = (2, 3)
# Far above every published vocabulary (the largest headers have 30 MB), far below a host's memory.
HEADER_LIMIT_BYTES = 256 << 20
MOST_AXES = 4
ALIGNMENT = "general.alignment"

# Metadata types by their number: those of a fixed size with struct's letter, and the two others.
SCALARS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """The place and type of a tensor. `shape` is [out, in], the reverse of the file's order."""

    name: str
    shape: tuple[int, ...]
    kind: int  # a ggml type
    offset: int  # from the beginning of the file


@dataclasses.dataclass(frozen=True)
class Header:
    """The metadata of a file by key, and its tensors by name."""

    metadata: dict[str, Any]
    tensors: dict[str, StoredTensor]


def library(file: Path) -> ModuleType:
    """Imports the `gguf` package, which is an optional extra.

    Raises:
        CheckpointError: it is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise CheckpointError(
            f"{file} is a GGUF file, and the package gguf cannot be imported ({error}); "
            f"pip install 'safety_jax[{EXTRA}]', or give a Hugging Face folder"
        ) from error
    return gguf


def read(file: Path) -> Header:
    """The header of a file. All its tensors are within the file, and no two overlap.

    Raises:
        CheckpointError: the file cannot be read, is damaged, truncated or split, or has tensors of
            a type that cannot be read.
    """
    gguf = library(file)
    try:
        files.check_regular(file)
        with open(file, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            reader = _Reader(file, stream, min(size, HEADER_LIMIT_BYTES))
            metadata, records = reader.header()
            end = stream.tell()
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({files.reason(error)})") from error
    _check_whole_model(file, metadata)
    alignment = metadata.get(ALIGNMENT, 32)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise CheckpointError(f"{file}: {ALIGNMENT} is {alignment!r:.40}; expected a power of two")
    start = -(-end // alignment) * alignment
    tensors: dict[str, StoredTensor] = {}
    last = start
    for name, sizes, kind, offset in sorted(records, key=lambda record: record[3]):
        found = StoredTensor(name, sizes[::-1], kind, start + offset)
        if name in tensors or found.offset < last:
            raise CheckpointError(f"{file}: tensor {name} appears twice, or overlaps another one")
        last = found.offset + stored_bytes(gguf, file, found)
        if last > size:
            raise CheckpointError(
                f"{file}: holds {size} bytes, but tensor {name} ends at {last}; the file is "
                "truncated; download it again"
            )
        tensors[name] = found
    return Header(metadata, tensors)


def stored_bytes(gguf: ModuleType, file: Path, tensor: StoredTensor) -> int:
    """The size of a tensor in the file, in bytes.

    Raises:
        CheckpointError: the package does not know the type, or rows are not whole blocks.
    """
    block, block_bytes = _block(gguf, file, tensor)
    if tensor.shape[-1] % block:
        raise CheckpointError(
            f"{file}: tensor {tensor.name} has rows of {tensor.shape[-1]}, but its type has blocks "
            f"of {block}; the file is damaged; download it again"
        )
    return math.prod(tensor.shape) // block * block_bytes


def _block(gguf: ModuleType, file: Path, tensor: StoredTensor) -> tuple[int, int]:
    """How many numbers a block of the tensor's type has, and how many bytes."""
    try:
        kind = gguf.GGMLQuantizationType(tensor.kind)
    except ValueError as error:
        raise CheckpointError(
            f"{file}: tensor {tensor.name} has the unknown type {tensor.kind}; update the package "
            "gguf, or use a file of another quantisation"
        ) from error
    return gguf.GGML_QUANT_SIZES[kind]


def _check_whole_model(file: Path, metadata: dict[str, Any]) -> None:
    parts = metadata.get("split.count", 1)
    if parts not in (0, 1):
        raise CheckpointError(
            f"{file}: one of {parts!r:.20} parts of a split model; join them first: "
            "llama-gguf-split --merge FIRST_PART OUT.gguf"
        )
    kind = metadata.get("general.type", "model")
    if kind != "model":
        raise CheckpointError(
            f"{file}: general.type is {kind!r:.40}; expected a whole model, no adapter and no part"
        )


class _Reader:
    """Reads values from the beginning of a file. Every method raises a CheckpointError if the
    content is impossible."""

    def __init__(self, file: Path, stream: BinaryIO, limit: int):
        self._file, self._stream, self._left = file, stream, limit

    def header(self) -> tuple[dict[str, Any], list[tuple[str, tuple[int, ...], int, int]]]:
        """The metadata, and each tensor's name, sizes (fastest axis first), type and offset."""
        if self._bytes(4) != MAGIC:
            raise CheckpointError(f"{self._file}: not a GGUF file; download it again")
        (version,) = self._numbers("I")
        if version not in VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
            what = "big-endian" if swapped else f"of version {version}"
            raise CheckpointError(
                f"{self._file}: {what}; expected a little-endian file of version "
                f"{' or '.join(map(str, VERSIONS))}; convert the model again"
            )
        tensors, entries = self._numbers("QQ")
        metadata: dict[str, Any] = {}
        for _ in range(entries):
            key = self._text()
            if key in metadata:
                raise self._broken(f"key {key!r:.60} appears twice")
            metadata[key] = self._value(*self._numbers("I"))
        return metadata, [self._record() for _ in range(tensors)]

    def _record(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._text()
        (axes,) = self._numbers("I")
        if not 1 <= axes <= MOST_AXES:
            raise self._broken(f"tensor {name!r:.60} has {axes} axes")
        sizes = self._numbers("Q" * axes)
        kind, offset = self._numbers("IQ")
        if 0 in sizes or math.prod(sizes) >= 2**63:
            raise self._broken(f"tensor {name!r:.60} has the sizes {list(sizes)}")
        return name, sizes, kind, offset

    def _value(self, kind: int) -> Any:
        if kind in SCALARS:
            return self._numbers(SCALARS[kind])[0]
        if kind == STRING:
            return self._text()
        if kind != ARRAY:
            raise self._broken(f"a value of type {kind}")
        inner, count = self._numbers("IQ")
        if inner in SCALARS:
            return list(self._numbers(SCALARS[inner], count))
        if inner != STRING:
            raise self._broken(f"an array of type {inner}")
        return [self._text() for _ in range(count)]

    def _text(self) -> str:
        (length,) = self._numbers("Q")
        try:
            return self._bytes(length).decode()
        except UnicodeDecodeError as error:
            raise self._broken("a text is not UTF-8") from error

    def _numbers(self, letters: str, count: int = 1) -> tuple[Any, ...]:
        length = count * struct.calcsize(f"<{letters}")
        return struct.unpack(
            f"<{letters if count == 1 else f'{count}{letters}'}", self._bytes(length)
        )

    def _bytes(self, count: int) -> bytes:
        if count > self._left:
            raise self._broken("it ends early, or is larger than any known")
        self._left -= count
        data = self._stream.read(count)
        if len(data) != count:
            raise self._broken("it ends early")
        return data

    def _broken(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"{self._file}: broken GGUF header ({what}); the file is truncated or damaged; "
            "download it again"
        )
