"""Published figures of chips, and slices of them by name: `v5e:4x4`, `h100:8`.

Peak FLOP/s are in `flops.PEAK_FLOPS`. The memory of a TPU is what libtpu 0.0.42 gives a program,
which is less than in the data sheet. The memory of a GPU is the part of the data sheet's memory
that XLA uses by default.
"""

import dataclasses
import math
import os
import re
from typing import Any, NamedTuple

from safety_jax.base.errors import ConfigError
from safety_jax.base.memory import GIB
from safety_jax.maths import flops

NO_LIBTPU = (
    "libtpu, which compiles for TPUs, cannot be imported; pip install 'safety_jax[plan]', or plan "
    "for GPUs, which needs only formulas"
)
XLA_SHARE = 0.75  # of a GPU's memory; the default of XLA_PYTHON_CLIENT_MEM_FRACTION in jax


# Without these, libtpu asks a metadata server for the TPU of this machine, complains that there is
# none, and refuses a second process. The names do not affect what it compiles for.
NO_TPU_HERE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
}


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of chip.

    Attributes:
        kind: the name of its devices in jax.
        devices: jax devices per chip; all figures below are for a chip.
        memory: bytes that a program may use.
        bandwidth: bytes/s between the chip and its memory.
        network: bytes/s that it can send to its neighbours over all links, in one direction.
        axes: dimensions of a TPU's network; 0 for GPUs behind a switch.
        ring: an axis is a ring if its length is a multiple of this.
        node: GPUs behind one switch.
        outside: bytes/s that each GPU can send beyond its switch.
        source: of the figures.
    """

    kind: str
    devices: int
    memory: float
    bandwidth: float
    network: float
    axes: int
    ring: int
    node: int
    outside: float
    source: str

    @property
    def flops(self) -> float:
        """Dense bfloat16 FLOP/s of the chip."""
        peak = flops.peak_flops(self.kind)
        assert peak is not None
        return peak * self.devices


def _tpu(kind, devices, memory_gib, bandwidth, both_ways, axes, ring, source) -> Chip:
    """A TPU, with `both_ways` from the data sheet: the sum of both directions of all links."""
    return Chip(
        kind, devices, memory_gib * GIB, bandwidth, both_ways / 2, axes, ring, 0, 0.0, source
    )


def _gpu(kind, memory, bandwidth, both_ways, outside, source) -> Chip:
    usable = memory * XLA_SHARE
    return Chip(kind, 1, usable, bandwidth, both_ways / 2, 0, 0, 8, outside, source)


TPU_DOCS = "https://docs.cloud.google.com/tpu/docs/"
CHIPS: dict[str, Chip] = {
    # Links of v4: six of 50 GB/s each way (arXiv 2304.01433, table 4).
    "v4": _tpu("TPU v4", 1, 30.75, 1200e9, 600e9, 3, 4, TPU_DOCS + "v4, arXiv 2304.01433"),
    "v5e": _tpu("TPU v5 lite", 1, 15.75, 819e9, 400e9, 2, 16, TPU_DOCS + "v5e"),
    "v5p": _tpu("TPU v5", 1, 95.74, 2765e9, 1200e9, 3, 4, TPU_DOCS + "v5p"),
    "v6e": _tpu("TPU v6 lite", 1, 31.25, 1638e9, 800e9, 2, 16, TPU_DOCS + "v6e"),
    "tpu7x": _tpu("TPU7x", 2, 2 * 94.75, 7380e9, 1200e9, 3, 4, TPU_DOCS + "tpu7x"),
    "a100": _gpu(
        "NVIDIA A100", 80e9, 2039e9, 600e9, 25e9, "NVIDIA A100 80GB SXM and DGX A100 data sheets"
    ),
    "h100": _gpu(
        "NVIDIA H100", 80e9, 3350e9, 900e9, 50e9, "NVIDIA H100 SXM and DGX H100 data sheets"
    ),
    "h200": _gpu(
        "NVIDIA H200", 141e9, 4800e9, 900e9, 50e9, "NVIDIA H200 SXM and DGX H200 data sheets"
    ),
    "b200": _gpu("NVIDIA B200", 180e9, 8000e9, 1800e9, 50e9, "NVIDIA DGX B200 data sheet"),
}

# Shapes of TPU slices, by the number of axes, as the pages above list them. Those with three axes
# are also made of whole cubes of 4x4x4.
SMALL: dict[int, tuple[tuple[int, ...], ...]] = {
    2: ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16)),
    3: ((1, 1, 1), (2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4)),
}


class Group(NamedTuple):
    """Devices that exchange with each other.

    Attributes:
        size: how many.
        stride: neighbours in the group are that many devices of the slice apart.
    """

    size: int
    stride: int = 1


@dataclasses.dataclass(frozen=True)
class Slice:
    """Chips that are connected by a network.

    Attributes:
        shape: chips along each axis of the network; (count,) for GPUs.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]

    @property
    def chips(self) -> int:
        return math.prod(self.shape)

    @property
    def devices(self) -> int:
        """The number of jax devices."""
        return self.chips * self.chip.devices

    @property
    def is_tpu(self) -> bool:
        return self.chip.axes > 0

    def network(self, size: int, stride: int = 1) -> float:
        """Bytes/s at which each chip of a `Group` can receive from the others, if all links of the
        axes that the group spans carry their share.

        GPUs are numbered node by node. A group of a TPU slice spans as few axes as possible,
        whatever its stride, because meshes are laid out along the axes. On an axis that is not a
        ring, the chips at the ends have only one link, and the others wait for them.
        """
        if not self.is_tpu:
            return self.chip.network if size * stride <= self.chip.node else self.chip.outside
        group = max(1, size // self.chip.devices)
        found, held = 0.0, 1
        for length in sorted(self.shape, reverse=True):
            if held >= group and found:
                break
            per_axis = self.chip.network / self.chip.axes
            if length > 1:
                found += per_axis if length % self.chip.ring == 0 else per_axis / 2
            held *= length
        return found or self.chip.network


def parse_slice(name: str) -> Slice:
    """`v5e:4x4`, `v5p:4x4x4`, `tpu7x:2x2x1`, `h100:8`.

    Raises:
        ConfigError: the chip is unknown, or the shape does not fit its network.
    """
    kind, _, shape = name.partition(":")
    chip = CHIPS.get(kind.lower())
    if chip is None:
        raise ConfigError(f"plan.slice {name!r}: expected CHIP:SHAPE, one of {', '.join(CHIPS)}")
    axes = chip.axes or 1
    example = "x".join(["4"] * axes) if chip.axes else "8"
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape) or shape.count("x") + 1 != axes:
        raise ConfigError(
            f"plan.slice {name!r}: expected {axes} number(s), such as {kind.lower()}:{example}"
        )
    sizes = tuple(int(size) for size in shape.split("x"))
    if not _is_rented(sizes):
        rented = ", ".join("x".join(map(str, small)) for small in SMALL[axes])
        larger = " or multiples of 4" if axes == 3 else ""
        raise ConfigError(f"plan.slice {name!r}: no such slice exists; expected {rented}{larger}")
    return Slice(f"{kind.lower()}:{shape}", chip, sizes)


def _is_rented(sizes: tuple[int, ...]) -> bool:
    """Whether there is a slice of this shape; any number of GPUs is one."""
    axes = len(sizes)
    if axes == 1 or sorted(sizes) in [sorted(small) for small in SMALL[axes]]:
        return True
    return axes == 3 and all(size % 4 == 0 for size in sizes)


def topology(where: Slice) -> list[Any]:
    """The devices of an absent TPU slice, for ahead-of-time compilation.

    Raises:
        ConfigError: libtpu is not installed, or does not know the slice.
    """
    os.environ.update(NO_TPU_HERE)
    try:
        import libtpu  # noqa: F401
    except ImportError as error:
        raise ConfigError(NO_LIBTPU) from error
    from jax.experimental import topologies

    generation, _, shape = where.name.partition(":")
    name = where.chip.kind if generation == "tpu7x" else generation
    options: dict[str, Any] = {}
    if generation == "v4":  # jax has one device per chip, but libtpu's default is two
        options["chip_config_name"] = "megacore"
    if where.chips == 1:  # fewer than on a host
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=f"{name}:{shape}", **options
        )
    except Exception as error:  # jax passes on whatever libtpu raises
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"plan.slice {where.name!r}: libtpu knows no such slice ({reason}); expected one that "
            "can be rented, such as v5e:4x4 or v5p:4x4x4"
        ) from error
    return list(found.devices)
