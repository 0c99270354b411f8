"""Checkpoints: bit-exact, onto another mesh, and whole or absent whatever interrupts them."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from safety_jax.base import meshes
from safety_jax.base.errors import CheckpointError
from safety_jax.training.checkpoint import Checkpoints, abstract
from safety_jax.training.steps import State

ROOT = Path(__file__).parents[1]


def make_state(mesh, dtype=jnp.bfloat16, rows=16, seed=0):
    """Sharded weights with special values, AdamW state, step, key: the state of a run."""
    bits = np.random.default_rng(seed).integers(0, 2**16, (rows, 8), dtype=np.uint16)
    kernel = jax.lax.bitcast_convert_type(jnp.asarray(bits), jnp.bfloat16).astype(dtype)
    kernel = kernel.at[0, :4].set(jnp.asarray([jnp.nan, jnp.inf, -0.0, 1e-40], dtype))
    weights = {
        "query": {"a": jax.device_put(kernel, meshes.sharding(mesh, ("embed", "heads")))},
        "norm": jax.device_put(jnp.ones(8), meshes.sharding(mesh, ("norm",))),
    }
    optimizer = jax.jit(optax.adamw(1e-3).init)(weights)
    replicated = meshes.sharding(mesh, ())
    key = jax.random.key_data(jax.random.key(7))
    return State(
        step=jax.device_put(jnp.int32(3), replicated),
        trainable=weights,
        optimizer=jax.device_put(optimizer, replicated),
        key=jax.device_put(key, replicated),
    )


def bits(tree):
    return jax.tree.map(lambda x: (str(x.dtype), x.shape, np.asarray(x).tobytes()), tree)


@pytest.fixture(scope="module")
def state(eight_devices):
    return make_state(eight_devices)


@pytest.fixture(scope="module")
def saved_once(tmp_path_factory, state):
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    with Checkpoints(folder, 2, "eval/loss") as checkpoints:
        checkpoints.save(3, state, {"next": 5, "parts": [1, None]}, {"loss": 0.1}, metric=2.5)
    return folder


@pytest.fixture
def saved(saved_once, tmp_path):
    return shutil.copytree(saved_once, tmp_path / "checkpoints")


def test_round_trip_is_bitwise_with_data_state_and_info(saved, state):
    with Checkpoints(saved, 2, "eval/loss") as checkpoints:
        restored, data_state, info = checkpoints.restore(3, abstract(state))
    assert bits(restored) == bits(state)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert (data_state, info) == ({"next": 5, "parts": [1, None]}, {"loss": 0.1})


@pytest.mark.parametrize("sizes", [(8, 1, 1), (1, 2, 4), (1, 1, 1)])
def test_restores_onto_another_mesh(saved, state, sizes):
    devices = jax.devices()[: int(np.prod(sizes))]
    target = abstract(make_state(meshes.build(*sizes, devices=devices), seed=1))
    with Checkpoints(saved, 2, None) as checkpoints:
        restored, _, _ = checkpoints.restore(3, target)
    assert bits(restored) == bits(state)
    for leaf, wanted in zip(jax.tree.leaves(restored), jax.tree.leaves(target), strict=True):
        assert leaf.sharding == wanted.sharding


def test_donated_state_does_not_reach_the_save_behind(tmp_path, eight_devices):
    state = make_state(eight_devices, jnp.float32, rows=4096)
    before = bits(state)
    target = abstract(state)
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    with Checkpoints(tmp_path / "c", 1, None) as checkpoints, jax.transfer_guard("disallow"):
        checkpoints.save(1, state, {}, {})
        for _ in range(20):
            state = step(state)
        jax.block_until_ready(state)
        restored, _, _ = checkpoints.restore(1, target)
    assert bits(restored) == before


def test_keeps_the_last_and_the_best(tmp_path, one_device):
    state = {"x": jnp.zeros(2)}
    losses = {1: 5.0, 2: 1.0, 3: 4.0, 4: 1.0, 5: float("nan"), 6: None, 7: 3.0}
    with Checkpoints(tmp_path / "c", 2, "eval/loss") as checkpoints:
        assert checkpoints.latest() is None and checkpoints.best() is None
        for step, loss in losses.items():
            assert checkpoints.save(step, state, {}, {}, metric=loss)
        assert not checkpoints.save(7, state, {}, {}, metric=0.0)
        assert (checkpoints.steps(), checkpoints.latest(), checkpoints.best()) == ([2, 6, 7], 7, 2)
    with Checkpoints(tmp_path / "c", 1, "eval/loss") as checkpoints:
        assert (checkpoints.latest(), checkpoints.best()) == (7, 2)
        checkpoints.save(8, state, {}, {}, metric=0.5)
        assert (checkpoints.steps(), checkpoints.best()) == ([8], 8)
    with Checkpoints(tmp_path / "c", 1, "eval/other") as checkpoints:
        assert checkpoints.best() is None


def test_without_a_metric_only_the_last_stay(tmp_path):
    with Checkpoints(tmp_path / "c", 2, None, asynchronous=False) as checkpoints:
        for step in range(4):
            checkpoints.save(step, {"x": jnp.zeros(2)}, {}, {}, metric=float(step))
        assert (checkpoints.steps(), checkpoints.best()) == ([2, 3], None)


def test_every_damaged_file_is_one_line_or_harmless(saved, state, tmp_path, capfd):
    """Truncates each file of the checkpoint in turn; a restore is exact or explains itself."""
    files = sorted(p.relative_to(saved) for p in (saved / "3").rglob("*") if p.is_file())
    explained = set()
    for number, file in enumerate(files):
        folder = shutil.copytree(saved, tmp_path / str(number))
        os.truncate(folder / file, (folder / file).stat().st_size // 2)
        try:
            with Checkpoints(folder, 2, None) as checkpoints:
                restored, _, _ = checkpoints.restore(3, abstract(state))
        except CheckpointError as error:
            explained.add(file.parts[1])
            assert f"{folder}/3 is damaged: " in str(error) and "remove that folder" in str(error)
            assert "\n" not in str(error) and len(str(error)) < 500
        else:
            assert bits(restored) == bits(state)
    assert explained == {"state", "data", "facts"}


def flip(file) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_flipped_bit_anywhere_is_found_and_an_earlier_checkpoint_used(tmp_path, capsys):
    folder = tmp_path / "checkpoints"
    state = {"x": jnp.arange(6.0)}
    with Checkpoints(folder, 3, "loss") as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state, {"next": step}, {}, metric=1.0)
    (tmp_path / "checkpoints.sha256" / "1.json").unlink()  # a kill came first: taken as it is
    files = sorted(p.relative_to(folder) for p in (folder / "3").rglob("*") if p.is_file())
    for number, file in enumerate(files):
        for name in ("checkpoints", "checkpoints.sha256"):
            shutil.copytree(tmp_path / name, tmp_path / str(number) / name)
        again = tmp_path / str(number) / "checkpoints"
        flip(again / file)
        with Checkpoints(again, 3, "loss") as checkpoints:
            with pytest.raises(CheckpointError, match=f"3 is damaged: {file.relative_to('3')}"):
                checkpoints.restore(3, abstract(state))
            assert checkpoints.newest_intact() == 2
            assert "3 is damaged" in capsys.readouterr().out
            assert checkpoints.restore(2, abstract(state))[1] == {"next": 2}
            assert checkpoints.save(3, state, {}, {})  # it is made again
    assert (again.with_name("checkpoints.damaged") / "3" / file.relative_to("3")).exists()


def test_a_damaged_metric_makes_no_checkpoint_the_best(tmp_path, capsys):
    folder = tmp_path / "checkpoints"
    with Checkpoints(folder, 3, "loss") as checkpoints:
        for step, loss in ((1, 2.5), (2, 9.5), (3, 8.5)):
            checkpoints.save(step, {"x": jnp.zeros(2)}, {}, {}, metric=loss)
        assert checkpoints.best() == 1
    facts = folder / "2/facts/metadata"
    facts.write_text(facts.read_text().replace("9.5", "0.5"))
    with Checkpoints(folder, 3, "loss") as checkpoints:
        assert checkpoints.best() == 1
    told = capsys.readouterr().out
    assert "2 is damaged (facts/metadata is not as it was written); whether it is the best" in told


def test_when_no_checkpoint_is_left_a_line_says_so(tmp_path):
    with Checkpoints(tmp_path / "checkpoints", 1, None) as checkpoints:
        assert checkpoints.newest_intact() is None
        checkpoints.save(5, {"x": jnp.zeros(2)}, {}, {})
    data = max((tmp_path / "checkpoints/5").rglob("*"), key=lambda path: path.stat().st_size)
    flip(data if data.is_file() else next((tmp_path / "checkpoints/5/state").glob("*META*")))
    with Checkpoints(tmp_path / "checkpoints", 1, None) as checkpoints:
        with pytest.raises(CheckpointError, match="every checkpoint is damaged"):
            checkpoints.newest_intact()
        assert checkpoints.newest_intact() is None


def test_sums_of_a_removed_checkpoint_do_not_condemn_the_next_of_its_step(tmp_path, monkeypatch):
    """It was removed, as a message advises, and the run is killed before new sums are there."""
    folder, state = tmp_path / "checkpoints", {"x": jnp.zeros(2)}
    with Checkpoints(folder, 1, None) as checkpoints:
        checkpoints.save(5, state, {}, {})
    shutil.rmtree(folder / "5")
    with Checkpoints(folder, 1, None) as checkpoints:
        monkeypatch.setattr(checkpoints._sums, "add", lambda step: None)
        checkpoints.save(5, {"x": jnp.ones(2)}, {}, {})
    with Checkpoints(folder, 1, None) as checkpoints:
        assert checkpoints.newest_intact() == 5
        assert checkpoints.restore(5, abstract(state))[0]["x"].tolist() == [1.0, 1.0]


def test_half_removed_checkpoint_does_not_stop_a_run(saved, state):
    """A kill while a superseded checkpoint is removed leaves some of its files."""
    (saved / "1" / "state").mkdir(parents=True)
    with Checkpoints(saved, 1, "eval/loss") as checkpoints:
        assert (checkpoints.latest(), checkpoints.best()) == (3, 3)
        checkpoints.save(4, state, {}, {}, metric=9.0)
        assert checkpoints.steps() == [3, 4]


def test_other_leaves_are_named(saved, state):
    weights = {"query": state.trainable["query"], "gate": state.trainable["norm"]}
    other = dataclasses.replace(state, trainable=weights, step=jnp.zeros((2, 3)))
    with Checkpoints(saved, 2, None) as checkpoints:
        with pytest.raises(CheckpointError) as error:
            checkpoints.restore(3, abstract(other))
    message = str(error.value)
    assert "trainable.gate is missing; trainable.norm is not expected" in message
    assert "step is int32[], expected float32[2,3]" in message
    assert "another --workdir" in message


def test_unknown_step_lists_those_there(saved, state):
    with Checkpoints(saved, 2, None) as checkpoints:
        with pytest.raises(CheckpointError, match="no checkpoint of step 4; there: 3$"):
            checkpoints.restore(4, abstract(state))


def test_folder_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="checkpoint folder .*file/c: .*another --workdir"):
        Checkpoints(tmp_path / "file" / "c", 1, None)


def test_keeping_none_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="at least 1"):
        Checkpoints(tmp_path, 0, None)


CHILD = """
import json, resource, signal, sys
import jax, jax.numpy as jnp
from safety_jax.training.checkpoint import Checkpoints
from safety_jax.base.errors import CheckpointError

folder, limit = sys.argv[1], int(sys.argv[2])
state = {"x": jax.random.normal(jax.random.key(0), (8_000_000,))}
try:
    with Checkpoints(folder, 1, None) as checkpoints:
        checkpoints.save(1, {"x": state["x"][:100]}, {"next": 1}, {})
        checkpoints.wait()
        if limit:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        for step in range(2, 1000):
            checkpoints.save(step, state, {"next": step}, {})
except CheckpointError as error:
    print(json.dumps(str(error)))
"""


def child(folder: Path, limit: int) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), str(limit)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def unfinished(folder: Path) -> list[str]:
    return [p.name for p in folder.glob("*") if not p.name.isdigit()] if folder.exists() else []


def test_kill_while_saving_leaves_the_checkpoint_before(tmp_path):
    folder = tmp_path / "c"
    with child(folder, 0) as process:
        while process.poll() is None and not (
            (folder / "1").exists() and any(name.startswith("2.") for name in unfinished(folder))
        ):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert unfinished(folder), "the save was over before the kill; make the state larger"
    with Checkpoints(folder, 1, None) as checkpoints:
        assert checkpoints.latest() == 1
        restored, data_state, _ = checkpoints.restore(1, abstract({"x": jnp.zeros(100)}))
        assert checkpoints.save(2, restored, {}, {})
        assert checkpoints.latest() == 2
    expected = jax.random.normal(jax.random.key(0), (8_000_000,))[:100]
    assert bits(restored) == bits({"x": expected}) and data_state == {"next": 1}
    assert unfinished(folder) == []


@pytest.mark.parametrize("limit", [1_000_000, 1])  # with one byte, Orbax fails in several places
def test_full_disk_is_one_line_and_earlier_checkpoints_stay(limit, tmp_path):
    """A limit on the size of a file fails a write as a full disk does, without root."""
    folder = tmp_path / "c"
    with child(folder, limit) as process:
        output, errors = process.communicate(timeout=120)
    message = json.loads(output)
    assert message.startswith(f"checkpoint {folder}/2 could not be written: ")
    assert "File too large; earlier checkpoints are intact" in message
    assert "Traceback" not in errors
    with Checkpoints(folder, 1, None) as checkpoints:
        assert checkpoints.steps() == [1]
        checkpoints.restore(1, abstract({"x": jnp.zeros(100)}))
