"""Rows that fit: what is chosen for which batches and memory, and what the formula is worth."""

import dataclasses

import jax
import numpy as np
import pytest

from configs import sft
from safety_jax.base import memory
from safety_jax.base.errors import ConfigError
from safety_jax.data.prefixes import Shared
from safety_jax.stages import fits
from safety_jax.training import fitting, workdir
from safety_jax.training.fitting import Fit, Needs, RowSettings
from safety_jax.training.footprint import FlopParts, TrainedModel, TrunkSizes
from tests.planned_runs import asked, programs

# SmolLM2-135M with adapters of rank 8 on queries and values.
TRUNK = TrunkSizes(
    layers=30, width=576, mlp_width=1536, heads=9, narrow=960, attended=576, gates=2, square=False,
    kernels=30 * (2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536),
)  # fmt: skip
MODEL = TrainedModel(
    TRUNK, weights=134_515_008, adapter_weights=460_800, vocabulary=49_152, chunk_tokens=128,
    base_bytes=4.0, number_bytes=4, sides=1,
)  # fmt: skip
ONE, EIGHT = FlopParts(1, 1, 1), FlopParts(8, 1, 1)
OPEN = RowSettings(None, None, None, most_row_tokens=512)


def needs_of(lengths, longest=None):
    return Needs(lengths, [np.arange(len(lengths))], longest or int(lengths.max()), packing=True)


def choose(wanted=OPEN, batch=(100,) * 16, room=16.0, parts=ONE, longest=None, **changes):
    """The choice for batches like this one, with so many GiB."""
    lengths = np.array(batch)[:, None]
    needs = needs_of(lengths, longest or int(lengths.max()))
    model = dataclasses.replace(MODEL, **changes)
    return fitting.choose(wanted, needs, model, parts, memory=room * 2**30, platform="cpu")


def test_sixteen_short_examples_leave_no_microbatch_of_empty_rows():
    best = choose()
    needed = needs_of(np.full((16, 1), 100)).packed(best.fit.row_tokens).rows[0]
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


@pytest.mark.parametrize(("number_bytes", "chosen"), [(4, "none"), (2, "dots")])
def test_a_cpu_keeps_16_bits_by_name_alone(number_bytes, chosen):
    """Long rows, whose attention the second forward pass would pay for."""
    wanted = RowSettings(None, 4096, None, 4096)
    assert choose(wanted, (4000,) * 4, number_bytes=number_bytes).fit.remat == chosen


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


# ---------------------------------------------------------------------------- what a run remembers


@pytest.fixture
def open_config():
    return sft.get_config()


def fill(config, mesh, folder, room, monkeypatch):
    """What a start with so many GiB of memory takes."""
    monkeypatch.setattr(memory, "at_hand", lambda _: memory.Room(room * 2**30, "of a test"))
    config = config.copy_and_resolve_references()
    with workdir.prepare(folder, config) as place:
        fits.fill_unseen(config, MODEL, mesh, place)
        (folder / "metrics.jsonl").write_text("{}\n")  # a start that came to something
    return config.train.rows_per_microbatch, config.data.row_tokens, config.model.remat


def test_a_run_goes_on_as_it_began_whatever_memory_it_finds(
    open_config, one_device, eight_devices, tmp_path, monkeypatch, capsys
):
    first = fill(open_config, one_device, tmp_path, 64.0, monkeypatch)
    assert "GiB of 64.00 (of a test)" in capsys.readouterr().out
    assert fill(open_config, one_device, tmp_path, 0.9, monkeypatch) == first
    assert "as at the start of this run" in capsys.readouterr().out
    # Another mesh is another choice, and so is another run.
    assert fill(open_config, eight_devices, tmp_path, 8.0, monkeypatch)[0] % 8 == 0
    assert fill(open_config, one_device, tmp_path / "new", 0.9, monkeypatch) != first
    assert "warning" not in capsys.readouterr().out


def test_what_the_config_says_holds_against_what_is_remembered(
    open_config, one_device, tmp_path, monkeypatch
):
    _, row_tokens, _ = fill(open_config, one_device, tmp_path, 64.0, monkeypatch)
    open_config.model.remat = "full"
    open_config.train.rows_per_microbatch = 3
    assert fill(open_config, one_device, tmp_path, 64.0, monkeypatch) == (3, row_tokens, "full")


def test_a_damaged_memory_is_one_line(open_config, one_device, tmp_path, monkeypatch):
    fill(open_config, one_device, tmp_path, 64.0, monkeypatch)
    file = tmp_path / "identity.json"
    file.write_text(file.read_text().replace("tokens, remat", "tokens and"))
    with pytest.raises(ConfigError, match="expected a value like .* restore the file"):
        fill(open_config, one_device, tmp_path, 64.0, monkeypatch)


# ---------------------------------------------------------------------------- memory at hand


def test_memory_of_a_cpu_is_shared_by_its_devices():
    room = memory.at_hand(jax.devices())
    whole = memory.at_hand(jax.devices()[:1])
    assert 0 < room.bytes < whole.bytes < 2**50
    assert "left on" in room.source


@pytest.mark.parametrize(
    ("lines", "files", "expected"),
    [
        ("0::/a/b\n", {"a/memory.max": 1000, "a/memory.current": 600, "a/b/memory.max": "max",
                       "a/b/memory.current": 10}, 430),
        ("4:memory:/x\n0::/\n", {"memory/x/memory.limit_in_bytes": 900,
                                 "memory/x/memory.usage_in_bytes": 100}, 830),
        ("0::/a\n", {"a/memory.max": "max", "a/memory.current": 1}, None),
        ("", {}, None),
    ],
)  # fmt: skip
def test_a_cgroup_leaves_what_its_limits_and_those_around_it_leave(
    lines, files, expected, tmp_path
):
    (tmp_path / "cgroup").write_text(lines)
    for name, value in files.items():
        file = tmp_path / "root" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{value}\n")
        (file.parent / "memory.stat").write_text("anon 5\ninactive_file 30\n")
    assert memory.left_by_cgroup(tmp_path / "root", tmp_path / "cgroup") == expected


# ---------------------------------------------------------------------------- the formula


@pytest.mark.parametrize("remat", ["none", "full"])
def test_a_compiled_step_takes_no_more_than_the_formula_and_its_margin(remat, config, one_device):
    config = dataclasses.replace(config, vocabulary_size=512, width=64, mlp_width=160, layers=8)
    run = asked(
        "sft", config, "v5e:1x1", list(one_device.devices.flat), (1, 1, 1), model__remat=remat,
        model__compute_dtype="float32", model__parameter_dtype="float32", data__max_length=256,
        train__batch_size=8, train__rows_per_microbatch=4, train__chunk_tokens=32,
    )  # fmt: skip
    (program,) = programs(run)
    found = program.lower().compile().memory_analysis().temp_size_in_bytes
    assert program.temporaries / 3 < found < fitting.MARGIN * program.temporaries


def test_rows_that_share_an_opening_by_hand():
    """Of 8 x 30 tokens behind 20 common ones, rows of 128 hold three each."""
    shared = Shared(np.full(8, 20), row_tokens=128, saved=0.25, opening=True)
    needs = Needs(np.full((8, 1), 50), [np.arange(8)], 50, True, lambda row_tokens: shared)
    found = needs.packed(128)
    assert found.rows.tolist() == [3]
    assert (found.tokens, found.row_tokens, found.rows_per_example) == (8 * 30 + 3 * 20, 128, 1)
