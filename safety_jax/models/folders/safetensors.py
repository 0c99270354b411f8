"""Reads and writes safetensors files piece by piece, with bounded memory.

The `safetensors` library maps the file, and mapped pages count as this process's memory until
they are dropped: a load would peak at twice the weights. Here plain reads fill the final buffers.

A file consists of 8 bytes with the length of the header; the header, JSON of
`{name: {dtype, shape, data_offsets}}`; and the tensors' bytes, row-major, little-endian, without
gaps (https://huggingface.co/docs/safetensors, "Format").
"""

import collections
import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from safety_jax.base import files, mistaken
from safety_jax.base.errors import CheckpointError

DTYPES = {
    "F32": np.dtype(np.float32),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
}
CODES = {dtype: code for code, dtype in DTYPES.items()}
# The bits of the exponent: if all are set, the number is NaN or infinite. A test of bits is as fast
# as reading memory, even for bfloat16, which numpy itself does not know.
EXPONENTS: dict[str, np.unsignedinteger] = {
    "F32": np.uint32(0x7F800000),
    "BF16": np.uint16(0x7F80),
    "F16": np.uint16(0x7C00),
}

# A few readers keep the disk and the copying core busy; together they hold READERS * CHUNK_BYTES.
CHUNK_BYTES = 8 << 20
READERS = 4
HEADER_LIMIT_BYTES = 100_000_000  # the format's own limit, so that a bad length cannot fill memory


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor in a file, whose first byte is at `offset`."""

    file: Path
    name: str
    code: str  # the format's name of the dtype, a key of DTYPES once `check` has passed
    shape: tuple[int, ...]
    offset: int

    @property
    def dtype(self) -> np.dtype:
        return DTYPES[self.code]

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def fill(self, start: int, rows: np.ndarray) -> None:
        """Reads rows from `start` on into `rows`, which is contiguous and of `dtype`.

        Raises:
            CheckpointError: the file ends early.
        """
        self.read_bytes(start * self.row_bytes, rows)

    def read_bytes(self, start: int, out: np.ndarray) -> None:
        """Fills an array with the bytes from `start` on, counted from the tensor's first."""
        with open(self.file, "rb", buffering=0) as stream:
            stream.seek(self.offset + start)
            left = out.reshape(-1).view(np.uint8).data
            while left:
                count = stream.readinto(left)
                if not count:
                    raise CheckpointError(f"{self.file}: ends inside tensor {self.name}")
                left = left[count:]

    def rows(self, start: int, stop: int) -> "Tensor":
        """Some rows, which are contiguous in the file. For an unknown dtype the offset is wrong,
        but `check` refuses it anyway."""
        each = self.row_bytes if self.code in DTYPES else 0
        shape = (stop - start, *self.shape[1:])
        return dataclasses.replace(self, shape=shape, offset=self.offset + start * each)

    def every(self, start: int, stop: int, groups: int) -> "Tensor":
        """These rows of each of `groups` equal groups."""
        shape = ((stop - start) * groups, *self.shape[1:])
        each = (start, stop, self.shape[0] // groups)
        return GroupedTensor(self.file, self.name, self.code, shape, self.offset, *each)

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises a CheckpointError unless the tensor can be read as floats of this shape."""
        if self.code not in DTYPES:
            raise CheckpointError(
                f"{self.file}: tensor {self.name} has dtype {self.code}; expected one of "
                f"{', '.join(DTYPES)}; quantised weights must be converted first"
            )
        if self.shape != shape:
            raise CheckpointError(
                f"{self.file}: tensor {self.name} has shape {list(self.shape)}, but config.json "
                f"asks for {list(shape)}; weights and config.json do not belong together"
            )


@dataclasses.dataclass(frozen=True)
class GroupedTensor(Tensor):
    """Rows `start:stop` of every group of `period` rows."""

    start: int
    stop: int
    period: int

    def fill(self, start: int, rows: np.ndarray) -> None:
        done, held = 0, self.stop - self.start
        while done < len(rows):
            group, within = divmod(start + done, held)
            count = min(held - within, len(rows) - done)
            Tensor.fill(self, group * self.period + self.start + within, rows[done : done + count])
            done += count


class Piece(NamedTuple):
    """A box of a tensor (start and stop of each axis), and the buffer to read it into."""

    box: tuple[slice, ...]
    out: np.ndarray


class FileChunk(NamedTuple):
    """Rows `start:stop` of a tensor, which one read delivers to every piece that needs them."""

    tensor: Tensor
    start: int
    stop: int
    pieces: Sequence[Piece]


class TensorSource(NamedTuple):
    """A tensor to be written; `read` is called when its turn comes."""

    dtype: np.dtype
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


# ---------------------------------------------------------------------------- reading


def read_header(file: Path) -> dict[str, Tensor]:
    """The tensors of a file by name.

    Raises:
        CheckpointError: the file is missing, truncated or not safetensors.
    """
    try:
        files.check_regular(file)
        if what := mistaken.look(file):
            raise CheckpointError(f"{file}: {what}")
        with open(file, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(size - 8, HEADER_LIMIT_BYTES):
                raise CheckpointError(
                    f"{file}: no complete safetensors header in {size} bytes; the file is "
                    "truncated or of another format; download it again"
                )
            header = json.loads(stream.read(length), object_pairs_hook=_without_doubles)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: broken safetensors header ({error})") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{file}: broken safetensors header (expected a JSON object)")
    header.pop("__metadata__", None)
    tensors, end = {}, 0
    for name, entry in sorted(header.items(), key=lambda item: _begin(file, *item)):
        tensors[name], end = _entry(file, name, entry, end, start=8 + length)
    if 8 + length + end != size:
        raise CheckpointError(
            f"{file}: holds {size} bytes, but its header announces {8 + length + end}; the file "
            "is truncated or damaged; download it again"
        )
    return tensors


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for name, count in collections.Counter(name for name, _ in pairs).items():
        if count > 1:
            raise ValueError(f"{name!r} appears twice")
    return dict(pairs)


def _begin(file: Path, name: str, entry: Any) -> int:
    match entry:
        case {"data_offsets": [int(begin), int()]}:
            return begin
    raise CheckpointError(f"{file}: broken safetensors header (entry {name!r})")


def _entry(file: Path, name: str, entry: Any, end: int, start: int) -> tuple[Tensor, int]:
    """The tensor of an entry, which must begin at the end of the previous one, and its own end."""
    match entry:
        case {"dtype": str(code), "shape": [*shape], "data_offsets": [int(begin), int(stop)]}:
            sizes = all(isinstance(size, int) and size >= 0 for size in shape)
            known = code in DTYPES and sizes
            expected = math.prod(shape) * DTYPES[code].itemsize if known else stop - begin
            if sizes and begin == end and stop - begin == expected >= 0:
                return Tensor(file, name, code, tuple(shape), start + begin), stop
    raise CheckpointError(f"{file}: broken safetensors header (entry {name!r})")


def chunks(tensor: Tensor, pieces: Sequence[Piece]) -> Iterator[FileChunk]:
    """Splits a read into chunks; pieces that share rows (column shards) share the read.

    The pieces come from a sharding, so their row ranges are equal or disjoint.
    """
    shared: dict[tuple[int, int], list[Piece]] = {}
    for piece in pieces:
        start, stop, _ = piece.box[0].indices(tensor.shape[0])
        shared.setdefault((start, stop), []).append(piece)
    rows = max(1, CHUNK_BYTES // max(1, tensor.row_bytes))
    for (first, last), group in shared.items():
        for start in range(first, last, rows):
            stop = min(start + rows, last)
            part = slice(start - first, stop - first)
            parts = [Piece(piece.box, piece.out[part]) for piece in group]
            yield FileChunk(tensor, start, stop, parts)


def read_chunk(chunk: FileChunk) -> int:
    """Reads one chunk, and casts it to the buffers' dtype. Returns the bytes written to buffers.

    Raises:
        CheckpointError: the file ends early, or a number is not finite.
    """
    tensor, start, stop, pieces = chunk
    shape = (stop - start, *tensor.shape[1:])
    out = pieces[0].out
    in_place = (
        len(pieces) == 1
        and out.shape == shape
        and out.dtype == tensor.dtype
        and out.flags.c_contiguous
    )
    rows = out if in_place else np.empty(shape, tensor.dtype)
    tensor.fill(start, rows)
    _check_finite(tensor, start, rows)
    if not in_place:
        for piece in pieces:
            np.copyto(piece.out, rows[:, *piece.box[1:]], casting="unsafe")
    return sum(piece.out.nbytes for piece in pieces)


def _check_finite(tensor: Tensor, start: int, rows: np.ndarray) -> None:
    exponent = EXPONENTS[CODES[tensor.dtype]]
    masked = rows.view(exponent.dtype) & exponent
    if masked.size and masked.max() == exponent:
        row = start + int(np.argmax((masked == exponent).reshape(len(rows), -1).any(axis=1)))
        raise CheckpointError(
            f"{tensor.file}: tensor {tensor.name} is not finite (NaN or infinite) in row {row}; "
            "the file is damaged, or what wrote it had diverged; download it again or use another"
        )


def read_chunks(work: Iterator[FileChunk], report: Callable[[int], Any]) -> None:
    """Reads chunks on a few threads; `report` receives the result of each `read_chunk`.

    Raises:
        CheckpointError: a file cannot be read, ends early, or has a number that is not finite.
    """
    with ThreadPoolExecutor(READERS) as pool:
        try:
            for count in pool.map(read_chunk, work):
                report(count)
        except OSError as error:
            raise CheckpointError(f"{error.filename}: cannot be read ({error.strerror})") from error


def equal(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors have the same bytes; compares chunk by chunk."""
    if (first.code, first.shape) != (second.code, second.shape):
        return False
    whole = tuple(slice(None) for _ in first.shape)
    layout = np.broadcast_to(np.empty((), first.dtype), first.shape)  # a shape without memory
    for chunk in chunks(first, [Piece(whole, layout)]):
        held = []
        for tensor in (first, second):
            rows = np.empty((chunk.stop - chunk.start, *tensor.shape[1:]), tensor.dtype)
            read_chunk(chunk._replace(tensor=tensor, pieces=[Piece(whole, rows)]))
            held.append(rows.view(np.uint8))
        if not np.array_equal(held[0], held[1]):
            return False
    return True


# ---------------------------------------------------------------------------- writing


def write(file: Path, tensors: Mapping[str, TensorSource]) -> None:
    """Writes tensors one by one, in the library's order, and flushes them to the disk.

    With one dtype throughout, the bytes are those that `safetensors` itself would write.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, source in sorted(tensors.items()):
        begin, end = end, end + math.prod(source.shape) * source.dtype.itemsize
        header[name] = {
            "dtype": CODES[source.dtype],
            "shape": list(source.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors start aligned
    with open(file, "wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for _, source in sorted(tensors.items()):
            array = np.ascontiguousarray(source.read())
            if (array.shape, array.dtype) != (source.shape, source.dtype):
                raise ValueError(f"{array.dtype}{array.shape} given for {source}")
            stream.write(array.reshape(-1).view(np.uint8).data)
        stream.flush()
        os.fsync(stream.fileno())
