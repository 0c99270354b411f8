"""Rows that fit: what is chosen for which batches and memory, and what the formula is worth."""

import dataclasses

import numpy as np
import pytest

from safety_jax.training import fitting
from safety_jax.training.fitting import Fit, Needs, RowSettings
from safety_jax.training.footprint import FlopParts, TrainedModel, TrunkSizes

# SmolLM2-135M with adapters of rank 8 on queries and values.
TRUNK = TrunkSizes(
    layers=30, width=576, mlp_width=1536, heads=9, narrow=960, attended=576, gates=2, square=False,
    kernels=30 * (2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536),
)  # fmt: skip
MODEL = TrainedModel(
    TRUNK, weights=134_515_008, adapter_weights=460_800, vocabulary=49_152, chunk_tokens=128,
    base_bytes=4, number_bytes=4, sides=1,
)  # fmt: skip
ONE, EIGHT = FlopParts(1, 1, 1), FlopParts(8, 1, 1)
OPEN = RowSettings(None, None, None, most_row_tokens=512)


def choose(wanted=OPEN, batch=(100,) * 16, room=16.0, parts=ONE, longest=None, **changes):
    """The choice for batches like this one, with so many GiB."""
    lengths = np.array(batch)[:, None]
    needs = Needs([lengths], longest or int(lengths.max()), packing=True)
    model = dataclasses.replace(MODEL, **changes)
    return fitting.choose(wanted, needs, model, parts, memory=room * 2**30, platform="cpu")


def test_sixteen_short_examples_leave_no_microbatch_of_empty_rows():
    best = choose()
    needed = Needs([np.full((16, 1), 100)], 100, True).rows(best.fit.row_tokens)[0]
    assert needed % best.fit.rows_per_microbatch == 0
    assert best.fit.remat != "full" and best.empty < 0.25


def test_long_rows_of_short_examples_are_made_shorter():
    """Four examples of 100 tokens fill a fifth of a row of 2,048."""
    fit = choose(dataclasses.replace(OPEN, most_row_tokens=2048), batch=(100,) * 4).fit
    assert fit.row_tokens <= 512
    assert choose(dataclasses.replace(OPEN, row_tokens=2048), (100,) * 4).fit.row_tokens == 2048


def test_the_longest_example_fits_though_no_sampled_batch_has_it():
    assert choose(longest=500).fit.row_tokens == 512


def test_less_memory_means_fewer_rows_then_more_computed_again():
    rooms = (16.0, 2.0, 1.0, 0.8)
    found = [choose(RowSettings(None, 512, None, 512), (500,) * 16, room=room) for room in rooms]
    assert all(one.memory <= room * 2**30 for one, room in zip(found, rooms, strict=True))
    assert [fitting.REMATS.index(one.fit.remat) for one in found] == sorted(
        fitting.REMATS.index(one.fit.remat) for one in found
    )
    assert found[0].fit.rows_per_microbatch > found[-1].fit.rows_per_microbatch
    assert found[0].fit.remat != "full" == found[-1].fit.remat


def test_where_nothing_fits_the_least_is_tried():
    best = choose(room=0.01)
    assert best.fit.remat == "full" and best.fit.rows_per_microbatch == 1
    assert best.memory > 0.01 * 2**30


@pytest.mark.parametrize("examples", [1, 5, 16, 100])
def test_rows_are_a_multiple_of_the_devices_that_share_them(examples):
    assert choose(batch=(500,) * examples, parts=EIGHT).fit.rows_per_microbatch % 8 == 0


def test_what_is_given_is_kept():
    fit = choose(RowSettings(3, 512, "dots", 512)).fit
    assert fit == Fit(3, 512, "dots") == Fit.parse(str(fit))
    assert fitting.given(RowSettings(3, None, "full", 256)) == Fit(3, 256, "full")
    assert fitting.agreed(RowSettings(3, None, None, 512), Fit(8, 384, "none")) == Fit(
        3, 384, "none"
    )
