"""Chips and slices: published figures, the network between them, and the roofline on paper."""

import pytest

from safety_jax.base.errors import ConfigError
from safety_jax.planning import chips, formulas, roofline, sizes
from safety_jax.training.footprint import FlopParts


@pytest.mark.parametrize(
    ("name", "chips_there", "devices"),
    [
        ("v5e:4x4", 16, 16),
        ("v5p:4x4x12", 192, 192),
        ("tpu7x:2x2x1", 4, 8),
        ("H100:8", 8, 8),
        ("h100:3", 3, 3),
    ],
)
def test_slices_by_name(name, chips_there, devices):
    found = chips.parse_slice(name)
    assert (found.chips, found.devices) == (chips_there, devices)


@pytest.mark.parametrize(
    "name",
    ["v5e", "v5e:4", "v5p:4x4", "h100:2x4", "v5e:4x0", "v9:4x4", "v5e:3x3", "v6e:1x2", "v5p:4x4x6"],
)
def test_a_slice_that_is_none_is_one_line(name):
    with pytest.raises(ConfigError, match="plan.slice") as error:
        chips.parse_slice(name)
    assert "\n" not in str(error.value) and name in str(error.value)


def test_published_figures():
    peaks = {name: chip.flops / 1e12 for name, chip in chips.CHIPS.items()}
    assert peaks["v5e"] == 197 and peaks["v6e"] == 918 and peaks["tpu7x"] == 2307
    assert all(chip.source for chip in chips.CHIPS.values())
    assert chips.CHIPS["v5e"].memory == 15.75 * 2**30


def test_a_group_hears_others_over_the_axes_that_it_spans():
    # 400 GB/s both ways over two axes: 100 GB/s each way an axis, half where it is no ring.
    small, whole = chips.parse_slice("v5e:4x4"), chips.parse_slice("v5e:16x16")
    assert small.network(16) == 100e9 and small.network(4) == 50e9
    assert whole.network(256) == 200e9 and whole.network(16) == 100e9
    nodes = chips.parse_slice("h100:16")
    assert nodes.network(8) == 450e9 and nodes.network(16) == 50e9


def test_gpus_that_lie_apart_are_in_different_nodes():
    where = chips.parse_slice("h100:64")
    assert where.network(8, 8) == where.network(2, 8) == 50e9 and where.network(2, 4) == 450e9
    # fsdp 8 x tensor 8: each node is a tensor group, and each device of a fsdp group is in another.
    model = sizes.read("llama3-70b")

    def speeds(tensor):
        found = formulas.exchanged(
            model, FlopParts(64 // tensor, 64, tensor), width=2, tokens=1024, passes=2, repeats=1,
            reduced=1000, kernel_bytes=2.0,
        )  # fmt: skip
        return {group: where.network(*group) for group in found}

    assert speeds(8) == {(8, 8): 50e9, (8, 1): 450e9}
    assert speeds(2) == {(32, 2): 50e9, (2, 1): 450e9}
    # A mesh of a TPU slice is laid out along its network.
    assert chips.parse_slice("v5e:4x4").network(4, 4) == 50e9


def test_roofline_on_paper():
    where = chips.parse_slice("v5e:4x4")
    # 197 TFLOP and 819 GB take a second each; 50 GB within a group of 4 another.
    load = formulas.Load(16 * 98.5e12, 197e12, 0.5 * 819e9, 1000)
    seconds = formulas.network_seconds({chips.Group(4): 12.5e9}, where)
    times = roofline.estimate(load, seconds, where)
    assert (times.compute, times.memory, times.network) == (1.0, 0.5, 0.25)
    assert (times.best, times.worst, times.bound) == (1.0, 1.75, "compute")
    assert times.mfu(times.best) == 0.5 and times.mfu(times.worst) == pytest.approx(0.5 / 1.75)
    # 16 chips at 2 an hour: 1.75 s are 0.0156 for 1,000 tokens.
    assert roofline.price(times, where, 2.0) == pytest.approx((8.889, 15.556), abs=1e-3)


def test_two_devices_of_a_chip_share_it():
    where = chips.parse_slice("tpu7x:4x4x4")
    load = formulas.Load(1.0, 1153.5e12, 7380e9 / 2, 1)
    times = roofline.estimate(
        load, formulas.network_seconds({chips.Group(128): 300e9}, where), where
    )
    assert times.compute == times.memory == times.network == 1.0
