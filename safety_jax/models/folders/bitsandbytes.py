"""Quantised kernels in the safetensors files of bitsandbytes: int8 and nf4.

An int8 kernel `X.weight` [O, I] has two more tensors: `X.SCB` [O], the largest magnitude of each
row, and `X.weight_format`. An nf4 kernel has its codes in `X.weight` [O · I / 2, 1], where each
byte has two neighbours of a row, the first in the upper half. Its other tensors are

    X.weight.absmax                             one scale per block; with nesting, its 8-bit code
    X.weight.nested_absmax                      with nesting: a float32 for every 256 scales
    X.weight.quant_map, .nested_quant_map       the number for each code
    X.weight.quant_state.bitsandbytes__nf4      the rest, as JSON

(bitsandbytes 0.50, `functional.QuantState.as_dict`, `nn.Linear8bitLt._save_to_state_dict`).
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from safety_jax.base import meshes
from safety_jax.base.errors import CheckpointError
from safety_jax.models import quantised
from safety_jax.models.folders import hub, safetensors

SETTINGS = "quantization_config"  # of config.json
STATE = ".quant_state.bitsandbytes__"
ROW_MAJOR = 0  # the value of `weight_format`; only old releases wrote other orders, for some GPUs
# The number types of the format, and those of numpy.
NUMBERS: dict[str, np.dtype] = {
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "F32": np.dtype(np.float32),
}
TABLE_TOLERANCE = 1e-6  # early releases computed the tables that later ones have as constants


# ---------------------------------------------------------------------------- config.json


def parse(settings: Any, where: str) -> str:
    """The format of a folder's quantised kernels, a name of `quantised.FORMATS`.

    Args:
        settings: `quantization_config` of its config.json.

    Raises:
        CheckpointError: the format is not supported.
    """
    given = settings if isinstance(settings, dict) else {}
    if given.get("quant_method", "bitsandbytes") == "bitsandbytes":
        four, eight = (given.get(f"load_in_{bits}bit") is True for bits in (4, 8))
        kind = str(given.get("bnb_4bit_quant_type", "fp4"))
        storage = str(given.get("bnb_4bit_quant_storage", "uint8"))
        if eight and not four:
            return "int8"
        if four and not eight and (kind, storage) == ("nf4", "uint8"):
            return "nf4"
        found = f"{kind} in {storage}" if four else "bits that are not named"
    else:
        found = f"{given['quant_method']!r:.40}"
    raise CheckpointError(
        f"{where}: quantised checkpoint ({SETTINGS}: {found}); expected int8 or nf4 of "
        "bitsandbytes, or float32, bfloat16 or float16 weights; use the model it was made from"
    )


def held(folder: Path) -> str:
    """The format of a model folder's kernels by its config.json; `quantised.STORED` for numbers.

    Raises:
        CheckpointError: the format is not supported.
    """
    file = folder / "config.json"
    settings = hub.read_json(file).get(SETTINGS) if file.exists() else None
    return parse(settings, str(file)) if settings else quantised.STORED


# ---------------------------------------------------------------------------- tensors


@dataclasses.dataclass(frozen=True)
class StoredKernel(safetensors.Tensor):
    """A quantised kernel [O, I] in a file, or some of its rows.

    Attributes:
        kind: int8 or nf4.
        beside: the other tensors of the kernel, by the suffix of their names.
        first: the number of its first row in the file's kernel.
        block: of nf4, how many numbers share a scale.
        mean: of nf4 with nesting, the offset of its 8-bit scales; None without nesting.
    """

    kind: str = "int8"
    beside: Mapping[str, safetensors.Tensor] = dataclasses.field(default_factory=dict)
    first: int = 0
    block: int = 0
    mean: float | None = None

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.float32)

    @property
    def nested(self) -> bool:
        return self.mean is not None

    @property
    def skipped(self) -> int:
        """See `quantised.Nf4Kernel`."""
        return self._blocks(self.first) % quantised.SCALES_BLOCK if self.nested else 0

    def layout(self) -> tuple[Any, ...]:
        """The properties that all layers of a stack must share."""
        return self.kind, self.shape, self.block, self.nested, self.skipped

    def parts(self, name: str, parameter: meshes.Parameter) -> dict[str, quantised.Part]:
        """The parts of a stack of kernels like this one."""
        if self.kind == "int8":
            return quantised.parts(name, parameter, self.kind)
        return quantised.parts(
            name, parameter, self.kind, block=self.block, nested=self.nested, skipped=self.skipped
        )

    def rows(self, start: int, stop: int) -> "StoredKernel":
        shape = (stop - start, *self.shape[1:])
        return dataclasses.replace(self, shape=shape, first=self.first + start)

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises a CheckpointError unless this is a kernel of that shape."""
        if self.shape != shape:
            raise CheckpointError(
                f"{self.file}: tensor {self.name} has shape {list(self.shape)}, but config.json "
                f"asks for {list(shape)}; weights and config.json do not belong together"
            )

    def part(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows of one of the parts in `quantised.parts`. For `outer`, `start` and `stop` count
        numbers; `mean` is a single number.

        Raises:
            CheckpointError: the file ends early, or a scale is not finite.
        """
        if name == "mean":
            return np.array(self.mean, np.float32)
        if name == "codes" and self.kind == "nf4":
            return self._repacked(start, stop)
        if name == "codes":
            each, code = self.shape[1:], NUMBERS["I8"]
            return _rows(self, each, code, self.first + start, self.first + stop)
        if name == "outer":
            begin = self._blocks(self.first) // quantised.SCALES_BLOCK
            return _numbers(self.beside[".nested_absmax"], (), begin + start, begin + stop)
        scales = self.beside[".SCB" if self.kind == "int8" else ".absmax"]
        each = () if self.kind == "int8" else (self.shape[1] // self.block,)
        return _numbers(scales, each, self.first + start, self.first + stop)

    def _repacked(self, start: int, stop: int) -> np.ndarray:
        """Rows of bytes in the order of `quantised.packed`, from the bytes of a file."""
        O, I = self.shape
        half = quantised.HALF
        begin, end = start // half * half, min(math.ceil(stop / half) * 2 * half, O)
        pairs = _rows(self, (I // 2,), NUMBERS["U8"], self.first + 2 * begin, self.first + end)
        codes = np.stack((pairs >> 4, pairs & 15), -1).reshape(-1, I)
        return quantised.packed(codes)[start - begin : stop - begin]

    def _blocks(self, rows: int) -> int:
        return rows * (self.shape[1] // self.block)


def joined(tensors: Mapping[str, safetensors.Tensor]) -> dict[str, safetensors.Tensor]:
    """Joins the tensors of each quantised kernel into one `StoredKernel`.

    Raises:
        CheckpointError: the other tensors of a kernel do not fit it.
    """
    found = dict(tensors)
    for name in tensors:
        module, _, what = name.rpartition(".")
        if what == "SCB" and f"{module}.weight" in tensors:
            beside = {".SCB": found.pop(name)}
            if (order := found.pop(f"{module}.weight_format", None)) is not None:
                _check_order(order)
            found[f"{module}.weight"] = _int8(tensors[f"{module}.weight"], beside)
        elif STATE in name:
            whole = name.partition(STATE)[0]
            if whole not in tensors:
                continue  # `weight_table.check` reports it as unexpected
            ends = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map")
            beside = {end: found.pop(whole + end) for end in ends if whole + end in tensors}
            found[whole] = _nf4(tensors[whole], beside, found.pop(name))
    return found


def _int8(codes: safetensors.Tensor, beside: dict[str, safetensors.Tensor]) -> StoredKernel:
    if codes.code != "I8" or len(codes.shape) != 2:
        raise CheckpointError(
            f"{codes.file}: tensor {codes.name} has {codes.code} {list(codes.shape)} beside int8 "
            "scales; expected I8 of two axes"
        )
    _expect(beside[".SCB"], "F32", codes.shape[0])
    return StoredKernel(
        codes.file, codes.name, codes.code, codes.shape, codes.offset, "int8", beside
    )


def _check_order(order: safetensors.Tensor) -> None:
    _expect(order, "U8", 1)
    if (number := int(_rows(order, (), NUMBERS["U8"], 0, 1)[0])) != ROW_MAJOR:
        raise CheckpointError(
            f"{order.file}: {order.name} is {number}, an order for GPUs that old releases wrote; "
            "save the model again with a current bitsandbytes"
        )


def _nf4(
    codes: safetensors.Tensor, beside: dict[str, safetensors.Tensor], described: safetensors.Tensor
) -> StoredKernel:
    where = f"{described.file}: {described.name}"
    _expect(described, "U8", math.prod(described.shape))
    raw = _rows(described, (), NUMBERS["U8"], 0, math.prod(described.shape)).tobytes()
    try:
        state = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where}: broken JSON ({error})") from error
    match state:
        case {"quant_type": "nf4", "blocksize": int(block), "shape": [int(O), int(I)]} if (
            O > 0 and block > 0 and I % block == 0
        ):
            pass
        case _:
            raise CheckpointError(
                f"{where}: {f'{state!r}'[:120]}; expected nf4 with a shape of two axes, and rows "
                "of whole blocks"
            )
    _expect(codes, "U8", O * I // 2)
    blocks, mean = O * I // block, None
    nested = ".nested_absmax" in beside
    _table(beside, ".quant_map", quantised.NF4, where)
    if nested:
        mean = state.get("nested_offset")
        fits = isinstance(mean, int | float) and not isinstance(mean, bool) and math.isfinite(mean)
        if not fits or state.get("nested_blocksize") != quantised.SCALES_BLOCK:
            raise CheckpointError(
                f"{where}: {f'{state!r}'[:200]}; expected nested_blocksize "
                f"{quantised.SCALES_BLOCK} and a finite nested_offset"
            )
        mean = float(mean)
        _table(beside, ".nested_quant_map", quantised.DYNAMIC, where)
        _expect(beside[".nested_absmax"], "F32", math.ceil(blocks / quantised.SCALES_BLOCK))
    _expect(_beside(beside, ".absmax", where), "U8" if nested else "F32", blocks)
    return StoredKernel(
        codes.file, codes.name, codes.code, (O, I), codes.offset, "nf4", beside, 0, block, mean
    )


def _beside(beside: Mapping[str, safetensors.Tensor], end: str, where: str) -> safetensors.Tensor:
    if end not in beside:
        raise CheckpointError(f"{where}: its tensor {end.removeprefix('.')} is missing")
    return beside[end]


def _table(
    beside: Mapping[str, safetensors.Tensor], end: str, known: np.ndarray, where: str
) -> None:
    """Raises a CheckpointError unless the table of codes is the known one."""
    table = _beside(beside, end, where)
    _expect(table, "F32", len(known))
    numbers = _rows(table, (), NUMBERS["F32"], 0, len(known))
    if not np.allclose(numbers, known, rtol=0, atol=TABLE_TOLERANCE):
        raise CheckpointError(
            f"{table.file}: tensor {table.name} is another table than bitsandbytes' own; save the "
            "model again with a current release"
        )


def _expect(tensor: safetensors.Tensor, code: str, count: int) -> None:
    if tensor.code != code or math.prod(tensor.shape) != count:
        raise CheckpointError(
            f"{tensor.file}: tensor {tensor.name} has {tensor.code} {list(tensor.shape)}; expected "
            f"{count:,} numbers of {code}"
        )


def _numbers(
    tensor: safetensors.Tensor, each: tuple[int, ...], start: int, stop: int
) -> np.ndarray:
    """Rows of scales. Raises a CheckpointError if one is not finite."""
    rows = _rows(tensor, each, NUMBERS[tensor.code], start, stop)
    if not np.isfinite(rows).all():
        raise CheckpointError(
            f"{tensor.file}: tensor {tensor.name} is not finite (NaN or infinite); the file is "
            "damaged; download it again or use another"
        )
    return rows


def _rows(
    tensor: safetensors.Tensor, each: tuple[int, ...], dtype: np.dtype, start: int, stop: int
) -> np.ndarray:
    """Rows of the shape `each`, no matter which axes the file gives the tensor."""
    out = np.empty((stop - start, *each), dtype)
    if out.size:
        tensor.read_bytes(start * math.prod(each) * dtype.itemsize, out)
    return out
