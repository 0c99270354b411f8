"""The loop on a toy model: cadence, a loss that is not finite, SIGTERM, resume."""

import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from safety_jax.base import meshes
from safety_jax.base.errors import DivergenceError
from safety_jax.training import loop, optim, steps
from safety_jax.training.checkpoint import Checkpoints


class Numbers:
    """Batch n holds the number n; the loss pulls w to it. Of the number -1, its gradient is NaN."""

    def __init__(self, poisoned: int = 0, signalled: int = 0, steep: int = 0):
        self.position, self.poisoned, self.signalled = 0, poisoned, signalled
        self.steep = steep

    def __next__(self):
        self.position += 1
        if self.position == self.signalled:
            os.kill(os.getpid(), signal.SIGTERM)
        value = np.nan if self.position == self.poisoned else float(self.position)
        value = -1.0 if self.position == self.steep else value
        batch = Numbers.Batch()
        batch.value, batch.row = value, f"numbers.jsonl row {self.position}"
        return batch

    class Batch:
        value: float
        row: str

    def get_state(self):
        return {"position": self.position}

    def set_state(self, state):
        self.position = state["position"]


@pytest.fixture
def run(one_device, tmp_path):
    """Trains w from 0 in `tmp_path`; returns the result and what was told."""
    optimizer = optax.adam(0.1)
    where = steps.shardings(
        {"w": jnp.zeros(1)}, {"w": meshes.sharding(one_device, (None,))}, optimizer, one_device
    )
    rate = optim.schedule("constant", learning_rate=0.1, warmup_steps=0, total_steps=9)

    def loss(trainable, frozen, batch, total, key):
        noise = 0.0 if key is None else jax.random.normal(key)
        root = jnp.sqrt(batch["x"] + 1 + 0 * trainable["w"]) - jnp.sqrt(batch["x"] + 1)  # is 0
        return {"loss": ((trainable["w"] - batch["x"] + noise) ** 2 + root).sum()}

    step = steps.make(loss, lambda batch: {"rows": jnp.float32(1)}, optimizer, rate, where)
    sharding = meshes.sharding(one_device, (None, None))

    def place(batch):
        values = jax.device_put(np.full((1, 1), batch.value, "f"), sharding)
        return {"x": values}, jax.device_put(np.int32(1), meshes.sharding(one_device, ()))

    on_record: dict[str, set[int]] = {}

    def train(batches, total, folder="checkpoints"):
        told, measured, evaluated = [], [], on_record.setdefault(folder, set())
        start = jax.device_put({"w": jnp.zeros(1)}, where.trainable)
        state = steps.initialize(start, optimizer, jax.random.key(0), where)
        with Checkpoints(tmp_path / folder, 1, "eval/loss") as checkpoints:
            state = loop.resume(checkpoints, state, batches)
            seat = loop.Seat(state)
            walk = loop.walk(
                seat,
                batches,
                evaluate=lambda trainable: {"eval/loss": abs(float(trainable["w"][0]) - 0.2)},
                rows=lambda batch: [batch.row],
                on_step=lambda number, metrics, tables, batch: told.append(
                    (number, metrics["loss"])
                ),
                on_evaluation=lambda number, metrics: measured.append(number),
                evaluated=evaluated,
                checkpoints=checkpoints,
                best_metric="eval/loss",
                cadence=loop.Cadence(total, 1, 4, 3),
            )
            result = loop.drive(walk, seat, {}, step=step, place=place)
            evaluated |= set(measured)
            return result, told, measured, checkpoints.steps()

    return train


def test_cadence(run):
    result, told, measured, kept = run(Numbers(), 8)
    assert [number for number, _ in told] == list(range(1, 9))
    assert measured == [3, 4, 6, 8]
    assert kept == [3, 8]  # the best (w near 0.2 after a few steps of 0.1) and the last
    assert not result.interrupted and int(result.state.step) == 8


def test_a_loss_that_is_not_finite_names_step_and_row(run):
    with pytest.raises(DivergenceError, match="loss is nan at step 5; rows .* numbers.jsonl row 5"):
        run(Numbers(poisoned=5), 8)
    # What was saved before is intact, and training goes on from there once the row is mended.
    result, told, _, _ = run(Numbers(), 8)
    assert told[0][0] == 4 and not result.interrupted


def test_weights_are_not_saved_after_a_gradient_that_is_not_finite(run):
    """The loss of that step still is: only the next one would show it."""
    with pytest.raises(DivergenceError, match="grad_norm is nan at step 6; rows .* row 6"):
        run(Numbers(steep=6), 8)
    result, told, _, _ = run(Numbers(), 8)
    assert told[0][0] == 4 and not result.interrupted


def test_sigterm_saves_and_a_second_start_ends_with_the_same_bits(run):
    whole, told, _, _ = run(Numbers(), 8, "whole")
    first, told_first, _, kept = run(Numbers(signalled=5), 8)
    assert first.interrupted and kept[-1] == int(first.state.step) == 5
    second, told_second, _, _ = run(Numbers(), 8)
    assert told_first + told_second == told
    np.testing.assert_array_equal(second.state.trainable["w"], whole.state.trainable["w"])
    for a, b in zip(*map(jax.tree.leaves, (second.state, whole.state)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_an_evaluation_that_a_stop_did_not_wait_for_is_made_up_for(run):
    _, told, measured, kept = run(Numbers(), 9, "whole")
    first, _, before, _ = run(Numbers(signalled=3), 9)
    assert first.interrupted and before == [] and measured[0] == 3
    again, _, after, stay = run(Numbers(), 9)
    assert after == measured and not again.interrupted
    # What was measured late counts: the best checkpoint stays, as in the whole run.
    assert stay == kept == [3, 9]


def test_a_stop_at_the_last_step_does_not_cut_off_its_evaluation(run):
    result, _, measured, _ = run(Numbers(signalled=8), 8)
    assert not result.interrupted and measured[-1] == 8
