"""How long a program takes at least, and at most if nothing overlaps, at published speeds.

Time is the longest of three: arithmetic at the chip's peak, traffic with its memory, exchanges over
its network. Where all three overlap perfectly the longest alone counts; where none does, their sum.
No kernel reaches the peak, so that real runs are slower than the first figure.
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
        """All overlaps."""
        return max(self.compute, self.memory, self.network)

    @property
    def worst(self) -> float:
        """Nothing overlaps."""
        return self.compute + self.memory + self.network

    @property
    def bound(self) -> str:
        """The resource that decides."""
        named = {"compute": self.compute, "memory": self.memory, "network": self.network}
        return max(named, key=lambda name: named[name])

    def mfu(self, seconds: float) -> float:
        """Model FLOPs over what the chips could do in `seconds`."""
        return self.model_flops / (seconds * self.peak)


def estimate(load: Load, network_seconds: float, where: Slice) -> Times:
    """The roofline of a program on a slice."""
    chip = where.chip
    # A load is of one device; a chip of two devices has each figure twice.
    return Times(
        compute=load.flops / (chip.flops / chip.devices),
        memory=load.traffic / (chip.bandwidth / chip.devices),
        network=network_seconds,
        tokens=load.tokens,
        model_flops=load.model_flops,
        peak=chip.flops * where.chips,
    )


def price(times: Times, where: Slice, per_chip_hour: float) -> tuple[float, float]:
    """What a million tokens cost, at best and at worst, at a price of one chip for an hour."""
    per_second = per_chip_hour * where.chips / 3600
    scale = 1e6 / times.tokens
    return times.best * scale * per_second, times.worst * scale * per_second
