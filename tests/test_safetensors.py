"""The own reader and writer against the `safetensors` library."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from safety_jax.base.errors import CheckpointError
from safety_jax.models.folders import safetensors

DTYPES = (np.float32, ml_dtypes.bfloat16, np.float16)


@pytest.fixture
def small_chunks(monkeypatch):
    """Three rows of the tensors here a chunk, so that every read takes several."""
    monkeypatch.setattr(safetensors, "CHUNK_BYTES", 3 * 7 * 4)


def arrays(dtype) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    shapes = {"b.10": (11, 7), "b.2": (5,), "a": (64, 7), "empty": (0, 7), "one": (1,)}
    return {name: random.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def read(tensor, box=None, dtype=None) -> np.ndarray:
    box = box or tuple(slice(0, size) for size in tensor.shape)
    shape = tuple(part.stop - part.start for part in box)
    out = np.zeros(shape, dtype or tensor.dtype)
    piece = safetensors.Piece(box, out)
    counts: list[int] = []
    safetensors.read_chunks(safetensors.chunks(tensor, [piece]), counts.append)
    assert sum(counts) == out.nbytes
    return out


@pytest.mark.parametrize("dtype", DTYPES)
def test_reads_what_the_library_wrote(dtype, tmp_path, small_chunks):
    expected = arrays(dtype)
    save_file(expected, tmp_path / "x.safetensors")
    tensors = safetensors.read_header(tmp_path / "x.safetensors")
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == expected[name].dtype
        assert read(tensor).tobytes() == expected[name].tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_writes_the_bytes_the_library_writes(dtype, tmp_path):
    given = arrays(dtype)
    save_file(given, tmp_path / "theirs", metadata={"format": "pt"})
    sources = {
        name: safetensors.TensorSource(array.dtype, array.shape, lambda array=array: array)
        for name, array in given.items()
    }
    safetensors.write(tmp_path / "ours", sources)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert load_file(tmp_path / "ours")["a"].tobytes() == given["a"].tobytes()


def test_writer_refuses_an_array_unlike_its_header(tmp_path):
    wrong = safetensors.TensorSource(np.dtype(np.float32), (3,), lambda: np.zeros(2, np.float32))
    with pytest.raises(ValueError, match="given for"):
        safetensors.write(tmp_path / "x", {"a": wrong})


BOXES = [
    (slice(0, 64), slice(0, 7)),
    (slice(5, 6), slice(0, 7)),
    (slice(10, 31), slice(0, 7)),
    (slice(0, 64), slice(2, 5)),
    (slice(63, 64), slice(6, 7)),
    (slice(8, 8), slice(0, 7)),
]


@pytest.mark.parametrize("box", BOXES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_box_in_any_dtype(dtype, box, tmp_path, small_chunks):
    expected = arrays(np.float32)
    save_file(expected, tmp_path / "x")
    tensor = safetensors.read_header(tmp_path / "x")["a"]
    found = read(tensor, box, dtype)
    assert found.tobytes() == expected["a"][box].astype(dtype).tobytes()


def test_column_pieces_share_one_read(tmp_path):
    save_file(arrays(np.float32), tmp_path / "x")
    tensor = safetensors.read_header(tmp_path / "x")["a"]
    left, right = np.zeros((64, 4), np.float32), np.zeros((64, 3), np.float32)
    pieces = [
        safetensors.Piece((slice(0, 64), slice(0, 4)), left),
        safetensors.Piece((slice(0, 64), slice(4, 7)), right),
    ]
    (chunk,) = safetensors.chunks(tensor, pieces)
    safetensors.read_chunk(chunk)
    np.testing.assert_array_equal(np.hstack([left, right]), arrays(np.float32)["a"])


def test_equal_compares_every_byte(tmp_path, small_chunks):
    one = arrays(np.float32)["a"]
    other = one.copy()
    other[-1, -1] += 1
    save_file({"one": one, "same": one.copy(), "other": other, "short": one[:5]}, tmp_path / "x")
    tensors = safetensors.read_header(tmp_path / "x")
    assert safetensors.equal(tensors["one"], tensors["same"])
    assert not safetensors.equal(tensors["one"], tensors["other"])
    assert not safetensors.equal(tensors["one"], tensors["short"])


def file_of(header: object, body: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


BROKEN = {
    "empty": (b"", "no complete safetensors header"),
    "header cut": (file_of({"a": entry(0, 8, [2])}, bytes(8))[:20], "no complete"),
    "length beyond the file": (struct.pack("<Q", 1 << 60) + b"{}", "no complete"),
    "body cut": (file_of({"a": entry(0, 8, [2])}, bytes(5)), "truncated"),
    "body too long": (file_of({"a": entry(0, 8, [2])}, bytes(9)), "announces"),
    "not JSON": (file_of(b"{oops", b""), "broken safetensors header"),
    "not text": (file_of(b"\xff\xfe{}", b""), "broken safetensors header"),
    "not an object": (file_of([1], b""), "expected a JSON object"),
    "entry without dtype": (file_of({"a": {"shape": [2]}}, b""), "entry 'a'"),
    "negative size": (file_of({"a": entry(0, 8, [-1, -2])}, bytes(8)), "entry 'a'"),
    "shape against offsets": (file_of({"a": entry(0, 8, [3])}, bytes(8)), "entry 'a'"),
    "gap": (file_of({"a": entry(4, 12, [2])}, bytes(12)), "entry 'a'"),
    "overlap": (
        file_of({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, bytes(12)),
        "entry 'b'",
    ),
    "twice": (
        file_of(b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"a":1}', b""),
        "'a' appears twice",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_give_one_line(case, tmp_path):
    content, message = BROKEN[case]
    (tmp_path / "bad.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as raised:
        safetensors.read_header(tmp_path / "bad.safetensors")
    assert "bad.safetensors" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match="No such file"):
        safetensors.read_header(tmp_path / "none.safetensors")


def test_file_cut_after_its_header_was_read(tmp_path):
    save_file(arrays(np.float32), tmp_path / "x")
    tensor = safetensors.read_header(tmp_path / "x")["one"]
    content = (tmp_path / "x").read_bytes()
    (tmp_path / "x").write_bytes(content[: tensor.offset + 1])
    with pytest.raises(CheckpointError, match="ends inside tensor one"):
        read(tensor)
    (tmp_path / "x").unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        read(tensor)


def test_check_names_dtype_and_shape(tmp_path):
    (tmp_path / "x").write_bytes(file_of({"a": entry(0, 2, [2], "I8")}, bytes(2)))
    tensor = safetensors.read_header(tmp_path / "x")["a"]
    with pytest.raises(CheckpointError, match="dtype I8"):
        tensor.check((2,))
    save_file(arrays(np.float32), tmp_path / "y")
    with pytest.raises(CheckpointError, match=r"shape \[64, 7\].*asks for \[7, 64\]"):
        safetensors.read_header(tmp_path / "y")["a"].check((7, 64))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_found_while_reading(bad, dtype, tmp_path, small_chunks):
    values = np.full((9, 7), np.finfo(np.float16).max).astype(dtype)
    save_file({"w": values}, tmp_path / "x.safetensors")
    out = np.empty((9, 7), np.float32)
    whole = [safetensors.Piece((slice(0, 9), slice(0, 7)), out)]

    def read() -> None:
        tensor = safetensors.read_header(tmp_path / "x.safetensors")["w"]
        safetensors.read_chunks(safetensors.chunks(tensor, whole), lambda count: None)

    read()
    values[5, 3] = bad
    save_file({"w": values}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="x.safetensors: tensor w is not finite .* in row 5"):
        read()
