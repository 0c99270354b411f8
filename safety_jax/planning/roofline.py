"""The time of a program at published speeds: the least, and the time if nothing overlaps.

Three things take time: arithmetic at the chip's peak, traffic with its memory, and exchanges over
its network. If they overlap perfectly, only the longest counts; if nothing overlaps, their sum. No
kernel reaches the peak, so real runs are slower than the first figure.
"""

import dataclasses

from safety_jax.planning.chips import Slice
from safety_jax.planning.formulas import Load


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of one run of a program.

    Attributes:
        compute, memory, network: of each resource alone.
        tokens, model_flops: see `formulas.Load`.
        peak: FLOP/s of all chips together.
    """

    compute: float
    memory: float
    network: float
    tokens: int
    model_flops: float
    peak: float

    @property
    def best(self) -> float:
        """Seconds if everything overlaps."""
        return max(self.compute, self.memory, self.network)

    @property
    def worst(self) -> float:
        """Seconds if nothing overlaps."""
        return self.compute + self.memory + self.network

    @property
    def bound(self) -> str:
        """The resource that takes longest."""
        named = {"compute": self.compute, "memory": self.memory, "network": self.network}
        return max(named, key=lambda name: named[name])

    def mfu(self, seconds: float) -> float:
        """Model FLOPs divided by the chips' peak FLOPs in `seconds`."""
        return self.model_flops / (seconds * self.peak)


def estimate(load: Load, network_seconds: float, where: Slice) -> Times:
    """The roofline of a program on a slice."""
    chip = where.chip
    # A load is for one device; the figures of a chip are divided among its devices.
    return Times(
        compute=load.flops / (chip.flops / chip.devices),
        memory=load.traffic / (chip.bandwidth / chip.devices),
        network=network_seconds,
        tokens=load.tokens,
        model_flops=load.model_flops,
        peak=chip.flops * where.chips,
    )


def price(times: Times, where: Slice, per_chip_hour: float) -> tuple[float, float]:
    """The price of a million tokens, at best and at worst, by the price of a chip for an hour."""
    per_second = per_chip_hour * where.chips / 3600
    scale = 1e6 / times.tokens
    return times.best * scale * per_second, times.worst * scale * per_second
