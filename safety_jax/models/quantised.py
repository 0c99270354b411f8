"""Frozen kernels in 8 or 4 bits, in the two formats of bitsandbytes.

`int8` (Dettmers et al. 2022, arXiv 2208.07339) stores each row of a kernel in 255 steps of its
largest number. `nf4` (QLoRA, Dettmers et al. 2023, arXiv 2305.14314) divides rows into blocks of 64
numbers and stores each number as one of 16 quantiles of the normal distribution times the block's
largest number. These scales are stored in 8 bits, too, in blocks of 256 around the kernel's mean
scale.

Codes and scales equal those of bitsandbytes for the same kernel. In both formats a row does not
depend on other rows, so codes are sharded like the kernel. A program gathers codes, and dequantises
them inside the loop over layers, one layer at a time.

Two nf4 codes share a byte. bitsandbytes pairs neighbours in a row. Here a byte has two codes of the
same column, 32 rows apart (`packed`): each half of the bytes then forms whole tiles of a TPU, which
are 32 rows of bytes high, while neighbours in a row would have to be interleaved across its lanes.

Only weights are quantised. Products use the dequantised kernel in the compute dtype; the int8
product of bitsandbytes also rounds activations.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Shaped

from safety_jax.base import meshes
from safety_jax.base.errors import ConfigError
from safety_jax.models import bits

STORED = "stored"  # kernels as they are in the folder
FORMATS = ("int8", "nf4")

BLOCK = 64  # numbers that share a scale
SCALES_BLOCK = 256  # scales that share an outer scale
HALF = 32  # rows between the two codes of a byte
PLACES = np.float32(65_535 / 2)  # steps to which a scale in [-1, 1] is rounded before its code
# Quantiles of the normal distribution, with an exact zero (arXiv 2305.14314, appendix E), in the
# digits of the paper's code.
NF4 = np.array(
    [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
        *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ],
    np.float32,
)
NF4_BOUNDS = (NF4[:-1] + NF4[1:]) / 2
STEP = np.float32(1 / 127)  # of int8


def _dynamic() -> np.ndarray:
    """The 256 values of an 8-bit scale: a sign, a decimal exponent in unary, and a fraction in the
    remaining bits (Dettmers 2015, arXiv 1511.04561). bitsandbytes computes them in float32, so that
    their last digit depends on the processor."""
    found = [0.0, 1.0]
    for exponent in range(7):
        ends = np.linspace(0.1, 1, 2**exponent + 1)
        sizes = 10.0 ** (exponent - 6) * (ends[:-1] + ends[1:]) / 2
        found += [*sizes, *-sizes]
    return np.sort(np.array(found, np.float32))


DYNAMIC = _dynamic()


# ---------------------------------------------------------------------------- quantised kernels


class Part(NamedTuple):
    """An array of a quantised kernel; None for an axis that is not sharded."""

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    dtype: np.dtype


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Int8Kernel:
    """A kernel, or a stack of kernels with an axis of layers in front: number = code · scale / 127.

    Attributes:
        codes: int8 [*L, O, I], -127 to 127.
        scales: float32 [*L, O], the largest absolute value in each row.
    """

    codes: Any
    scales: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.codes.shape)

    def dequantised(self, dtype: DTypeLike) -> Float[Array, "*L O I"]:
        wide = self.codes.astype(jnp.float32) * self.scales[..., None] * STEP
        return wide.astype(dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Nf4Kernel:
    """A kernel, or a stack of kernels with an axis of layers in front: number = NF4[code] · scale.

    Attributes:
        codes: uint8 [*L, O / 2, I], see `packed`.
        scales: [*L, O, blocks], one for each block of a row. float32; or uint8 if they are
            quantised, with scale = DYNAMIC[code] · outer + mean.
        outer: float32 [*L, many], one for every 256 scales, counted over all rows; None if scales
            are float32.
        mean: float32 [*L], of all scales; None if scales are float32.
        skipped: for a part of a fused kernel: how many of the 256 scales of its first `outer`
            belong to rows before this part.
    """

    codes: Any
    scales: Any
    outer: Any = None
    mean: Any = None
    skipped: int = dataclasses.field(default=0, metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.scales.shape[:-1], self.codes.shape[-1])

    def dequantised(self, dtype: DTypeLike) -> Float[Array, "*L O I"]:
        *layers, rows, size = self.shape
        pairs = self.codes.reshape(*layers, -1, HALF, size)
        halves = _choose(NF4, pairs >> 4), _choose(NF4, pairs & 15)
        numbers = jnp.stack(halves, -3).reshape(*layers, -1, size)[..., :rows, :]
        scaled = numbers.reshape(*self.scales.shape, -1) * self._scales()[..., None]
        return scaled.astype(dtype).reshape(self.shape)

    def _scales(self) -> Float[Array, "*L O blocks"]:
        if self.outer is None:
            return self.scales
        *layers, rows, blocks = self.scales.shape
        of_each = jnp.repeat(self.outer, SCALES_BLOCK, axis=-1)
        of_each = of_each[..., self.skipped : self.skipped + rows * blocks]
        # A sum with a single term that is not zero, because table lookups are slow on a TPU.
        every = (1,) * self.scales.ndim + (len(DYNAMIC),)
        chosen = self.scales[..., None] == jnp.arange(len(DYNAMIC), dtype=jnp.uint8).reshape(every)
        found = jnp.where(chosen, DYNAMIC.reshape(every), 0).sum(-1)
        mean = self.mean.reshape(*layers, 1, 1)
        return found * of_each.reshape(*layers, rows, blocks) + mean


Kernel = Int8Kernel | Nf4Kernel


def _choose(values: np.ndarray, codes: jax.Array) -> jax.Array:
    """values[codes] by halving the table: selects are fast on every device, lookups are not."""
    if len(values) == 1:
        return jnp.float32(values[0])
    half = len(values) // 2
    upper, lower = _choose(values[half:], codes), _choose(values[:half], codes)
    return jnp.where((codes & half) != 0, upper, lower)


def is_quantised(weight: Any) -> bool:
    return isinstance(weight, Kernel)


def quantisable(name: str) -> bool:
    """Whether a weight, by its dotted name, is one that is quantised: a kernel of the layers. The
    embedding, the head, norms and biases stay as they are."""
    return name.startswith("layers.") and name.endswith(".kernel")


def parts(
    name: str,
    parameter: meshes.Parameter,
    kind: str,
    *,
    block: int = BLOCK,
    nested: bool = True,
    skipped: int = 0,
) -> dict[str, Part]:
    """The arrays of a stacked kernel in a format.

    Args:
        name: for the message.
        kind: a name of FORMATS.
        block, nested, skipped: of nf4 in files that differ from the default: the numbers that share
            a scale, whether scales are quantised, and see `Nf4Kernel`.

    Raises:
        ConfigError: blocks of nf4 do not divide the rows.
    """
    layers, rows, size = parameter.shape
    axes = parameter.axes
    scale = np.dtype(np.float32)
    if kind == "int8":
        return {
            "codes": Part(parameter.shape, axes, np.dtype(np.int8)),
            "scales": Part((layers, rows), axes[:2], scale),
        }
    if size % block:
        raise ConfigError(
            f"base nf4: {name} has rows of {size} numbers, which blocks of {block} do not fill; "
            "use int8"
        )
    code, blocks = np.dtype(np.uint8), size // block
    many = math.ceil((skipped + rows * blocks) / SCALES_BLOCK)
    held = {
        "codes": Part((layers, HALF * math.ceil(rows / (2 * HALF)), size), axes, code),
        "scales": Part((layers, rows, blocks), axes, code if nested else scale),
    }
    if not nested:
        return held
    return held | {
        "outer": Part((layers, many), (axes[0], None), scale),
        "mean": Part((layers,), (axes[0],), scale),
    }


def assembled(kind: str, found: Mapping[str, Any], skipped: int = 0) -> Kernel:
    """A kernel from its parts, which may be arrays, shapes, shardings or anything else."""
    return Int8Kernel(**found) if kind == "int8" else Nf4Kernel(**found, skipped=skipped)


def shardings(held: Mapping[str, Part], name: str, mesh: Mesh) -> dict[str, NamedSharding]:
    """The shardings of the parts of a kernel.

    Raises:
        ConfigError: the mesh does not divide a part; a device needs whole blocks of nf4.
    """
    for part in held.values():
        meshes.check_divides(mesh, f"{name} (quantised)", part.shape, part.axes)
    return {key: meshes.sharding(mesh, part.axes, part.shape) for key, part in held.items()}


def weights_bytes(declared: Mapping[str, meshes.Parameter], number_bytes: int, kernels: str) -> int:
    """Bytes of all weights.

    Args:
        number_bytes: of a number that is not quantised.
        kernels: the format of the layers' kernels, a name of FORMATS or STORED.
    """
    found = 0
    for name, parameter in declared.items():
        if kernels != STORED and quantisable(name):
            held = parts(name, parameter, kernels).values()
            found += sum(math.prod(part.shape) * part.dtype.itemsize for part in held)
        else:
            found += math.prod(parameter.shape) * number_bytes
    return found


# ------------------------------------------------------------- quantising and dequantising


Bytes = TypeVar("Bytes", jax.Array, np.ndarray)


def quantise(kernel: Float[Array, "O I"], kind: str) -> Kernel:
    """One layer's kernel in this format."""
    return int8(kernel) if kind == "int8" else nf4(kernel)


def int8(kernel: Float[Array, "O I"]) -> Int8Kernel:
    """Like `int8_vectorwise_quant` of bitsandbytes; a row of zeros stays zero."""
    wide = kernel.astype(jnp.float32)
    scales = jnp.abs(wide).max(-1)
    # torch divides a number by a tensor in two roundings, which decides ties of bfloat16 numbers.
    steps = jnp.where(scales > 0, 127 * (1 / scales), 0)
    return Int8Kernel(jnp.round(wide * steps[:, None]).astype(jnp.int8), scales)


def nf4(kernel: Float[Array, "O I"]) -> Nf4Kernel:
    """Like `quantize_4bit` of bitsandbytes with `compress_statistics`."""
    rows, size = kernel.shape
    blocks = kernel.astype(jnp.float32).reshape(rows, -1, BLOCK)
    scales = jnp.abs(blocks).max(-1)
    inverse = jnp.where(scales > 0, 1 / scales, 0)
    numbers = jnp.clip(blocks * inverse[..., None], -1, 1).reshape(rows, size)
    codes = sum((numbers > bound).astype(jnp.uint8) for bound in NF4_BOUNDS)
    mean = scales.mean()
    less = (scales - mean).reshape(-1)
    padded = jnp.pad(less, (0, -len(less) % SCALES_BLOCK)).reshape(-1, SCALES_BLOCK)
    outer = jnp.abs(padded).max(-1)
    normed = padded / jnp.where(outer > 0, outer, 1)[:, None]
    scale_codes = _nearest(normed).reshape(-1)[: len(less)]
    return Nf4Kernel(packed(codes), scale_codes.reshape(rows, -1), outer, mean)


def packed(codes: Bytes) -> Bytes:
    """Packs codes of 4 bits [O, I] into bytes [O / 2, I]: of every 64 rows, the first 32 into the
    upper and the others into the lower halves, with rows of zeros at the end if necessary. Accepts
    arrays of numpy and of jax."""
    rows, size = codes.shape
    on = jnp if isinstance(codes, jax.Array) else np
    filled = on.pad(codes, ((0, -rows % (2 * HALF)), (0, 0))).reshape(-1, 2, HALF, size)
    return (filled[:, 0] << 4 | filled[:, 1]).reshape(-1, size)


def _nearest(numbers: jax.Array) -> jax.Array:
    """The codes of the nearest values in DYNAMIC, as bitsandbytes computes them on a CPU, where it
    rounds to 65,536 steps first. On a GPU, it may decide near-ties in the other way."""
    table = jnp.asarray(DYNAMIC)
    numbers = jnp.round((numbers + 1) * PLACES) / PLACES - 1
    below = jnp.clip(jnp.searchsorted(table, numbers, side="right") - 1, 0, len(DYNAMIC) - 2)
    nearer_above = table[below + 1] - numbers < numbers - table[below]
    return (below + nearer_above).astype(jnp.uint8)


def ready(
    kernel: Shaped[Array, "O I"] | Kernel, dtype: DTypeLike, mesh: Mesh, axes: tuple[str, str]
) -> Float[Array, "O I"]:
    """A stored kernel, gathered and cast for a product, see `meshes.gather`. Of a quantised kernel
    the codes are gathered, which are a half or a quarter of the bytes."""
    if isinstance(kernel, Int8Kernel):
        codes = meshes.gather(kernel.codes, mesh, axes)
        return Int8Kernel(codes, meshes.gather(kernel.scales, mesh, axes[:1])).dequantised(dtype)
    if isinstance(kernel, Nf4Kernel):
        codes, scales = (meshes.gather(part, mesh, axes) for part in (kernel.codes, kernel.scales))
        return dataclasses.replace(kernel, codes=codes, scales=scales).dequantised(dtype)
    return meshes.gather(bits.floats(kernel).astype(dtype), mesh, axes)


def as_float(weight: jax.Array | Kernel, dtype: DTypeLike) -> jax.Array:
    """A weight in this float type, dequantised if necessary."""
    return weight.dequantised(dtype) if isinstance(weight, Kernel) else weight.astype(dtype)
